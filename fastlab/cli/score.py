"""fastlab calibrate and fastlab score: an estimate to trust, and how far."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli.points import device_option, echo_table, main, say

if TYPE_CHECKING:
    from fastlab.latency.devices import Device
    from fastlab.latency.samples import Sample
    from fastlab.record import Record
    from fastlab.scores.scoreboard import Scoreboard
    from fastlab.sweeps.lines import BadLine

SHOWN = 10  # reasons for skipping a row that are listed one by one

CLAIMED = 85  # % of rows within intervals that promise 90
CROWDED = (
    "do not trust this profile, which serves ten minutes; close other programs (`top` "
    "lists them) and calibrate again"
)


@main.command()
@device_option
@click.option("--quick", is_flag=True, help="peak, bandwidth and launches only")
@click.option("--show", is_flag=True, help="only print what is kept")
@click.option(
    "--for",
    "sweep",
    type=click.Path(exists=True, dir_okay=False),
    help="only what the points of this sweep file need, if it is not kept: 15 s",
)
@click.option("--out", type=click.Path(), help="also write profile and samples here")
def calibrate(
    device: str, quick: bool, show: bool, sweep: str | None, out: str | None
) -> None:
    """Measure this machine, so that estimates are of it; about a minute a precision.

    At most 100 microbenchmarks for each precision are timed and fitted. Estimates and
    `fastlab score` use the profile from then on.
    """
    from fastlab.clock.calibrate import this_device

    if sweep and (quick or show):
        raise ValueError("--for calibrates on its own: leave --quick and --show away")
    if out and (quick or show or sweep):
        other = "--quick" if quick else "--show" if show else "--for"
        raise ValueError(f"--out {out} is for whole calibrations: leave {other} away")
    if out and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(
            f"--out {out} is a file: name a folder for profile and samples"
        )
    if show and quick:
        raise ValueError("--show only prints what is kept: leave --quick away")
    if show or quick:
        profile = this_device(device, refresh=quick)
        click.echo(json.dumps(profile.to_dict(), indent=1))
    else:
        profile = _calibrate(device, out, sweep)
    if profile.busy:
        click.echo(f"{profile.busy}: {CROWDED}", err=True)


def _calibrate(device: str, out: str | None, sweep: str | None = None) -> Device:
    """Calibrate, keep the profile, and show what was fitted.

    For the points of a sweep file only if what is kept does not serve them.
    """
    import pandas as pd
    from tqdm import tqdm

    from fastlab import machine
    from fastlab.clock.calibrate import keep, kept
    from fastlab.clock.fitting import calibrate_fully
    from fastlab.clock.needed import serves
    from fastlab.sweeps.files import read_sweep

    points = read_sweep(sweep).points if sweep else []
    known = kept(machine.torch_device(device)) if sweep else None
    if known and serves(known, points):
        click.echo(f"{known.name} is calibrated for {sweep}: {known.profile}", err=True)
        return known
    bar: Any = partial(tqdm, unit="operation", disable=None)
    profile, samples = calibrate_fully(device, bar, points=points)
    path = keep(profile)
    if out:
        _write(Path(out), profile, samples)
    assert profile.fits is not None
    rows = [
        {"class": f.kind, "precision": f.precision, "points": f.count}
        | {name: f"{value:.3g}" for name, value in f.parameters.items()}
        for f in profile.fits.fits
    ]
    click.echo(f"{profile.name}: {profile.fits.seconds:.0f} s, {profile.profile}")
    if not sweep:
        echo_table(pd.DataFrame(rows))
    click.echo(f"kept in {path}", err=True)
    return profile


def _write(folder: Path, profile: Device, samples: list[Sample]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.json").write_text(json.dumps(profile.to_dict(), indent=1) + "\n")
    lines = ",\n".join(json.dumps(asdict(sample)) for sample in samples)
    (folder / "samples.json").write_text(f"[\n{lines}\n]\n")


@main.command()
@click.argument(
    *("folder",), metavar="ROWS", required=False, type=click.Path(exists=True)
)
@click.option(
    "--published",
    is_flag=True,
    help="the prior of GPUs; ROWS = a folder of public timings, or none: stored scores",
)
@click.option("--holdout", default="hidden", show_default=True, help="left out in turn")
@click.option("--model", default="auto", show_default=True, help="model of latency")
def score(folder: str | None, published: bool, holdout: str, model: str) -> None:
    """How far off are estimates of the rows in a store that nothing was fitted to?

    Whole values of hidden, seq, batch, layers or family are left out in turn; "rows"
    leaves out every tenth row, to compare. The last line is for machines.
    """
    if published:
        _score_published(folder)
        return
    if folder is None or not Path(folder).is_dir():
        raise click.UsageError(f"ROWS={folder or ''!r} must be a folder of rows")
    from fastlab.scores.scoreboard import score as scored
    from fastlab.sweeps.store import Store

    lines: list[BadLine] = []
    records = [*Store(folder).each(samples=False, bad=lines)]
    bad = [f"{b.file} line {b.line}: {b.why}" for b in lines]
    if not records:
        raise ValueError(f"{folder} holds no rows{_rows_elsewhere(Path(folder), bad)}")
    device = _profile_for(Path(folder), records)
    board = scored(records, device, holdout, model)
    skipped = [*bad, *board.skipped]
    for reason in skipped[:SHOWN]:
        say(f"skipped {reason}", err=True)
    if len(skipped) > SHOWN:
        click.echo(f"skipped {len(skipped) - SHOWN} more", err=True)
    _echo_board(board)
    if device.trust:
        click.echo(device.trust, err=True)


def _score_published(folder: str | None) -> None:
    """The scores of the prior on public timings: a folder's, or those kept with it."""
    import pandas as pd

    from fastlab.latency.prior import stored

    if folder is None:
        scores = stored()["scores"]
        click.echo("stored scores, made when the prior was fitted; none is made anew")
    else:
        scores = _published(Path(folder))
    rows = pd.DataFrame(scores).rename(columns={"inside": "% inside"})
    whole = rows["of"] == "all"
    echo_table(rows[whole].drop(columns="of"), "measured / estimated - 1, in %")
    echo_table(rows[~whole], "by GPU, and by what bounds an operation")


def _published(folder: Path) -> list[dict[str, Any]]:
    """The scores of a folder's timings, which a program of the checkout makes."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "benchmarks.score_prior", str(folder.resolve())]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2])
    click.echo(done.stderr, err=True, nl=False)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _rows_elsewhere(folder: Path, bad: list[str]) -> str:
    """What was wrong with a folder's lines, or the folders in it that have rows."""
    if bad:
        return "".join(f"; {line}" for line in bad[:3])
    inside = sorted({str(path.parent) for path in folder.glob("*/*.jsonl")})
    return f"; folders in it that do: {', '.join(inside)}" if inside else ""


def _profile_for(folder: Path, records: list[Record]) -> Device:
    """The profile beside the rows, or this machine's own if the rows are from here."""
    from fastlab.clock.calibrate import this_device
    from fastlab.latency.devices import Device
    from fastlab.machine import device_name, torch_device

    path, name = folder / "profile.json", records[0].device
    if path.exists():
        try:
            return Device.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no profile of a device: {error}") from None
    for kind in (torch_device(), "cpu"):
        if name == device_name(kind):
            return this_device(kind)
    raise ValueError(
        f"the rows are of {name}, not of this machine, and {path} does not exist: "
        "write it there with `fastlab calibrate --out`"
    )


def _echo_board(board: Scoreboard) -> None:
    import pandas as pd

    for title, rows, other in (
        (f"{board.holdout} held out, absolute error in %", board.methods, "spearman"),
        ("the first method, by group", board.groups, "spearman"),
        ("speed-ups: error of the predicted ratio in %", board.speedups, "bias"),
    ):
        echo_table(pd.DataFrame(rows).drop(columns=other, errors="ignore"), title)
    click.echo(f"\n{board.coverage:.0f} % of rows lie within their interval", nl=False)
    click.echo(f", whose median half-width is {board.half_width:.0f} %")
    verdict = ": too narrow" if board.alone_coverage < CLAIMED else ""
    click.echo(
        f"With no row used: {board.alone_coverage:.0f} %, half-width "
        f"{board.alone_half_width:.0f} %{verdict}"
    )
    click.echo(board.line)

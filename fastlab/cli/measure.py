"""fastlab measure, sweep and table: rows, and the stores that keep them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli import points as given
from fastlab.cli.points import device_option, echo_table, main, shown, students_option
from fastlab.cli.stores import mix_hosts_option
from fastlab.record import Record, write_atomically
from fastlab.spec import Point

if TYPE_CHECKING:
    from fastlab.clock.measure import Bench
    from fastlab.sweeps.store import Store

TEXT_HELP = "text file that judges trained weights [Python's own library]"


@main.command()
@given.point_options
@device_option
@click.option("--store", "folder", type=click.Path(), help="keep the rows here")
@click.option("--budget-s", type=float, help="seconds of sampling per point")
@click.option("--target", type=float, help="wanted interval, 0.01 = 1 %")
@click.option("--text", multiple=True, help=TEXT_HELP)
@students_option
@click.option("--json", "as_json", is_flag=True, help="records as JSON lines")
def measure(
    device: str,
    folder: str | None,
    text: Any,
    students: str | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Estimate and time points on this machine."""
    asked = {name: rest.pop(name) for name in ("budget_s", "target")}
    settings = {name: value for name, value in asked.items() if value is not None}
    points, source = given.points_from(rest), given.source_of(rest)
    bench = given.bench_of(device, source, text, students, settings)
    records = _measured(points, folder, bench)
    if as_json:
        for record in records:
            click.echo(json.dumps(record.to_dict(), sort_keys=True))
    else:
        from fastlab.rows import table

        echo_table(shown(table(records)))
    sys.exit(int(any(record.status == "error" for record in records)))


def _measured(points: list[Point], folder: str | None, bench: Bench) -> list[Record]:
    """Records of the points; in a store only the missing ones are measured."""
    from fastlab.sweeps.run import measured, rows_of, terminal_progress
    from fastlab.sweeps.store import Store

    if folder is None:
        return [bench.measure(point) for point in terminal_progress(points)]
    store = Store(folder)
    list(measured(points, store, bench, terminal_progress))
    return rows_of(points, store, bench)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--store", "folder", type=click.Path(), required=True)
@device_option
@click.option("--dry-run", is_flag=True, help="say what is left to do, and stop")
@click.option("--for-s", type=float, help="start no point after so many seconds")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="measurements of each point, all once before any again; the middle counts",
)
@click.option("--shard", default="1/1", help="i/n: only this share of the points")
@mix_hosts_option
@students_option
def sweep(
    file: str, folder: str, device: str, dry_run: bool, for_s: float | None, **how: Any
) -> None:
    """Measure all points of a sweep FILE that the store does not have yet.

    The same command after an interruption goes on where it stopped.
    """
    from fastlab.sweeps.files import read_sweep
    from fastlab.sweeps.keeping import check_host
    from fastlab.sweeps.run import plan
    from fastlab.sweeps.store import Store

    if for_s is not None and (dry_run or not for_s > 0):
        raise ValueError(f"--for-s {for_s:g} must be above 0, and without --dry-run")
    wanted, store = read_sweep(file, how["shard"]), Store(folder)
    check_host(store, how["mix_hosts"])
    given.echo_left_out(wanted.left_out)
    trained, text, rounds = wanted.trained, wanted.text, how["rounds"]
    bench = given.bench_of(device, trained, text, how["students"], wanted.settings)
    done = store.done(bench.name, bench.settings.to_dict(), rounds)
    left = plan(wanted.points, done, bench)
    here = f"{len(wanted.points) - len(left)} of {len(wanted.points)} points"
    often = f", {rounds} times each" if rounds > 1 else ""
    click.echo(f"{wanted.about}\n{bench.name}: {here} are in {folder}{often}", err=True)
    if not dry_run:
        _run_sweep(wanted.points, store, bench, for_s or float("inf"), rounds)


def _run_sweep(
    points: list[Point], store: Store, bench: Bench, for_s: float, rounds: int
) -> None:
    from fastlab.rows import table
    from fastlab.sweeps.keeping import write_table
    from fastlab.sweeps.run import measured, rows_of, tally, terminal_progress

    again = "Go on: " + " ".join(["fastlab", *sys.argv[1:]])
    began, fresh = time.monotonic(), []
    try:
        for record in measured(points, store, bench, terminal_progress, rounds):
            fresh.append(record)
            if time.monotonic() - began > for_s:
                click.echo(f"\nstopped after {for_s:g} s. {again}", err=True)
                break
    except KeyboardInterrupt:
        click.echo(f"\nstopped; every finished row is kept. {again}", err=True)
        sys.exit(130)
    rows = rows_of(points, store, bench)
    path = store.folder / "table.csv"
    envs = store.envs()
    write_table(table(rows, envs), path)
    # each environment that wrote to this store
    told = json.dumps({"environments": envs}, indent=1) + "\n"
    write_atomically(store.folder / "run.json", lambda fresh: fresh.write_text(told))
    click.echo(f"measured now: {tally(fresh)}; in all: {tally(rows)}; table: {path}")
    if any(record.status == "error" for record in rows):
        sys.exit(1)

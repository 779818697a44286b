"""fastlab measure, sweep and table: rows, and the stores that keep them."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fastlab.cli import points as given
from fastlab.cli.points import device_option, echo_table, main, shown, students_option
from fastlab.record import DIED, Record
from fastlab.spec import Point

if TYPE_CHECKING:
    from fastlab.clock.measure import Bench
    from fastlab.sweeps.files import SweepFile
    from fastlab.sweeps.isolation import Workers
    from fastlab.sweeps.plan import Rerun, Target
    from fastlab.sweeps.store import Store

BAD = ("error", *DIED)  # statuses that end a command with 1
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
@click.option(
    "--isolation",
    default="worker",
    show_default=True,
    help="worker: one process measures, replaced where it hangs or dies; process: a "
    "new one for each point; inline: this one",
)
@click.option("--timeout-s", type=float, help="a point that takes longer is killed")
@click.option("--rerun", default="", help="failed, all or FIELD=VALUE: measured anew")
@students_option
def sweep(file: str, folder: str, device: str, dry_run: bool, **how: Any) -> None:
    """Measure all points of a sweep FILE that the store does not have yet.

    The same command after an interruption goes on where it stopped.
    """
    from fastlab.sweeps.files import read_sweep
    from fastlab.sweeps.isolation import bench_in
    from fastlab.sweeps.plan import rerun
    from fastlab.sweeps.store import Store

    for name in ("for_s", "timeout_s"):
        if how[name] is not None and not (how[name] > 0 and not dry_run):
            flag = f"--{name.replace('_', '-')} {how[name]:g}"
            raise ValueError(f"{flag} must be above 0, and without --dry-run")
    deadline = time.monotonic() + (how["for_s"] or math.inf)
    wanted, store = read_sweep(file), Store(folder)
    given.echo_left_out(wanted.left_out)
    work = _Sweep(wanted, store, how["rounds"], rerun(how["rerun"], wanted.points))
    if dry_run:
        work.tell(_target(device, wanted.settings), plan=True)
        return
    asked = wanted.trained, wanted.text, how["students"], wanted.settings
    limits = {"timeout_s": how["timeout_s"], "deadline": deadline}
    isolated = bench_in(how["isolation"], given.bench_of, device, *asked, **limits)
    with _stopped_in_words(), isolated as bench:
        work.tell(bench)
        work.run(bench, deadline)


def _target(device: str, settings: Any) -> Target:
    """This machine's device, with a profile only if it was calibrated before."""
    from fastlab import machine
    from fastlab.clock.calibrate import kept
    from fastlab.clock.timing import Settings
    from fastlab.sweeps.plan import Target

    kind = machine.torch_device(device)
    timing = Settings.for_device(kind, **settings)
    return Target(machine.device_name(kind), timing, kept(kind))


@contextmanager
def _stopped_in_words() -> Iterator[None]:
    """Ctrl-C and SIGTERM end it with 130 and 143, and say how it goes on."""
    status = 130

    def stop(*_: object) -> None:
        nonlocal status
        status = 143
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nstopped; every finished row is kept. {_go_on()}", err=True)
        sys.exit(status)
    finally:
        signal.signal(signal.SIGTERM, before)


def _go_on() -> str:
    return "Go on: " + " ".join(["fastlab", *sys.argv[1:]])


class _Sweep(NamedTuple):
    wanted: SweepFile
    store: Store
    rounds: int
    again: Rerun | None

    def tell(self, bench: Any, plan: bool = False) -> None:
        """Say how much is done; plan: also what is left, and for how long."""
        from fastlab.sweeps.plan import left

        points, how = self.wanted.points, bench.settings.to_dict()
        seen = self.store.seen(bench.name, how, self.rounds)
        todo = left(points, seen, bench, self.again)
        here = f"{len(points) - len(todo)} of {len(points)} points are in"
        often = f", {self.rounds} times each" if self.rounds > 1 else ""
        words = f"{self.wanted.about}\n{bench.name}: {here} {self.store.folder}{often}"
        click.echo(words, err=True)
        if plan:
            spent = sum(map(bench.expected_s, todo)) * self.rounds
            lines = [point.label for point in todo]
            if lines and math.isfinite(spent):
                lines.append(f"at most {timedelta(seconds=round(spent))} left")
            click.echo("\n".join(lines))

    def run(self, bench: Bench | Workers, deadline: float) -> None:
        """Measure, and write the table; exit status 1 where a point has no row."""
        from fastlab.rows import table
        from fastlab.sweeps.isolation import OutOfTime
        from fastlab.sweeps.run import measured, rows_of, tally, terminal_progress

        points, store, fresh = self.wanted.points, self.store, []
        how = terminal_progress, self.rounds, self.again
        try:
            for record in measured(points, store, bench, *how):
                fresh.append(record)
                if time.monotonic() > deadline:
                    raise OutOfTime
        except OutOfTime:
            click.echo(f"\nstopped, as the time is up. {_go_on()}", err=True)
        rows = rows_of(points, store, bench)
        path = store.folder / "table.csv"
        table(rows).to_csv(path, index=False)
        # each environment that wrote to this store
        environments = json.dumps({"environments": store.envs()}, indent=1)
        (store.folder / "run.json").write_text(environments + "\n")
        click.echo(
            f"measured now: {tally(fresh)}; in all: {tally(rows)}; table: {path}"
        )
        if bad := [record for record in rows if record.status in BAD]:
            echo_table(shown(table(bad)), "without a measurement")
            sys.exit(1)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--csv", "csv", type=click.Path(), help="write all columns here")
def table(folder: str, csv: str | None) -> None:
    """The rows of a store, and the lines of it that could not be read."""
    from fastlab.rows import table as tabulate
    from fastlab.sweeps.store import Store

    store = Store(folder)
    if not any(store.folder.glob("*.jsonl")):
        raise ValueError(f"{folder} is no store: it has no .jsonl file")
    rows, health = tabulate(store.records(samples=False)), store.health()
    if csv:
        rows.to_csv(csv, index=False)
    echo_table(shown(rows))
    for bad in health.bad:
        click.echo(f"skipped {bad.file} line {bad.line}: {bad.why}", err=True)
    for name in health.torn:
        click.echo(f"torn tail kept aside: {name}", err=True)

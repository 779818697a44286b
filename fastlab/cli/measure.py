"""fastlab measure, sweep and table: rows, and the stores that keep them."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from contextlib import closing
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli import points as given
from fastlab.cli.points import device_option, echo_table, main, shown, students_option
from fastlab.cli.stores import mix_hosts_option
from fastlab.record import DIED, Record, write_atomically
from fastlab.spec import Point
from fastlab.spec.checks import check_choice

if TYPE_CHECKING:
    from fastlab.clock.measure import Bench
    from fastlab.sweeps.files import SweepFile
    from fastlab.sweeps.plan import Rerun, Target
    from fastlab.sweeps.store import Store
    from fastlab.sweeps.trackers import Tracker

BAD = ("error", *DIED)  # statuses that end a command with 1
ISOLATION_HELP = (
    "worker (replaced where a point hangs or crashes it), process or inline"
)
EXECUTOR_HELP = "local, or ray: a worker for each GPU, or node, of a Ray cluster"
TRACK_HELP = "tensorboard, wandb or trackio: gets rows and figure too"
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
@click.option("--isolation", default="worker", show_default=True, help=ISOLATION_HELP)
@click.option("--timeout-s", type=float, help="a point that takes longer is killed")
@click.option("--rerun", default="", help="failed, all or FIELD=VALUE: measured anew")
@click.option("--executor", default="local", show_default=True, help=EXECUTOR_HELP)
@click.option("--shard", default="1/1", help="i/n: only this share of the points")
@click.option("--track", default="", help=TRACK_HELP)
@mix_hosts_option
@students_option
def sweep(file: str, folder: str, device: str, dry_run: bool, **how: Any) -> None:
    """Measure all points of a sweep FILE that the store does not have yet.

    The same command after an interruption goes on where it stopped.
    """
    from fastlab.sweeps.files import read_sweep
    from fastlab.sweeps.isolation import bench_in
    from fastlab.sweeps.keeping import check_host, check_hosts
    from fastlab.sweeps.plan import rerun
    from fastlab.sweeps.store import Store
    from fastlab.sweeps.trackers import Tracker

    for name in ("for_s", "timeout_s"):
        if how[name] is not None and not (how[name] > 0 and not dry_run):
            flag = f"--{name.replace('_', '-')} {how[name]:g}"
            raise ValueError(f"{flag} must be above 0, and without --dry-run")
    deadline = time.monotonic() + (how["for_s"] or math.inf)
    wanted, store = read_sweep(file, how["shard"]), Store(folder)
    on_ray = _on_ray(how["executor"], how["isolation"], device)
    if not on_ray:
        check_host(store, how["mix_hosts"])
    given.echo_left_out(wanted.left_out)
    again = rerun(how["rerun"], wanted.points)
    tracker = Tracker(how["track"], store.folder)
    often = {"rounds": how["rounds"], "again": again}
    if dry_run and not on_ray:
        _plan(wanted, store, _target(device, wanted.settings), **often)
        return
    asked = wanted.trained, wanted.text, how["students"], wanted.settings
    limits = {"timeout_s": how["timeout_s"], "deadline": deadline} | on_ray
    isolated = bench_in(how["isolation"], given.bench_of, device, *asked, **limits)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        with closing(tracker), isolated as bench:
            if on_ray:
                envs = [*store.envs().values(), *bench.environments()]
                check_hosts(envs, how["mix_hosts"], store.folder)
            if dry_run:
                _plan(wanted, store, bench, **often)
                return
            _left(wanted, store, bench, **often)
            often |= {"deadline": deadline, "tracker": tracker}
            _run_sweep(wanted.points, store, bench, **often)
    except KeyboardInterrupt:
        given.stopped("every finished row is kept")
        sys.exit(130)


def _on_ray(executor: str, isolation: str, device: str) -> dict[str, Any]:
    """How `bench_in` makes workers over a cluster; nothing for this machine alone."""
    from fastlab.sweeps.cluster import Cluster

    check_choice("executor", executor, ("local", "ray"))
    if executor == "local":
        return {}
    if isolation == "inline":
        raise ValueError("executor='ray' needs isolation worker or process")
    if not find_spec("ray"):
        raise ValueError("executor='ray' needs ray: pip install ray")
    return {"kind": Cluster, "gpus": device != "cpu"}


def _plan(
    wanted: SweepFile, store: Store, bench: Any, rounds: int, again: Rerun | None
) -> None:
    """Say what is left, and how long it takes."""
    todo = _left(wanted, store, bench, rounds, again)
    click.echo("".join(f"{point.label}\n" for point in todo), nl=False)
    seconds = round(rounds * sum(map(bench.expected_s, todo)) / bench.count)
    click.echo(f"at most {timedelta(seconds=seconds)} left, besides distilling")


def _target(device: str, settings: Any) -> Target:
    """This machine's device, with a profile only if it was calibrated before."""
    from fastlab import machine
    from fastlab.clock.calibrate import kept
    from fastlab.clock.timing import Settings
    from fastlab.sweeps.plan import Target

    kind = machine.torch_device(device)
    timing = Settings.for_device(kind, **settings)
    return Target(machine.device_name(kind), timing, kept(kind))


def _left(
    wanted: SweepFile, store: Store, bench: Any, rounds: int, again: Rerun | None
) -> list[Point]:
    """What is left in the last round; how much is done is said."""
    from fastlab.sweeps.plan import left

    seen = store.seen(bench.name, bench.settings.to_dict(), rounds)
    todo, n = left(wanted.points, seen, bench, again), len(wanted.points)
    here = f"{n - len(todo)} of {n} points are in {store.folder}"
    often = f", {rounds} times each" if rounds > 1 else ""
    given.say(f"{wanted.about}\n{bench.name}: {here}{often}", err=True)
    return todo


def _run_sweep(
    points: list[Point], store: Store, bench: Any, tracker: Tracker, **how: Any
) -> None:
    """Measure, and write the table; exit status 1 where a point has no row."""
    from fastlab.rows import table
    from fastlab.sweeps.isolation import OutOfTime
    from fastlab.sweeps.keeping import write_table
    from fastlab.sweeps.run import measured, rows_of, tally, terminal_progress

    fresh = []
    try:
        how |= {"progress": terminal_progress, "tracker": tracker}
        for record in measured(points, store, bench, **how):
            fresh.append(record)
    except OutOfTime:
        given.stopped("the time is up")
    rows = rows_of(points, store, bench)
    path = store.folder / "table.csv"
    envs = store.envs()
    whole = table(rows, envs)
    write_table(whole, path)
    tracker.figure(whole)
    # each environment that wrote to this store
    told = json.dumps({"environments": envs}, indent=1) + "\n"
    write_atomically(store.folder / "run.json", lambda fresh: fresh.write_text(told))
    click.echo(f"measured now: {tally(fresh)}; in all: {tally(rows)}; table: {path}")
    if bad := [record for record in rows if record.status in BAD]:
        echo_table(shown(table(bad)), "without a measurement")
        sys.exit(1)

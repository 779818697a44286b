"""sweep(): measure what a store does not have yet, one row on disk after the other."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.record import DIED, Record
from fastlab.spec.checks import check_count, digest
from fastlab.spec.point import Point
from fastlab.sweeps.isolation import Workers, bench_in
from fastlab.sweeps.plan import Rerun, left
from fastlab.sweeps.store import Seen, Store
from fastlab.sweeps.trackers import Tracker

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.clock.measure import Bench
    from fastlab.shrink.trained import Trained

    Measurer = Bench | Workers

DEATHS = 2  # of workers, until a point is left alone

# Wraps the points to be measured and shows how far they are; see `terminal_progress`.
Progress = Callable[[Sequence[Point]], Iterable[Point]]


def sweep(
    points: Sequence[Point],
    store: Store | str,
    settings: Settings | None = None,
    device: str = "auto",
    profile: Device | None = None,
    progress: Progress | None = None,
    trained: Trained | None = None,
    rounds: int = 1,
    isolation: str = "worker",
    track: str = "",
) -> pd.DataFrame:
    """Measure all points that the store lacks; return the table of all of them.

    rounds: how often each point is visited, all of them once before any again; its row
    is that of the visit in the middle. isolation: "worker" measures in one process that
    is replaced where a point hangs or crashes it, "process" in a new one for each
    point, "inline" in this one (and with trained.on_row, which no other hears). track:
    "tensorboard", "wandb" or "trackio", which gets what is measured now, too.

    Each record is on disk before the next point starts, so that the same call after
    any interruption goes on where it stopped. Raises StoreBusy if another process
    writes to the store, WorkerFailed where no worker can be started, inline DeviceLost
    if the GPU has to be.
    """
    from fastlab.rows import table

    check_count("rounds", rounds)
    store = store if isinstance(store, Store) else Store(store)
    if trained and isolation != "inline":
        trained = replace(trained, on_row=None)
    how = device, settings, profile, trained
    shown = progress or terminal_progress
    with (
        closing(Tracker(track, store.folder)) as tracker,
        bench_in(isolation, _bench, *how) as bench,
    ):
        deque(measured(points, store, bench, shown, rounds, tracker=tracker), 0)
        rows = table(rows_of(points, store, bench), store.envs())
        tracker.figure(rows)
        return rows


def _bench(*how: Any) -> Bench:
    from fastlab.clock.measure import Bench

    return Bench.for_device(*how)


def measured(
    points: Sequence[Point],
    store: Store,
    bench: Measurer,
    progress: Progress,
    rounds: int = 1,
    again: Rerun | None = None,
    tracker: Tracker | None = None,
) -> Iterator[Record]:
    """Measure and store what is missing, yielding each record once it is on disk.

    A point whose worker died comes again after the others; where it dies a second time
    its row is "poison", and it is left alone. again: rows that are measured anew.
    tracker: gets the environment, and each row.
    """
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    env = bench.environment()
    with store.begin(env):
        if tracker:
            tracker.begin(run, env)
        for round in range(1, rounds + 1):
            seen = store.seen(bench.name, bench.settings.to_dict(), round)
            todo = left(points, seen, bench, again)
            while True:
                for point in progress(todo):
                    one = {"run": run, "round": round}
                    record = attempt(point, store, bench, seen, one)
                    if tracker:
                        tracker.row(record)
                    yield record
                now = {point: seen.status[bench.key(point)] for point in todo}
                todo = [point for point in todo if now[point] in ("timeout", "crash")]
                if not todo:
                    break


def attempt(
    point: Point, store: Store, bench: Measurer, seen: Seen, one: dict[str, Any]
) -> Record:
    """A start line, the measurement, its row: on disk when this returns.

    one: run and round, which both lines carry.
    """
    key, how = bench.key(point), digest(bench.settings.to_dict())
    seen.starts[key] += 1
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    one = one | {"attempt": seen.starts[key], "at_utc": at}
    store.start(key=key, settings_key=how, device=bench.name, **one)
    record = replace(bench.measure(point), **one)
    if record.status in DIED and (deaths := seen.deaths[key] + 1) >= DEATHS:
        often = f"left alone after {deaths} attempts that died"
        record = replace(record, status="poison", reason=f"{often}; {record.reason}")
    record = store.append(record)
    seen.add(key, record.status)
    return record


def rows_of(points: Iterable[Point], store: Store, bench: Measurer) -> list[Record]:
    """The store's records of these points under the bench's device and settings."""
    keys = {bench.key(point): n for n, point in enumerate(points)}
    found = store.records(samples=False, keys=keys)
    return sorted(found, key=lambda record: keys[record.key])


def terminal_progress(points: Sequence[Point]) -> Iterable[Point]:
    """A progress bar with the time left, on stderr."""
    from tqdm import tqdm

    bar: Any = tqdm(points, unit="point", disable=None, dynamic_ncols=True)
    for point in bar:
        bar.set_postfix_str(point.label)
        yield point


def tally(records: Iterable[Record]) -> str:
    """How many rows have which status, in words: "12 ok, 1 oom"."""
    counts = Counter(record.status for record in records)
    return ", ".join(f"{n} {status}" for status, n in counts.most_common()) or "nothing"

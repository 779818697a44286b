"""sweep(): measure what a store does not have yet, one row on disk after the other."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.record import DIED, Record
from fastlab.spec.checks import check_count, digest
from fastlab.spec.point import Point
from fastlab.sweeps.cluster import Cluster
from fastlab.sweeps.isolation import OutOfTime, Workers, bench_in
from fastlab.sweeps.plan import Rerun, left
from fastlab.sweeps.store import Seen, Store
from fastlab.sweeps.trackers import Tracker

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.clock.measure import Bench
    from fastlab.shrink.trained import Trained

    Measurer = Bench | Workers | Cluster

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
    deadline: float = inf,
) -> Iterator[Record]:
    """Measure and store what is missing, yielding each record once it is on disk.

    A point whose worker died comes again after the others; where it dies a second time
    its row is "poison", and it is left alone. again: rows that are measured anew.
    tracker: gets the environment, and each row. Past the deadline (time.monotonic())
    no point but the first is begun: raises OutOfTime.
    """
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    if isinstance(bench, Cluster):
        envs, each = bench.environments(), bench.each
    else:
        envs, each = [bench.environment()], partial(_one_by_one, bench)
    with store.begin(*envs):
        if tracker:
            tracker.begin(run, *envs)
        attempts = Attempts(store, bench, run, deadline)
        for round in range(1, rounds + 1):
            seen = store.seen(bench.name, bench.settings.to_dict(), round)
            attempts.seen, attempts.round = seen, round
            todo = left(points, seen, bench, again)
            while todo:
                for point, record in each(todo, progress, attempts.begin):
                    record = attempts.end(point, record)
                    if tracker:
                        tracker.row(record)
                    yield record
                now = {point: seen.status[bench.key(point)] for point in todo}
                todo = [point for point in todo if now[point] in ("timeout", "crash")]


def _one_by_one(
    bench: Bench | Workers,
    points: Sequence[Point],
    progress: Progress,
    begin: Callable[[Point], None],
) -> Iterator[tuple[Point, Record]]:
    for point in progress(points):
        begin(point)
        yield point, bench.measure(point)


@dataclass
class Attempts:
    """The lines of attempts: one as it begins, its row as it ends."""

    store: Store
    bench: Measurer
    run: str
    deadline: float = inf
    seen: Seen = field(default_factory=Seen)
    round: int = 1
    begun: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin(self, point: Point) -> None:
        """A start line; OutOfTime past the deadline."""
        if self.begun and time.monotonic() > self.deadline:
            raise OutOfTime
        key, how = self.bench.key(point), digest(self.bench.settings.to_dict())
        self.seen.starts[key] += 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        one = {"run": self.run, "round": self.round, "at_utc": at}
        self.begun[key] = one = one | {"attempt": self.seen.starts[key]}
        self.store.start(key=key, settings_key=how, device=self.bench.name, **one)

    def end(self, point: Point, record: Record) -> Record:
        """The row, on disk when this returns."""
        key = self.bench.key(point)
        record = replace(record, **self.begun[key])
        if record.status in DIED and (deaths := self.seen.deaths[key] + 1) >= DEATHS:
            often = f"left alone after {deaths} attempts that died"
            record = replace(
                record, status="poison", reason=f"{often}; {record.reason}"
            )
        record = self.store.append(record)
        self.seen.add(key, record.status)
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

"""sweep(): measure what a store does not have yet, one row on disk after the other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.record import Record
from fastlab.rows import table
from fastlab.spec.checks import check_count
from fastlab.spec.point import Point
from fastlab.sweeps.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.clock.measure import Bench
    from fastlab.shrink.trained import Trained

# Wraps the points to be measured and shows how far they are; see `terminal_progress`.
Progress = Callable[[Sequence[Point]], Iterable[Point]]


def plan(points: Iterable[Point], done: set[str], bench: Bench) -> list[Point]:
    """What is left to measure, each point once, those that share a model together."""
    from fastlab.clock.measure import model_key

    todo = [point for point in dict.fromkeys(points) if bench.key(point) not in done]
    first: dict[tuple[Any, ...], int] = {}
    for place, point in enumerate(todo):
        first.setdefault(model_key(point), place)
    return sorted(todo, key=lambda point: first[model_key(point)])


def sweep(
    points: Sequence[Point],
    store: Store | str,
    settings: Settings | None = None,
    device: str = "auto",
    profile: Device | None = None,
    progress: Progress | None = None,
    trained: Trained | None = None,
    rounds: int = 1,
) -> pd.DataFrame:
    """Measure all points that the store lacks; return the table of all of them.

    rounds: how often each point is visited, all of them once before any again; its row
    is that of the visit in the middle.

    Each record is on disk before the next point starts, so that the same call after
    any interruption goes on where it stopped. Raises StoreBusy if another process
    writes to the store, DeviceLost if the GPU has to be started anew.
    """
    from fastlab.clock.measure import Bench

    check_count("rounds", rounds)
    store = store if isinstance(store, Store) else Store(store)
    bench = Bench.for_device(device, settings, profile, trained=trained)
    for _ in measured(points, store, bench, progress or terminal_progress, rounds):
        pass
    return table(rows_of(points, store, bench), store.envs())


def measured(
    points: Sequence[Point],
    store: Store,
    bench: Bench,
    progress: Progress,
    rounds: int = 1,
) -> Iterator[Record]:
    """Measure and store what is missing, yielding each record once it is on disk."""
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    with store.begin(bench.environment()):
        for round in range(1, rounds + 1):
            done = store.done(bench.name, bench.settings.to_dict(), round)
            for point in progress(plan(points, done, bench)):
                record = replace(bench.measure(point), run=run, round=round)
                store.append(record)
                yield record


def rows_of(points: Iterable[Point], store: Store, bench: Bench) -> list[Record]:
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

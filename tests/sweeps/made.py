"""Records of a tiny model, and stores filled with them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastlab.record import Record
from fastlab.spec import ModelShape, Point
from fastlab.sweeps.store import Store

ENV = {"device": "cpu", "versions": {"torch": "2.13"}, "threads": 2, "command": "x"}
TIMING = {"n_min": 50, "cache": "cold"}
SHAPE = ModelShape.preset("tiny-gpt2")


def row(seed: int, status: str = "ok", **over: Any) -> Record:
    """The record of a tiny point whose key depends on `seed` only."""
    values: dict[str, Any] = {"device": "cpu", "settings": TIMING, "status": status}
    return Record(point=Point(SHAPE, weights=f"random:{seed}"), **(values | over))


def fill(folder: Path, rows: Iterable[Record | int]) -> Store:
    """A closed store that one writer appended the rows to, or those of seeds."""
    store = Store(folder)
    with store.begin(ENV):
        for one in rows:
            store.append(row(one) if isinstance(one, int) else one)
    return store


def seeds(store: Store) -> list[int]:
    """Which rows can be read, every attempt, in order."""
    return [int(record.point.seed or 0) for record in store.attempts()]

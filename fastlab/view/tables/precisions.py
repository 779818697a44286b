"""What tables that are not ported yet share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlab.figures.precisions import runs
from fastlab.record import Record
from fastlab.spec.point import Point

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["own", "runs", "spread"]


def own(records: Iterable[Record], points: Iterable[Point]) -> list[Record]:
    """The records of these points, in the order of the points."""
    place = {point: n for n, point in enumerate(points)}
    found = [record for record in records if record.point in place]
    return sorted(found, key=lambda record: place[record.point])


def spread(table: pd.DataFrame) -> str:
    """How many samples stand behind the medians, and how wide their intervals are."""
    taken = table[table["n"].notna()]
    if taken.empty:
        return "nothing measured"
    width = (taken["measured_high_ms"] - taken["measured_low_ms"]) / taken[
        "measured_ms"
    ]
    n = taken["n"].astype(int)
    return (
        f"n {n.min()} to {n.max()}, 95 % intervals ±{50 * width.median():.1f} % in the "
        f"median, ±{50 * width.max():.0f} % at most"
    )

"""The alt text of the first figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.view.plots.first import name_of
from fastlab.view.tables.sweep import compared
from fastlab.view.words import digits, times, within

if TYPE_CHECKING:
    import pandas as pd


def pairs(rows: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.pairs(): every point's two times and their ratio."""
    known = compared(rows)
    each = "; ".join(
        f"{name_of(row)}: estimated {digits(row['estimated_ms'])}, measured "
        f"{digits(row['measured_ms'])}, {times(row['ratio'])}"
        for _, row in known.iterrows()
    )
    return (
        f"Pairs of marks on a log axis in milliseconds, {len(known)} points, "
        f"{within(known, 1.25)}. {each}. {caption}."
    )

"""Alt texts made from the numbers that a figure shows.

Each says: kind of chart, axes with units, the comparison that matters, device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastlab.view.tables.sweep import choose, compared, farthest
from fastlab.view.words import digits, name_of, nothing, times, within

if TYPE_CHECKING:
    import pandas as pd


def heatmaps(rows: pd.DataFrame, phase: str, precision: str, caption: str) -> str:
    """The alt text of plots.heatmaps()."""
    grid = choose(rows, phase, precision)
    span = [f"{grid[n].min()} to {grid[n].max()}" for n in ("layers", "hidden")]
    return (
        f"Three heatmaps of {precision} {phase}, layers ({span[0]}) by hidden size "
        f"({span[1]}): milliseconds measured ({_range(grid, 'measured_ms')}), "
        f"estimated ({_range(grid, 'estimated_ms')}), and their quotient, measured / "
        f"estimated ({_range(grid, 'ratio', times)}). {caption}."
    )


def _range(
    rows: pd.DataFrame, name: str, write: Callable[[float], str] = digits
) -> str:
    known = rows[name].dropna().astype(float)
    if known.empty:
        return "none: " + ", ".join(sorted(set(rows["status"])))
    return f"{write(known.min())} to {write(known.max())}"


def scatter(rows: pd.DataFrame, caption: str, knowing: str = "no row used") -> str:
    """The alt text of plots.scatter()."""
    known = compared(rows)
    if known.empty:
        return f"An empty scatter of measured against estimated ms; {nothing(rows)}."
    row = farthest(known)
    median = times(float(known["ratio"].median()))
    return (
        f"Scatter, log-log, measured against estimated latency in ms, {len(known)} "
        f"points; estimates with {knowing}. The median of measured / estimated is "
        f"{median}; {within(known, 1.25)}; farthest off is {name_of(row)}: "
        f"{times(row['ratio'])}. {caption}."
    )


def lines(
    rows: pd.DataFrame,
    curve: pd.DataFrame,
    caption: str,
    *,
    layers: int,
    precision: str,
    phase: str,
) -> str:
    """The alt text of plots.lines()."""
    chosen = choose(rows, phase, precision)
    here = chosen[(chosen["layers"] == layers) & chosen["measured_ms"].notna()]
    line = _span(curve, "ms") if len(curve) else "no estimate for this device"
    marks = _span(here, "measured_ms") if len(here) else "nothing at this depth"
    return (
        f"Line, log-log, milliseconds against hidden size, {precision} {phase}, "
        f"{layers} layers: estimated {line}; measured {marks}. {caption}."
    )


def _span(rows: pd.DataFrame, name: str) -> str:
    ends = rows.sort_values("hidden").iloc[[0, -1]]
    first, last = (
        f"{digits(r[name])} at {r['hidden']:.0f}" for _, r in ends.iterrows()
    )
    return f"{first} to {last}"

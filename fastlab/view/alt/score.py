"""Alt texts of the figures of notebook 04, made from the numbers that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.view.tables.score import LEFT
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd


def methods(found: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.methods()."""
    each = [
        f"{row['method']} {digits(row['median'])} (p90 {digits(row['p90'])})"
        for _, row in found.iterrows()
    ]
    return (
        "Dot and line chart, log scale, median error to p90 in % of the measured time, "
        f"{found['n'].max()} rows, by method: {', '.join(each)}. {caption}."
    )


def waterfalls(steps: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.waterfalls()."""
    each = [_waterfall(str(point), own) for point, own in _points(steps)]
    return f"Waterfalls, milliseconds. {' '.join(each)} {caption}."


def _points(steps: pd.DataFrame) -> list[tuple[object, pd.DataFrame]]:
    return list(steps.groupby("point", sort=False))


def _waterfall(point: str, steps: pd.DataFrame) -> str:
    added = steps[steps["step"] != LEFT]
    parts = [f"{row['step']} {row['ms']:.3g}" for _, row in added.iterrows()]
    left = float(steps[steps["step"] == LEFT]["ms"].sum())
    estimate, measured = float(added["ms"].sum()), float(steps["ms"].sum())
    return (
        f"{point}: {', '.join(parts)} = estimate {digits(estimate)}; measured "
        f"{digits(measured)}, so {left:+.3g} stay unexplained."
    )


def left_out(title: str, rows: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.left_out()."""
    return (
        f"Scatter, log-log, measured against predicted latency in ms, {len(rows)} "
        f"points in grey, those left out in colour. {title}. {caption}."
    )

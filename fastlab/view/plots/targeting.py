"""A table as a figure: which step of a path comes under a target on which device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fastlab.view.plots.precisions import known
from fastlab.view.style import GREY, SMALL, TEXT, TITLE
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

UNDER = "#cfe3f2"
WIDE = 2.6  # columns that device names take


def targets(table: pd.DataFrame, target_ms: float, title: str) -> Figure:
    """Estimated ms, a line for each device, a column for each step.

    table: tables.steps_on(). Blue cells come under the target; the first of a line is
    framed; what a device cannot run is a dash.
    """
    devices = list(dict.fromkeys(table["device"]))
    steps = list(dict.fromkeys(table["step"]))
    figure = Figure(figsize=(9.8, 1.3 + 0.42 * len(devices)), layout="constrained")
    axes = figure.subplots()
    for y, device in enumerate(devices):
        rows = table[table["device"] == device]
        text = f"{device}\n({rows['basis'].iloc[0]})"
        axes.text(-0.1, y + 0.5, text, ha="right", va="center", fontsize=SMALL)
        _cells(axes, y, rows, target_ms)
    for x, step in enumerate(steps):
        axes.text(x + 0.5, -0.3, step, ha="center", va="center", fontsize=TEXT)
    axes.set(xlim=(-WIDE, len(steps) + 0.05), ylim=(len(devices) + 0.05, -0.7))
    axes.set_axis_off()
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _cells(axes: Axes, y: int, rows: pd.DataFrame, target_ms: float) -> None:
    framed = False
    for x, (_, row) in enumerate(rows.iterrows()):
        ms = row["ms"]
        under = known(ms) and ms <= target_ms
        first, framed = under and not framed, framed or bool(under)
        edge = "black" if first else "white"
        face = UNDER if under else "#f4f4f4"
        box = Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, fc=face, ec=edge, lw=2)
        axes.add_patch(box)
        text = f"{digits(ms)} ms" if known(ms) else "–"
        weight = "bold" if first else "normal"
        color = "black" if under else GREY
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TEXT}
        axes.text(x + 0.5, y + 0.5, text, weight=weight, color=color, **place)

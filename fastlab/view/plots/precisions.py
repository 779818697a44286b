"""Figures of precisions: what each buys in time and bytes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from fastlab.view.style import COLORS, GREY, MARKERS, PALE, SMALL, TEXT, TITLE
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LINE: dict[str, Any] = {"lw": 5, "alpha": 0.25, "solid_capstyle": "round"}
PLAIN: dict[str, Any] = {"fc": "white", "ec": "none", "pad": 1.5}  # behind a text
LEAST_KL = 1e-8  # nats: the axis of KL begins no lower


def trade(table: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """A line for each precision: ms of each phase, MB stored, KL against fp32.

    `table` is tables.gains(): one line for each precision and phase. Hollow marks are
    estimates with their interval, filled ones measured; the speed-up over the baseline
    is written beside.
    """
    names = list(dict.fromkeys(table["precision"]))
    phases = list(dict.fromkeys(table["phase"]))
    figure = Figure(figsize=(12.4, 1.7 + 0.5 * len(names)), layout="constrained")
    widths = [1.25] * len(phases) + [0.75, 1.25]
    panels = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    for axes, phase in zip(panels, phases, strict=False):
        _times(axes, table[table["phase"] == phase], names, baseline)
    each = table.drop_duplicates("precision")
    _bytes(panels[-2], each, names)
    _losses(panels[-1], each, names)
    panels[0].set_yticks(range(len(names)), names[::-1], fontsize=TEXT)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    for axes in panels:
        bare(axes)
    return figure


def bare(axes: Axes) -> None:
    """Axes of named lines: only the scale below is drawn."""
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL, color=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(True, axis="y", color=PALE, lw=0.8)
    axes.set_axisbelow(True)


def _times(
    axes: Axes, table: pd.DataFrame, names: Sequence[str], baseline: str
) -> None:
    phase, most = table["phase"].iloc[0], longest(table)
    for _, row in table.iterrows():
        y = len(names) - 1 - names.index(row["precision"])
        _pair(axes, y, row)
        text = _gained(row, baseline)
        axes.text(1.06 * most, y, text, va="center", fontsize=SMALL, bbox=PLAIN)
    head = f"× over {baseline}:\nmeasured (predicted)"
    style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "bottom"}
    axes.text(1.06 * most, len(names) - 0.55, head, **style)
    axes.set(xlim=(0, 1.75 * most))
    axes.set_xticks(ticks_to(most))
    many = int(table["rows"].iloc[0])
    what = f"{phase}: {many} row" + "s" * (many > 1) + " in each product"
    axes.set_title(what, fontsize=TITLE, loc="left", pad=26)
    axes.set_xlabel("ms (hollow: estimated)", fontsize=TEXT)


def longest(table: pd.DataFrame) -> float:
    """The longest ms of a table, measured or estimated; 1 where there is none."""
    known = table[["estimated_high_ms", "measured_ms"]].to_numpy(float)
    return float(np.nanmax(known)) if np.isfinite(known).any() else 1.0


def _pair(axes: Axes, y: float, row: pd.Series) -> None:
    color = COLORS[row["precision"]]
    look: dict[str, Any] = {"color": color, "markersize": 8}
    look["marker"] = MARKERS[row["phase"]]
    if known(row["estimated_ms"]):
        ends = [row["estimated_low_ms"], row["estimated_high_ms"]]
        axes.plot(ends, [y, y], color=GREY, **LINE)
        axes.plot([row["estimated_ms"]], [y], markerfacecolor="white", **look)
    if known(row["measured_ms"]):
        axes.plot([row["measured_ms"]], [y], **look)


def ticks_to(most: float) -> list[float]:
    """Four to eight round numbers from zero to the longest time."""
    return [
        t for t in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, most) if t <= most
    ]


def known(value: Any) -> bool:
    """Whether there is a number, and it is finite."""
    return value is not None and bool(np.isfinite(float(value)))


def with_loss(precision: str, table: pd.DataFrame, between: str = ", ") -> str:
    """The precision's name, with its KL against fp32 where that is known and not 0."""
    own = table[table["precision"] == precision]["kl_nats"]
    lost = [float(kl) for kl in own if known(kl) and kl]
    return f"{precision}{between}KL {lost[0]:.1g}" if lost else precision


def _gained(row: pd.Series, baseline: str) -> str:
    if not known(row["measured_ms"]):
        return str(row["status"])
    if row["precision"] == baseline:
        return "the baseline"
    found, made = row["measured_gain"], row["estimated_gain"]
    text = times(found) if known(found) else ""
    return text + (f" ({times(made)})" if known(made) else "")


def _bytes(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Bars of the weights as stored, scales and all that stays dense included."""
    for _, row in table.iterrows():
        y, stored = len(names) - 1 - names.index(row["precision"]), row["weights_mb"]
        if known(stored):
            axes.barh(y, stored, height=0.5, color=COLORS[row["precision"]], alpha=0.8)
            note: dict[str, Any] = {"va": "center", "fontsize": SMALL, "bbox": PLAIN}
            place: dict[str, Any] = {"textcoords": "offset points"}
            axes.annotate(digits(stored), (stored, y), (4, 0), **place, **note)
    axes.margins(x=0.3)
    axes.set_title("weights as stored", fontsize=TITLE, loc="left", pad=26)
    axes.set_xlabel("MB", fontsize=TEXT)


def _losses(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """KL on a log scale, top-1 agreement and the largest difference written beside."""
    lost = table[table["kl_nats"].map(known)]
    values = np.maximum(lost["kl_nats"].to_numpy(float), LEAST_KL)
    above = values[values > LEAST_KL]
    low, high = (above.min() / 4, above.max() * 4) if above.size else (1e-4, 1.0)
    for (_, row), kl in zip(lost.iterrows(), values, strict=True):
        y, at = len(names) - 1 - names.index(row["precision"]), max(kl, low)
        if kl > LEAST_KL:
            axes.plot([at], [y], "D", color=COLORS[row["precision"]], markersize=7)
        style: dict[str, Any] = {"va": "center", "fontsize": SMALL, "bbox": PLAIN}
        axes.text(high * 1.3, y, _lost(row), **style)
    head = "top-1 agreement, max |Δ logit|"
    style = {"fontsize": SMALL, "color": GREY, "va": "bottom"}
    axes.text(high * 1.3, len(names) - 0.55, head.replace(", ", ",\n"), **style)
    axes.set(xscale="log", xlim=(low, high * (high / low) ** 0.9))
    axes.set_xticks([t for t in 10.0 ** np.arange(-8, 2, 2) if low <= t <= high])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title("quality lost", fontsize=TITLE, loc="left", pad=26)
    axes.set_xlabel("KL against fp32, nats", fontsize=TEXT)


def _lost(row: pd.Series) -> str:
    if row["kl_nats"] == 0:
        return "the reference"
    return f"{row['top1']:.1%}, {row['max_abs']:.2g}"

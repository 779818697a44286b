"""Figures of shared weights: bits against quality, time beside size, one histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from fastlab.view.plots.beside import name_marks
from fastlab.view.plots.precisions import PLAIN, bare
from fastlab.view.style import COLORS, GREY, MARKERS, PALE, SMALL, TEXT, TITLE
from fastlab.view.tables.sharing import EACH, ONE, UNIFORM
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PALETTE, ROWS = "#009E73", "#0072B2"
LOOKS: dict[str, dict[str, Any]] = {
    ONE: {"color": PALETTE, "marker": "o"},
    EACH: {"color": ROWS, "marker": "^"},
    UNIFORM: {"color": GREY, "marker": "s", "mfc": "white"},
    "int8": {"color": COLORS["int8"], "marker": "D"},
    "int4-g64": {"color": COLORS["int4"], "marker": "D"},
}
TICKS = (2, 3, 4, 5, 6, 8)  # bits per weight


def stored(table: pd.DataFrame, title: str) -> Figure:
    """What a bit buys: SQNR and KL against bits per weight, as stored.

    table: tables.bytes_and_quality(). Numbers near the marks are bits of an index.
    """
    figure = Figure(figsize=(12.4, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, own in table.groupby("kind", sort=False):
        look = LOOKS[str(kind)]
        _line(left, own, "sqnr_db", look, str(kind))
        _line(right, own, "kl_nats", look)
        _whiskers(right, own, look["color"])
    left.set_ylabel("SQNR of the weights, dB", fontsize=TEXT)
    right.set_ylabel("KL against the dense model, nats per token", fontsize=TEXT)
    right.set(yscale="log")
    right.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    right.yaxis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        _bits_axis(axes)
    left.set_title(title, fontsize=TITLE, loc="left")
    right.set_title("and of the text: lower is better", fontsize=TITLE, loc="left")
    left.legend(frameon=False, fontsize=SMALL, loc="lower right")
    for axes, column in ((left, "sqnr_db"), (right, "kl_nats")):
        found = zip(table["bits_per_weight"], table[column], strict=True)
        colors = [LOOKS[str(kind)]["color"] for kind in table["kind"]]
        name_marks(axes, list(found), [str(bits) for bits in table["bits"]], colors)
    return figure


def _line(
    axes: Axes, own: pd.DataFrame, column: str, look: dict[str, Any], name: str = ""
) -> None:
    own = own.sort_values("bits_per_weight")
    x, y = own["bits_per_weight"], own[column]
    axes.plot(x, y, lw=1.6, ms=8, label=name or None, **look)


def _whiskers(axes: Axes, own: pd.DataFrame, color: str) -> None:
    """The 95 % intervals over blocks, where there are enough blocks."""
    known = own[own["kl_low"].notna()]
    axes.vlines(
        known["bits_per_weight"],
        known["kl_low"].to_numpy(float),
        known["kl_high"].to_numpy(float),
        color=color,
        lw=3,
        alpha=0.35,
    )


def _bits_axis(axes: Axes) -> None:
    axes.set(xscale="log")
    axes.set_xticks(TICKS, [str(t) for t in TICKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bits per weight as stored, tables and scales counted", size=TEXT)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=PALE, lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)


def lookups(table: pd.DataFrame) -> Figure:
    """Smaller is not faster: ms of each phase and MB of weights, a line a storage.

    table: tables.looked_up(). Filled marks measured, hollow ones estimated; the
    speed-up over the dense row of the same precision is written beside.
    """
    names = list(dict.fromkeys(table["storage"]))
    phases = list(dict.fromkeys(table["phase"]))
    figure = Figure(figsize=(12.8, 1.6 + 0.46 * len(names)), layout="constrained")
    ratios = [1.0] * len(phases) + [0.8]
    panels = figure.subplots(1, len(ratios), sharey=True, width_ratios=ratios)
    for axes, phase in zip(panels, phases, strict=False):
        _milliseconds(axes, table[table["phase"] == phase], names)
        axes.set_title(str(phase), fontsize=TITLE, loc="left", pad=22)
    _megabytes(panels[-1], table.drop_duplicates("storage"), names)
    panels[0].set_yticks(range(len(names)), names[::-1], fontsize=TEXT)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    for axes in panels:
        bare(axes)
    return figure


def _milliseconds(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
    for _, row in table.iterrows():
        y, color = len(names) - 1 - names.index(row["storage"]), color_of(row)
        look: dict[str, Any] = {"marker": MARKERS[row["phase"]], "ms": 9}
        axes.plot([row["estimated_ms"]], [y], mfc="white", mec=color, **look)
        axes.plot([row["measured_ms"]], [y], color=color, **look)
        axes.text(1.04, y, _factor(row), va="center", fontsize=SMALL, **beside)
    head = "speed-up over its\ndense row (estimated)"
    beside |= {"fontsize": SMALL, "color": GREY, "va": "bottom"}
    axes.text(1.04, len(names) - 0.5, head, **beside)
    known = table[["measured_ms", "estimated_ms"]].to_numpy(float)
    least, most = float(np.nanmin(known)), float(np.nanmax(known))
    axes.set(xscale="log", xlim=(least / 1.5, most * 1.5))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("ms (hollow: estimated)", fontsize=TEXT)


def color_of(row: pd.Series) -> str:
    """Of a storage: its precision's colour, or the palettes'."""
    name = str(row["storage"])
    return PALETTE if "palette" in name else COLORS[name.removeprefix("dense ")]


def _factor(row: pd.Series) -> str:
    if str(row["storage"]).startswith("dense"):
        return "1"
    found, made = row["measured_gain"], row["estimated_gain"]
    text = times(found) if np.isfinite(found) else ""
    return f"{text} ({times(made)})" if np.isfinite(made) else text


def _megabytes(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    for _, row in table.iterrows():
        y = len(names) - 1 - names.index(row["storage"])
        axes.barh(y, row["weights_mb"], height=0.5, color=color_of(row), alpha=0.8)
        place: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
        words, at = digits(row["weights_mb"]), (row["weights_mb"], y)
        axes.annotate(words, at, (4, 0), fontsize=SMALL, bbox=PLAIN, **place)
    axes.margins(x=0.25)
    axes.set_title("all weights", fontsize=TITLE, loc="left", pad=22)
    axes.set_xlabel("MB", fontsize=TEXT)


def palette(
    weights: Sequence[float],
    table: Sequence[float],
    even: Sequence[float],
    title: str,
) -> Figure:
    """A histogram of weights, the values of their table, and evenly spaced ones."""
    figure = Figure(figsize=(9.6, 4.2))  # one axes: no layout engine, half the time
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.14, top=0.9)
    heights, _, _ = axes.hist(weights, bins=120, color="#c8c8c8")
    top = float(np.max(heights))
    axes.vlines(table, 0, 1.04 * top, color=PALETTE, lw=1.4)
    axes.plot(table, [1.04 * top] * len(table), "v", color=PALETTE, ms=7)
    axes.plot(even, [-0.05 * top] * len(even), "s", mfc="white", mec=GREY, ms=5)
    place: dict[str, Any] = {"transform": axes.transAxes, "fontsize": SMALL}
    axes.text(0.01, 0.93, "▼ values of the table", color=PALETTE, **place)
    axes.text(0.01, 0.86, "□ as many, evenly spaced", color=GREY, **place)
    axes.set_ylim(-0.1 * top, 1.3 * top)
    axes.set_xlabel("weight", fontsize=TEXT)
    axes.set_ylabel("how many", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure

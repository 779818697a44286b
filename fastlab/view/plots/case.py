"""Figures of the article's case: the staircase of each path, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fastlab.view.plots.precisions import LINE, PLAIN, known
from fastlab.view.style import COLORS, GREY, MARKERS, PALE, SMALL, TEXT, TITLE
from fastlab.view.tables.claims import CLAIM, THOUSANDS
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# What is no time: a stair without marks. Label, dashes, how far the label stands off.
STAIRS: dict[str, tuple[str, Any]] = {
    "printed": ("the article prints", (0, (5, 2))),
    "formula": ("its formula,\nworked out", (0, (1, 1.5))),
    "counted": ("FLOPs", "-"),
}
WHISKER: dict[str, Any] = {"color": "black", "lw": 1.2, "zorder": 6}
ROOM = 1.4  # steps of room to the right, for labels
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def staircase(paths: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel for each path: speed-up over its first step, log, and quality below.

    paths: title -> table of tables.case_of(). Stairs: the article's numbers (dashed),
    its formula worked out (dotted), FLOPs counted (solid). Hollow marks are estimates
    with their interval, filled ones measured, with their ms and a whisker. A path
    without lines says so.
    """
    shown = {name: table for name, table in paths.items() if len(table)}
    if not shown:
        return _nothing(" and ".join(paths))
    widths = [len(table) + ROOM for table in shown.values()]
    size = (min(13.5, 2.4 + 1.35 * sum(widths)), 7.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(
        2, len(shown), squeeze=False, width_ratios=widths, height_ratios=[2.7, 1]
    )
    most = max(_most(table) for table in shown.values())
    least = min(_least(table) for table in shown.values())
    for n, (title, table) in enumerate(shown.items()):
        _speedups(panels[0, n], table, (least, most))
        panels[0, n].set_title(title, fontsize=TITLE, loc="left")
        _quality(panels[1, n], table)
    panels[0, 0].set_ylabel("times faster than the dense fp32 model", fontsize=TEXT)
    return figure


def _nothing(what: str) -> Figure:
    figure = Figure(figsize=(8, 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title(f"{what}: nothing was run, nothing is shown", fontsize=TITLE)
    return figure


GAINS = ("printed_gain", "formula_gain", "counted_gain", "measured_gain")


def _most(table: pd.DataFrame) -> float:
    found = [*table[list(GAINS)].to_numpy(float).ravel(), *_ends(table).ravel()]
    top = float(np.nanmax([2.0, *found]))
    return 2.2 * max(top, THOUSANDS if table["printed_gain"].map(known).any() else top)


def _least(table: pd.DataFrame) -> float:
    found = [*table[list(GAINS)].to_numpy(float).ravel(), *_ends(table).ravel()]
    return 0.45 * float(np.nanmin([1.0, *found]))


def _ends(table: pd.DataFrame) -> np.ndarray:
    """(steps, 2): the interval of the estimated speed-up."""
    ms = table[["estimated_high_ms", "estimated_low_ms"]].to_numpy(float)
    first = table["estimated_ms"].to_numpy(float)[:1]
    return first / ms


def _speedups(axes: Axes, table: pd.DataFrame, ends: tuple[float, float]) -> None:
    for what, (label, dashes) in STAIRS.items():
        _stair(axes, table, what, label, dashes)
    for x, (low, high) in enumerate(_ends(table)):
        if known(low):
            axes.plot([x - 0.13] * 2, [low, high], color=GREY, **LINE)
    first = float(table["measured_ms"].iloc[0])
    for x, (_, row) in enumerate(table.iterrows()):
        _marks(axes, x, row)
        if known(row["measured_gain"]):
            ends_ms = [row["measured_low_ms"], row["measured_high_ms"]]
            axes.plot([x + 0.13] * 2, [first / ms for ms in ends_ms], **WHISKER)
    if table["printed_gain"].map(known).any():
        axes.axhspan(THOUSANDS, 10 * ends[1], color=PALE, zorder=0)
        words = "“thousands of times” begins here"
        axes.text(-0.4, THOUSANDS * 1.12, words, fontsize=SMALL, color=GREY)
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    _log_y(axes, ends)
    _steps(axes, table, named=True)


def _log_y(axes: Axes, ends: tuple[float, float]) -> None:
    axes.set(yscale="log", ylim=ends)
    axes.yaxis.set_major_locator(FixedLocator([*TICKS]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"×{v:g}"))
    axes.set_ylim(*ends)
    axes.grid(True, axis="y", color=PALE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL, color=GREY)


def _stair(axes: Axes, table: pd.DataFrame, what: str, label: str, dashes: Any) -> None:
    """A line with a tread for each step, and its label where it ends."""
    gain = table[f"{what}_gain"].to_numpy(float)
    told = np.flatnonzero(np.isfinite(gain))
    if told.size < 2:
        return
    edges = np.append(told, told[-1] + 1) - 0.5
    width = 2.2 if what == "printed" else 1.4
    axes.stairs(gain[told], edges, baseline=None, color=GREY, ls=dashes, lw=width)
    x, y = float(edges[-1]), float(gain[told[-1]])
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    text = f"{label} {times(y)}"
    axes.annotate(text, (x, y), (4, 0), fontsize=SMALL, color=GREY, bbox=PLAIN, **place)


def _marks(axes: Axes, x: int, row: pd.Series) -> None:
    color = COLORS[row["precision"]]
    look: dict[str, Any] = {"color": color, "ms": 9, "zorder": 5}
    look["marker"] = MARKERS[row["phase"]]
    if known(row["estimated_gain"]):
        at = ([x - 0.13], [row["estimated_gain"]])
        axes.plot(*at, markerfacecolor="white", **look)
    if known(row["measured_gain"]):
        axes.plot([x + 0.13], [row["measured_gain"]], **look)
        text = f"{times(row['measured_gain'])}\n{digits(row['measured_ms'])} ms"
        above = known(row["estimated_gain"]) and (
            row["measured_gain"] > row["estimated_gain"]
        )
        _beside(axes, x + 0.13, row["measured_gain"], text, color, above)
    elif known(row["estimated_gain"]):
        ms = row["measured_ms"]
        text = f"{digits(ms)} ms" if known(ms) else row["status"]
        _beside(axes, x, row["estimated_gain"], text, GREY, above=False)


def _beside(axes: Axes, x: float, y: float, text: str, color: str, above: bool) -> None:
    """A mark's label, on the side where the mark beside it is not."""
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
    place["va"] = "bottom" if above else "top"
    look: dict[str, Any] = {"color": color, "fontsize": SMALL, "bbox": PLAIN}
    axes.annotate(text, (x, y), (0, 9 if above else -9), zorder=4, **place, **look)


def _steps(axes: Axes, table: pd.DataFrame, named: bool) -> None:
    """Steps along the x axis: name, what is built, precision."""
    axes.set_xlim(-0.5, len(table) - 0.5 + ROOM)
    axes.set_xticks(range(len(table)))
    texts = [
        f"{row['step']}\n{row['built']}\n{row['precision']}"
        for _, row in table.iterrows()
    ]
    axes.set_xticklabels(texts if named else [], fontsize=SMALL)
    axes.tick_params(axis="x", length=0)


def _quality(axes: Axes, table: pd.DataFrame) -> None:
    """Bits per byte with its interval where a text judged, else KL of random logits."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL, color=GREY)
    _steps(axes, table, named=False)
    if table["bits_per_byte"].map(known).any():
        _bits(axes, table)
    else:
        _divergence(axes, table)


def _bits(axes: Axes, table: pd.DataFrame) -> None:
    dense = float(table["bits_per_byte"].iloc[0])
    for x, (_, row) in enumerate(table.iterrows()):
        if not known(row["bits_per_byte"]):
            continue
        color, y = COLORS[row["precision"]], float(row["bits_per_byte"])
        if known(row["bits_low"]):
            axes.plot([x, x], [row["bits_low"], row["bits_high"]], color=GREY, **LINE)
        axes.plot([x], [y], "D", color=color, ms=7)
        text = f"{y:.2f}" + (f"\n{y / dense - 1:+.1%}" if x else "")
        _note(axes, x, y, text, color)
    axes.axhline(dense, color=GREY, lw=0.8, ls="--")
    axes.set_ylabel("bits per byte\n(lower is better)", fontsize=TEXT)
    axes.margins(y=0.35)


def _divergence(axes: Axes, table: pd.DataFrame) -> None:
    values = table["kl_nats"].astype(float).to_numpy(copy=True)
    above = values[np.isfinite(values) & (values > 0)]
    low, high = (above.min() / 10, above.max() * 10) if above.size else (1e-3, 1.0)
    for x, (_, row) in enumerate(table.iterrows()):
        if known(row["kl_nats"]) and row["kl_nats"] > 0:
            color = COLORS[row["precision"]]
            axes.plot([x], [row["kl_nats"]], "D", color=color, ms=7)
            text = f"{row['kl_nats']:.2g}\ntop-1 {row['top1']:.0%}"
            _note(axes, x, row["kl_nats"], text, color)
        elif x == 0:
            _note(axes, x, (low * high) ** 0.5, "the\nreference", GREY)
    axes.set(yscale="log", ylim=(low, high))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("KL, nats", fontsize=TEXT)
    words = "random weights: no quality of a trained model, see the live path"
    axes.set_title(words, fontsize=SMALL, color=GREY, loc="left")


def _note(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    axes.annotate(
        text, (x, y), (9, 0), color=color, fontsize=SMALL, bbox=PLAIN, **place
    )


def claims(lines: pd.DataFrame) -> Figure:
    """A bar for each total speed-up, log: claimed, printed, worked out, measured.

    lines: tables.bottom_line(). Filled bars are measured, hollow ones are not; whiskers
    are intervals.
    """
    figure = Figure(figsize=(10.4, 1.4 + 0.36 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for y, (_, row) in enumerate(lines.iloc[::-1].iterrows()):
        _claim(axes, y, row)
    names = [_bar_name(row) for _, row in lines.iloc[::-1].iterrows()]
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    least = min(0.9, 0.7 * float(lines["gain"].min()))
    axes.set(xscale="log", xlim=(least, THOUSANDS * 6), ylim=(-0.6, len(lines) - 0.4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"×{v:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("times faster than the dense fp32 model", fontsize=TEXT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _bar_name(row: pd.Series) -> str:
    return f"{row['path']}: {row['by']}"


def _claim(axes: Axes, y: int, row: pd.Series) -> None:
    measured = "measured" in row["by"]
    face = "#0072B2" if measured else "white"
    hatch = "///" if row["by"] == CLAIM or "article" in row["by"] else None
    look: dict[str, Any] = {"height": 0.55, "ec": GREY, "fc": face, "hatch": hatch}
    axes.barh(y, row["gain"] - 1, left=1, **look)
    if known(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color="black", lw=1.2)
    at = max(row["gain"], row["high"] if known(row["high"]) else 0, 1) * 1.08
    text = f"{times(row['gain'])} = {row['of thousands']} of the claim"
    text = "at least ×2,000" if row["by"] == CLAIM else text
    axes.text(at, y, text, va="center", fontsize=SMALL)

"""Figures of speed-ups: as predicted or not, and by compiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fastlab.spec.precision import FORMATS
from fastlab.view.plots.precisions import (
    LINE,
    PLAIN,
    bare,
    known,
    longest,
    ticks_to,
    with_loss,
)
from fastlab.view.plots.speedups import gains
from fastlab.view.plots.sweep import bands
from fastlab.view.style import COLORS, GREY, MARKERS, SMALL, TEXT, TITLE, log_axes
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def promised(table: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """Measured against predicted speed-up over the baseline, log-log, each mark named.

    `table` is tables.gains(), of any calls. Where no row has both, the figure says so.
    """
    shown = comparable(table, baseline)
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    axes = figure.subplots()
    if shown.empty:
        axes.set_axis_off()
        what = f"no precision beside {baseline} was measured"
        axes.set_title(what, fontsize=TITLE, loc="left")
        return figure
    ends = shown[["measured_gain", "estimated_gain"]].to_numpy(float)
    low, high = min(ends.min(), 1) / 1.5, max(ends.max(), 1) * 1.5
    bands(axes, low, high)
    for _, group in shown.groupby(["precision", "phase"], sort=False):
        _promises(axes, group)
    what = f"speed-up over {baseline}"
    log_axes(axes, f"predicted {what}", f"measured {what}")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.axvline(1, color=GREY, lw=0.8, ls=":")
    for axis in (axes.xaxis, axes.yaxis):
        gains(axis)
        axis.set_minor_locator(NullLocator())
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(fontsize=SMALL, frameon=False, **place)
    axes.set_title(promise(shown), fontsize=TITLE, loc="left")
    return figure


def comparable(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Lines with a predicted and a measured speed-up, but the baseline's."""
    both = table["measured_gain"].map(known) & table["estimated_gain"].map(known)
    return table[both & (table["precision"] != baseline)]


def _promises(axes: Axes, group: pd.DataFrame) -> None:
    precision, phase = group["precision"].iloc[0], group["phase"].iloc[0]
    look: dict[str, Any] = {"color": COLORS[precision], "ls": "none", "ms": 8}
    look["fillstyle"] = "left" if FORMATS[precision].dynamic else "full"
    look |= {
        "markerfacecoloralt": "white",
        "label": f"{with_loss(precision, group)}: {phase}",
    }
    x, y = group["estimated_gain"], group["measured_gain"]
    axes.plot(x, y, MARKERS[phase], zorder=4, **look)


def promise(shown: pd.DataFrame) -> str:
    """How many speed-ups were on the right side of one, and how far off they were."""
    made = np.log(shown["estimated_gain"].to_numpy(float))
    found = np.log(shown["measured_gain"].to_numpy(float))
    side, off = int((made * found > 0).sum()), np.exp(np.median(np.abs(made - found)))
    return (
        f"{side} of {len(shown)} on the right side of ×1; "
        f"median off by a factor of {off:.2f}"
    )


COLUMNS = (1.06, 1.28, 1.52)  # times the longest time: where the texts stand


def engines(table: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """Decode, a line for each precision: eager (hollow ring) to compiled (filled), ms.

    `table` holds the lines of both runtimes; the speed-up by compiling is written
    beside, with the seconds that it took, and the eager speed-up over the baseline.
    """
    names = list(dict.fromkeys(table["precision"]))
    figure = Figure(figsize=(9.6, 1.6 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots()
    most = longest(table)
    for n, name in enumerate(reversed(names)):
        _engine(axes, n, table[table["precision"] == name], most)
    heads = ("by\ncompiling", f"compiled,\nover {baseline}", "seconds to\ncompile")
    for x, head in zip(COLUMNS, heads, strict=True):
        style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "bottom"}
        axes.text(x * most, len(names) - 0.55, head, **style)
    told = [with_loss(name, table, "\n") for name in reversed(names)]
    axes.set_yticks(range(len(names)), told, fontsize=TEXT)
    axes.set(xlim=(0, 1.75 * most), ylim=(-0.6, len(names) - 0.4))
    axes.set_xticks(ticks_to(most))
    label = "ms a decode step: ▲ eager, ● compiled, hollow: estimated"
    axes.set_xlabel(label, fontsize=TEXT)
    bare(axes)
    return figure


def _engine(axes: Axes, y: float, rows: pd.DataFrame, most: float) -> None:
    ms: dict[str, float] = {}
    for side, (_, row) in zip((0.16, -0.16), rows.iterrows(), strict=False):
        color, eager = COLORS[row["precision"]], row["runtime"] == "eager"
        look: dict[str, Any] = {"color": color, "marker": "^" if eager else "o"}
        if known(row["estimated_ms"]):
            ends = [row["estimated_low_ms"], row["estimated_high_ms"]]
            axes.plot(ends, [y + side] * 2, color=GREY, **LINE)
            at = ([row["estimated_ms"]], [y + side])
            axes.plot(*at, mfc="white", ms=7, **look)
        if known(row["measured_ms"]):
            ms["eager" if eager else "compiled"] = row["measured_ms"]
            axes.plot([row["measured_ms"]], [y + side], ms=8, **look)
    for x, text in zip(COLUMNS, _told(rows, ms), strict=False):
        axes.text(x * most, y, text, va="center", fontsize=SMALL, bbox=PLAIN)


def _told(rows: pd.DataFrame, ms: Mapping[str, float]) -> list[str]:
    if len(ms) < 2:
        return [_missing(rows)]
    last = rows.iloc[-1]
    gain, spent = last["measured_gain"], last["compile_s"]
    texts = [times(ms["eager"] / ms["compiled"])]
    texts.append(times(gain) if known(gain) else "")
    return [*texts, digits(spent) if known(spent) else ""]


def _missing(rows: pd.DataFrame) -> str:
    found = rows[~rows["measured_ms"].map(known)]
    return f"compiled: {found['status'].iloc[0]}" if len(found) else "eager only"

"""Figures of the traps in timing code: samples -> Figure, and nothing is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fastlab.clock.drift import TRUE_MEDIAN, Simulated, resampled
from fastlab.clock.stats import summary
from fastlab.clock.traps import Series
from fastlab.view.style import GREY, SMALL, TEXT, TITLE
from fastlab.view.tables.timing import FAR, FEW
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAREFUL, TRAP = "#000000", "#b35900"
STYLES = ({"color": TRAP, "marker": "^"}, {"color": CAREFUL, "marker": "o"})
INTERVALS_DRAWN, DOTS_DRAWN = 60, 300
FACTORS = (1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000)  # written on an axis


def strips(series: Sequence[Series]) -> Figure:
    """Every sample in the order taken, beside its ECDF; two series, ms on a log axis.

    The trap comes first. First calls are hollow and ringed; the bar runs from p10 to
    p90 where 64 samples or more allow it, the dash in it is the median.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
    for place, (one, style) in enumerate(zip(series, STYLES, strict=True)):
        _strip(left, place, one, style)
        _ecdf(right, place, one, style)
    _log_ms(left)
    left.set(xlim=(-0.12, len(series) - 0.02), xlabel="")
    left.set_xticks([n + 0.37 for n in range(len(series))], [s.name for s in series])
    left.tick_params(axis="x", length=0, labelsize=TEXT)
    left.set_title("every sample, in the order taken", fontsize=TITLE, loc="left")
    right.set_title("share of samples below", fontsize=TITLE, loc="left")
    right.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    right.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    right.tick_params(labelsize=SMALL, color=GREY)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _strip(axes: Axes, place: int, series: Series, style: dict[str, str]) -> None:
    ms, color = np.array(series.ns) / 1e6, style["color"]
    at = place + np.linspace(0, 0.6, len(ms))
    dots: dict[str, Any] = {"s": 16, "alpha": 0.45, "lw": 0, **style}
    axes.scatter(at[series.first :], ms[series.first :], **dots)
    if series.first:
        ring: dict[str, Any] = {"s": 60, "fc": "none", "ec": color, "lw": 1.4}
        axes.scatter(at[: series.first], ms[: series.first], marker="D", **ring)
        note: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
        note |= {"bbox": {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}}
        axes.annotate("first calls", (at[0], ms[0]), (9, 7), color=color, **note)
    stats, bar = summary(ms), place + 0.67
    if stats.p10 is not None and stats.p90 is not None:
        axes.plot([bar, bar], [stats.p10, stats.p90], color=color, lw=3, alpha=0.5)
    axes.plot([bar - 0.03, bar + 0.03], [stats.median] * 2, color=color, lw=3)
    text = f"{digits(stats.median)} ms\nn = {stats.n}"
    axes.text(bar + 0.05, stats.median, text, color=color, va="center", fontsize=SMALL)


def _ecdf(axes: Axes, place: int, series: Series, style: dict[str, str]) -> None:
    ms = np.sort(series.ns) / 1e6
    share = np.arange(1, len(ms) + 1) / len(ms)
    line: dict[str, Any] = {"lw": 2, "ls": ("--", "-")[place]}
    axes.step(share, ms, where="pre", color=style["color"], label=series.name, **line)
    axes.legend(loc="upper left", fontsize=SMALL, frameon=False)


def _log_ms(axes: Axes) -> None:
    axes.set_ylabel("milliseconds (log scale)", fontsize=TEXT)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=30))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.tick_params(axis="y", which="both", labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)


def few(series: Series, sizes: Sequence[int] = FEW) -> Figure:
    """Medians of few samples over that of all: dots, and where 90 % of them lie.

    The pale band is within 5 % of the full sample's median.
    """
    tries = np.array([resampled(series.ns, n) for n in sizes])
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(1 - FAR, 1 + FAR, color="#e8e8e8", lw=0)
    axes.axvline(1, color=GREY, lw=1)
    for place, medians in enumerate(tries):
        _spread(axes, -place, medians)
    drawn = tries[:, :DOTS_DRAWN]
    _factors(axes, drawn.min(), drawn.max())
    axes.set_xlabel(f"median of few / median of all {len(series.ns)}", fontsize=TEXT)
    axes.set_yticks([-p for p in range(len(sizes))], [f"{n} samples" for n in sizes])
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.tick_params(axis="y", length=0, labelsize=TEXT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    title = "what you would have reported; the bar holds 90 % of the tries"
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _factors(axes: Axes, low: float, high: float) -> None:
    """A log axis of factors from low to high, with a few round ones written out."""
    low, high = min(low, 1 - 2 * FAR) * 0.98, max(high, 1 + 2 * FAR) * 1.02
    up = [f for f in FACTORS if f < high][-3:]
    down = [1 / f for f in FACTORS if 1 / f > low][-2:]
    labels = [times(t) for t in down] + ["the same"] + [times(t) for t in up]
    axes.set(xscale="log", xlim=(low, high))
    axes.set_xticks([*down, 1, *up], labels)
    axes.xaxis.set_minor_locator(NullLocator())


def _spread(axes: Axes, place: float, medians: np.ndarray) -> None:
    some = medians[:DOTS_DRAWN]
    jitter = place + np.linspace(-0.28, 0.28, len(some))
    axes.scatter(some, jitter, s=9, color=TRAP, alpha=0.35, lw=0)
    low, middle, high = np.quantile(medians, (0.05, 0.5, 0.95))
    axes.plot([low, high], [place, place], color=CAREFUL, lw=3, solid_capstyle="butt")
    axes.plot([middle], [place], color=CAREFUL, marker="|", markersize=16)


def intervals(found: Sequence[Simulated]) -> Figure:
    """Sixty simulated intervals in each panel; those that miss the truth stand out."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)
    for axes, one in zip(panels[0], found, strict=True):
        _dance(axes, one)
    panels[0][0].set_ylabel("one simulated measurement a line", fontsize=TEXT)
    return figure


def _dance(axes: Axes, found: Simulated) -> None:
    ends = zip(found.low, found.high, found.holds, strict=True)
    for place, (low, high, holds) in enumerate(list(ends)[:INTERVALS_DRAWN]):
        style: dict[str, Any] = {"color": GREY, "lw": 1}
        if not holds:
            style = {"color": TRAP, "lw": 2.4}
        axes.plot([low, high], [place, place], **style)
    axes.axvline(TRUE_MEDIAN, color=CAREFUL, lw=1.2)
    held = f"{found.coverage:.0%} hold the truth"
    axes.set_title(f"{found.interval} interval: {held}", fontsize=TITLE, loc="left")
    axes.set_xlabel("interval of the median / true median", fontsize=TEXT)
    axes.set_yticks([])
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)


def reported(
    series: Series,
    taken: int,
    value: tuple[float, float, float],
    truth: tuple[float, float, float],
    limits: tuple[float, float],
) -> Figure:
    """The first `taken` samples, what was reported from them, and the full answer.

    `value` and `truth` are (low, middle, high) in ms; the other samples stay pale.
    """
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.subplots()
    ms = np.array(series.ns) / 1e6
    at = np.arange(1, len(ms) + 1)
    axes.scatter(at[taken:], ms[taken:], s=14, color="#cccccc", lw=0)
    axes.scatter(at[:taken], ms[:taken], s=22, marker="^", color=TRAP, lw=0)
    for (low, middle, high), color, ls in ((truth, CAREFUL, "-"), (value, TRAP, "--")):
        axes.axhspan(low, high, color=color, alpha=0.15, lw=0)
        axes.axhline(middle, color=color, lw=2, ls=ls)
    axes.set(ylim=limits, xlim=(0, len(ms) + 1))
    _log_ms(axes)
    axes.set_xlabel("call, in the order taken", fontsize=TEXT)
    axes.tick_params(axis="x", labelsize=SMALL, color=GREY)
    title = f"you report {digits(value[1])} ms (dashed); all of ours: "
    axes.set_title(f"{title}{digits(truth[1])} ms (solid)", fontsize=TITLE, loc="left")
    return figure

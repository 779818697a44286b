"""Figures of roofs: operations under a datasheet's, benchmarks under a measured one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from fastlab.latency.devices import Device
from fastlab.view.numbers import si
from fastlab.view.style import COLORS, GREY, MARKERS, SMALL, TITLE, log_axes
from fastlab.view.tables.roofline import NO_FLOPS, walk
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

X, Y = "FLOP per byte", "FLOP/s"
SHAPES = {"linear": "s", "attention, prefill": "o", "attention, decode": "^"}
ABOVE = 1.05  # times the roof: what a roof of main memory does not explain
NEAR = 4.0  # marks within this factor have their names in one column
STEEP = 1.5  # how much more than across, in logs, arrows climb that arrive from below
STOPS = (1, 64, 1024)  # rows that are marked on the path of the estimate
APART = 0.042  # of the axis's height: how far apart labels stand


def roofline(
    table: pd.DataFrame,
    device: Device,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Figure:
    """FLOP/s against FLOPs per byte, log-log: a hollow mark a product, under its roof.

    `table` is that of tables.on_the_roof(). Bars are the band from all costs hidden to
    none; arrows lead from the first precision to the last. Roofs are dashed, from a
    datasheet, or solid if calibrated.
    """
    figure = Figure(figsize=(9.6, 6.2))  # one axes: no layout engine, half the time
    axes = figure.subplots()
    products = table[table[X] > 0]
    precisions = list(dict.fromkeys(products["precision"]))
    x, y = limits or limits_of(products, device)
    _axes(axes, x, y)
    for precision in precisions:
        _roof(axes, device, precision, x)
    _slope(axes, device, precisions)
    for _, group in products.groupby(["phase", "precision"], sort=False):
        precision = group["precision"].iloc[0]
        _marks(axes, group)
        if precision == _labelled(products, group["phase"].iloc[0], precisions):
            _labels(axes, group, device.peak(precision))
    _arrows(axes, products, precisions)
    axes.set_title(_title(device), fontsize=TITLE, loc="left")
    _phases(axes, products)
    _beside(axes, table)
    return figure


def limits_of(
    products: pd.DataFrame, device: Device
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes that hold all marks, the roofs and their ridges."""
    precisions = set(products["precision"])
    ridges = [device.ridge(p) for p in precisions]
    top = max(device.peak(p) for p in precisions)
    left, right = products[X].min() / 4, max(products[X].max(), *ridges, 1) * 6
    return (left, right), (products["low"].min() / 3, top * 4)


def _axes(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    log_axes(axes, "arithmetic intensity (FLOP per byte)", "FLOP/s")
    axes.set(xlim=x, ylim=y)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: si(v)))
    axes.grid(True, which="major", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def _roof(
    axes: Axes, device: Device, precision: str, ends: tuple[float, float]
) -> None:
    """The roof, the band below it down to the sum, its height and its ridge."""
    x, peak, color = np.geomspace(*ends, 200), device.peak(precision), COLORS[precision]
    slope = device.bandwidth * x
    best, worst = np.minimum(slope, peak), 1 / (1 / slope + 1 / peak)
    axes.fill_between(x, worst, best, color=color, alpha=0.09, lw=0)
    axes.plot(x, best, color=color, lw=1.8, ls="-" if device.calibrated else "--")
    note: dict[str, Any] = {"color": color, "fontsize": SMALL, "ha": "right"}
    text = f"{precision}: {si(peak, 'FLOP/s')}"
    axes.annotate(text, (ends[1], peak), (-4, 5), textcoords="offset points", **note)
    ridge = device.ridge(precision)
    axes.plot([ridge, ridge], [axes.get_ylim()[0], peak], color=color, lw=0.8, ls=":")
    at = (ridge, axes.get_ylim()[0])
    text, note["ha"] = f"ridge {digits(ridge)}", "left"
    axes.annotate(text, at, (4, 5), textcoords="offset points", **note)


def _slope(axes: Axes, device: Device, precisions: Sequence[str]) -> None:
    """The bandwidth, written above the slope, where no mark can be."""
    x = min(device.ridge(precision) for precision in precisions) / 3
    at, text = (x, x * device.bandwidth), si(device.bandwidth, "B/s")
    note: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "ha": "right"}
    axes.annotate(text, at, (-5, 5), textcoords="offset points", **note)


def _labelled(products: pd.DataFrame, phase: str, precisions: Sequence[str]) -> str:
    """The precision whose marks have the names: arrows leave those to their right.

    The last one, unless the arrows climb: then they arrive from where names would be.
    """
    own = products[products["phase"] == phase]
    first, last = (own[own["precision"] == p] for p in (precisions[0], precisions[-1]))
    climb, across = (np.log(last[n].median() / first[n].median()) for n in (Y, X))
    return precisions[0] if climb > STEEP * across else precisions[-1]


def _marks(axes: Axes, group: pd.DataFrame) -> None:
    color, phase = COLORS[group["precision"].iloc[0]], group["phase"].iloc[0]
    x, y = group[X].to_numpy(float), group[Y].to_numpy(float)
    band = np.maximum([y - group["low"], group["high"] - y], 0)
    look: dict[str, Any] = {"color": color, "marker": MARKERS[phase], "ls": "none"}
    look |= {"markerfacecolor": "white", "markersize": 8, "markeredgewidth": 1.6}
    axes.errorbar(x, y, yerr=band, elinewidth=1, ecolor=f"{color}77", zorder=4, **look)


def _labels(axes: Axes, group: pd.DataFrame, peak: float) -> None:
    """Names to the right of the marks, below the roof and one another."""
    color = COLORS[group["precision"].iloc[0]]
    low, high = np.log(axes.get_ylim())
    before = (np.log(peak) - low) / (high - low)
    for _, row in group.sort_values(Y, ascending=False).iterrows():
        before = min((np.log(row[Y]) - low) / (high - low), before - APART)
        near = group[X][group[X] < NEAR * row[X]].max()
        at = (near * 1.45, np.exp(low + before * (high - low)))
        style: dict[str, Any] = {"color": color, "fontsize": SMALL, "va": "center"}
        line = {"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.6}
        line |= {"shrinkB": 4, "relpos": (0, 0.5)}
        axes.annotate(row["operation"], (row[X], row[Y]), at, arrowprops=line, **style)


def _arrows(axes: Axes, products: pd.DataFrame, precisions: Sequence[str]) -> None:
    if len(precisions) < 2:
        return
    first, last = precisions[0], precisions[-1]
    style: dict[str, Any] = {"arrowstyle": "->", "color": GREY, "lw": 0.9}
    style |= {"shrinkA": 6, "shrinkB": 6, "alpha": 0.55}
    for _, group in products.groupby(["phase", "operation"], sort=False):
        start, end = (group[group["precision"] == p] for p in (first, last))
        a, b = ((one[X].item(), one[Y].item()) for one in (start, end))
        axes.annotate("", b, a, arrowprops=style, zorder=3)


def _title(device: Device) -> str:
    what = "calibrated" if device.calibrated else "datasheet, not calibrated"
    return f"{device.name} ({what}): hollow marks are estimates"


def _phases(axes: Axes, products: pd.DataFrame) -> None:
    for phase in dict.fromkeys(products["phase"]):
        look: dict[str, Any] = {"color": GREY, "markerfacecolor": "white"}
        look |= {"ls": "none", "markersize": 8, "label": phase}
        axes.plot([], [], MARKERS[phase], **look)
    axes.legend(loc="upper left", fontsize=SMALL, frameon=False, ncols=2)


def _beside(axes: Axes, table: pd.DataFrame) -> None:
    """The share of time of what has no place on the axes: it does no FLOPs."""
    last = table["precision"].iloc[-1]
    off = table[(table["operation"] == NO_FLOPS) & (table["precision"] == last)]
    each = "\n".join(f"{r['share']:.0%} of {r['phase']}" for _, r in off.iterrows())
    text = f"◁ off the axis, no FLOPs:\nnorms, RoPE, cache ...\n{each} ({last})"
    style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "bottom"}
    axes.text(0.985, 0.09, text, transform=axes.transAxes, ha="right", **style)


def measured_roof(
    samples: pd.DataFrame, device: Device, width: int, sheet: Device | None = None
) -> Figure:
    """A panel per precision: microbenchmarks (filled) under the device's measured roof.

    The line is the estimate for one width x width layer from 1 row to 8192. `sheet`:
    the same device's datasheet, its roof dashed.
    """
    precisions = list(dict.fromkeys(samples["precision"]))
    figure = Figure(figsize=(1.2 + 4.6 * len(precisions), 5.0), layout="constrained")
    panels = figure.subplots(1, len(precisions), sharey=True, squeeze=False)[0]
    top = max(device.peak(p) for p in precisions) * 4
    x = (samples[X].min() / 3, samples[X].max() * 3)
    for axes, precision in zip(panels, precisions, strict=True):
        _axes(axes, x, (samples[Y].min() / 3, top))
        for one in filter(None, (sheet, device)):
            _roof(axes, one, precision, x)
        _filled(axes, samples[samples["precision"] == precision])
        _path(axes, device, precision, width)
        axes.set_title(_above(samples, precision), fontsize=TITLE, loc="left")
    for axes in panels[1:]:
        axes.set_ylabel("")
    panels[0].legend(loc="upper left", fontsize=SMALL, frameon=False)
    return figure


def _filled(axes: Axes, chosen: pd.DataFrame) -> None:
    for name, marker in SHAPES.items():
        one = chosen[chosen["operation"] == name]
        color = COLORS[chosen["precision"].iloc[0]]
        look: dict[str, Any] = {"color": color, "ls": "none", "alpha": 0.75}
        axes.plot(one[X], one[Y], marker, markersize=6, label=name, mew=0, **look)


def _path(axes: Axes, device: Device, precision: str, width: int) -> None:
    found = walk(device, precision, width)
    name = f"estimate: a {width:,} x {width:,} layer"
    axes.plot(
        found[X], found[Y], color="#D55E00", lw=1.6, ls="-.", zorder=3, label=name
    )
    stops = found[found["rows"].isin(STOPS)]  # named in the legend: marks stay free
    look: dict[str, Any] = {"color": "#D55E00", "mfc": "white", "ms": 5, "ls": "none"}
    name = "at {}, {} and {:,} rows".format(*STOPS)
    axes.plot(stops[X], stops[Y], "o", zorder=4, label=name, **look)


def _above(samples: pd.DataFrame, precision: str) -> str:
    share = (samples[Y] / samples["roof"])[samples["precision"] == precision]
    above = int((share > ABOVE).sum())
    why = f"\n{above} above it: their data is probably in a cache" if above else ""
    reached = f"the median of {len(share)} reaches {share.median():.0%} of its roof"
    return f"{precision}: {reached}{why}"

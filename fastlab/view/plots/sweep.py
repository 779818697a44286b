"""Rows -> figures: pure functions that return a Figure, and show nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fastlab.view.style import (
    COLORS,
    FILLS,
    GREY,
    MARKERS,
    PALE,
    SMALL,
    TEXT,
    TITLE,
    colorbar,
    ink,
    log_axes,
    log_norm,
    ratio_norm,
)
from fastlab.view.tables.sweep import cells, compared, farthest, settled
from fastlab.view.words import digits, name_of, nothing, times, within

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

UNSURE = "~"  # before the number of a measurement that has not settled
CLOSE, FAR = 1.25, 2.0  # the bands around "exactly as estimated"
ROOM, MANY = 8, 100  # keys that fit into a scatter, and rows that crowd it


def heatmaps(rows: pd.DataFrame, phase: str, precision: str) -> Figure:
    """Layers x hidden in three panels: measured ms, estimated ms, and their ratio.

    The first two share one colour scale, made without unsettled cells (~); a cell
    without a value names its status.
    Raises ValueError where rows do not give one value for each cell.
    """
    marked = rows.assign(sure=settled(rows))
    names = ("measured_ms", "estimated_ms", "ratio", "status", "sure")
    measured, estimated, ratio, status, sure = (
        cells(marked, phase, precision, name) for name in names
    )
    height = max(2.9, 1.75 + 0.62 * len(status))
    figure = Figure(figsize=(10.5, height), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    norm = log_norm(np.stack([measured[sure == 1], estimated]))
    shown = status.where(sure == 1, status.replace("ok", UNSURE))
    image = _heatmap(left, measured, norm, shown)
    _heatmap(middle, estimated, norm, status)
    off = _heatmap(right, ratio, ratio_norm(ratio[sure == 1].to_numpy()), shown, True)
    left.set_title(f"measured, {precision} {phase}", fontsize=TITLE)
    middle.set_title(f"estimated, {precision} {phase}", fontsize=TITLE)
    right.set_title("measured / estimated", fontsize=TITLE)
    left.set_ylabel("layers", fontsize=TEXT)
    colorbar(figure, image, [left, middle], _unit(shown), digits)
    colorbar(figure, off, [right], "blue: faster, red: slower than estimated", times)
    return figure


def _unit(shown: pd.DataFrame) -> str:
    unsure = bool((shown == UNSURE).to_numpy().any())
    why = f"  ({UNSURE} unsettled: few samples, or a wide interval)"
    return "milliseconds" + why * unsure


def _heatmap(
    axes: Axes,
    grid: pd.DataFrame,
    norm: LogNorm,
    status: pd.DataFrame,
    diverging: bool = False,
) -> AxesImage:
    values = grid.to_numpy(float)
    cmap = "RdBu_r" if diverging else "cividis"
    image = axes.imshow(values, cmap=cmap, norm=norm, origin="lower", aspect="auto")
    axes.set_facecolor(PALE)
    axes.set_xlabel("hidden size", fontsize=TEXT)
    axes.set_xticks(range(grid.shape[1]), [str(h) for h in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [str(n) for n in grid.index])
    axes.tick_params(length=0, labelsize=TEXT)
    axes.spines[:].set_visible(False)
    for (y, x), value in np.ndenumerate(values):
        text, color = str(status.iat[y, x]), GREY
        if np.isfinite(value):
            prefix = UNSURE if text == UNSURE else ""
            text = prefix + (times(value) if diverging else digits(value))
            color = ink(image.to_rgba(np.array([value]))[0])
        axes.text(x, y, text, color=color, ha="center", va="center", fontsize=TEXT)
    return image


def scatter(rows: pd.DataFrame, knowing: str = "no row used") -> Figure:
    """Measured against estimated ms, log-log, with the bands x1.25 and x2.

    Horizontal bars are the estimate's interval, vertical ones the measured interval;
    more than MANY rows have none. knowing: what the estimates were made from, for the
    title. Where no row has both numbers, the figure says so.
    """
    known = compared(rows)
    groups = [group for _, group in known.groupby(["precision", "phase"], sort=False)]
    crowded = len(groups) > ROOM  # its keys stand beside it
    size = (8.8, 6.6) if crowded else (7.2, 6.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    if known.empty:
        axes.set_axis_off()
        axes.set_title(nothing(rows), fontsize=TITLE, loc="left")
        return figure
    both = known[["measured_ms", "estimated_ms"]].to_numpy(float)
    low, high = both.min() / 1.6, both.max() * 1.6
    bands(axes, low, high)
    for group in groups:
        series(axes, group, crowded=len(known) > MANY)
    log_axes(axes, "estimated (ms)", "measured (ms)")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    beside = {"loc": "lower left", "bbox_to_anchor": (1.0, 0.0)}
    where: dict[str, Any] = beside if crowded else {"loc": "lower right"}
    axes.legend(fontsize=SMALL, frameon=False, **where)
    median = f"measured / estimated: median {times(known['ratio'].median())}"
    title = f"Estimates, {knowing}\n{median}, {within(known, CLOSE)}"
    axes.set_title(title, fontsize=TITLE, loc="left")
    _name_farthest(axes, known)
    return figure


def bands(axes: Axes, low: float, high: float) -> None:
    """The diagonal y = x with the bands within x1.25 and x2 of it, from low to high."""
    line = np.array([low, high])
    for factor, shade in ((FAR, "#f1f1f1"), (CLOSE, "#dcdcdc")):
        axes.fill_between(line, line / factor, line * factor, color=shade, lw=0)
        text: dict[str, Any] = {"color": GREY, "fontsize": SMALL, "rotation": 45}
        at = high / factor / 1.04
        text |= {"ha": "right", "va": "bottom", "rotation_mode": "anchor"}
        axes.text(at, at * factor, f"×{factor:g}", **text)
    axes.plot(line, line, color=GREY, lw=1, zorder=1)


def series(
    axes: Axes, group: pd.DataFrame, x: str = "estimated_ms", crowded: bool = False
) -> None:
    """The measured marks of rows of one precision and phase, with their intervals.

    crowded: smaller marks without their intervals, which would cover them.
    """
    if group.empty:
        return
    precision, phase = group["precision"].iloc[0], group["phase"].iloc[0]
    color = COLORS[precision]
    own = None if crowded else _interval(group, "measured")
    across = None if own is None or x == "hidden" else _interval(group, "estimated")
    axes.errorbar(
        group[x],
        group["measured_ms"],
        xerr=across,
        yerr=own,
        label=f"{precision} {phase}",
        color=color,
        ecolor=f"{color}66",
        elinewidth=1.2,
        linestyle="none",
        marker=MARKERS[phase],
        markersize=4.5 if crowded else 7,
        fillstyle=FILLS.get(precision, "full"),
        markerfacecoloralt="white",
    )


def _interval(rows: pd.DataFrame, what: str) -> np.ndarray:
    middle, low, high = (rows[f"{what}{n}_ms"] for n in ("", "_low", "_high"))
    return np.maximum([middle - low, high - middle], 0)


def _name_farthest(axes: Axes, known: pd.DataFrame) -> None:
    row = farthest(known)
    at = (row["estimated_ms"], row["measured_ms"])
    # Slower points lie above the diagonal: that corner is empty, with a line to it.
    slower = row["ratio"] > 1
    place, side = ((0.05, 0.80), "left") if slower else ((0.97, 0.42), "right")
    text = f"{name_of(row)}: {times(row['ratio'])}"
    line = {"arrowstyle": "-", "color": GREY, "lw": 0.8}
    style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "ha": side}
    axes.annotate(text, at, place, textcoords="axes fraction", arrowprops=line, **style)


def lines(
    rows: pd.DataFrame,
    curve: pd.DataFrame,
    layers: int,
    limits: tuple[float, float],
) -> Figure:
    """Time against hidden size at one number of layers.

    `curve` has hidden, ms, low_ms, high_ms (estimated: line and band); rows of this
    number of layers are filled markers, other measured rows stay in grey behind.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    precision, phase = rows["precision"].iloc[0], rows["phase"].iloc[0]
    measured = rows[rows["measured_ms"].notna()]
    for other, group in measured[measured["layers"] != layers].groupby("layers"):
        _background(axes, group, f"{other} layers")
    _curve(axes, curve, COLORS[precision], f"{layers} layers, estimated")
    here = measured[measured["layers"] == layers]
    series(axes, here, x="hidden")
    _hidden_axes(axes, sorted(set(rows["hidden"])), limits)
    title = f"{precision} {phase}, {layers} layers: "
    title += "line estimated, marks measured" if len(here) else "estimated only"
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _curve(axes: Axes, curve: pd.DataFrame, color: str, label: str) -> None:
    if curve.empty:
        return
    band: dict[str, Any] = {"color": color, "alpha": 0.18, "lw": 0}
    axes.fill_between(curve["hidden"], curve["low_ms"], curve["high_ms"], **band)
    axes.plot(curve["hidden"], curve["ms"], color=color, lw=1.8, ls="--")
    at = (curve["hidden"].iloc[0], curve["high_ms"].iloc[0])
    style: dict[str, Any] = {"fontsize": SMALL, "color": color}
    axes.annotate(label, at, (0, 9), textcoords="offset points", **style)


def _hidden_axes(axes: Axes, hidden: list[int], limits: tuple[float, float]) -> None:
    log_axes(axes, "hidden size", "milliseconds")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(hidden, [str(h) for h in hidden])
    axes.set(ylim=limits, xlim=(hidden[0] / 1.15, hidden[-1] * 1.35))


def _background(axes: Axes, group: pd.DataFrame, label: str) -> None:
    group = group.sort_values("hidden")
    style: dict[str, Any] = {
        "color": "#bbbbbb",
        "marker": "o",
        "markersize": 5,
        "lw": 1,
    }
    axes.plot(group["hidden"], group["measured_ms"], zorder=0, **style)
    end = (group["hidden"].iloc[-1], group["measured_ms"].iloc[-1])
    note: dict[str, Any] = {"fontsize": SMALL, "color": "#888888"}
    axes.annotate(label, end, (7, -3), textcoords="offset points", **note)

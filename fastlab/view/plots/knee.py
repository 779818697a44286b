"""The figure of batches: latency and throughput of decode, and where they turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fastlab.view.numbers import si
from fastlab.view.style import COLORS, SMALL, TEXT, TITLE, log_axes
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Lines of one colour told apart: by their dashes, and by a name at their end.
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)))
SHORTEST = 4  # batches in a row that are bound by the same: fewer are not named
PLACES = (0.38, 0.67)  # of such a stretch: where a name above it stands, and below
CLOSE = 1.3  # lines within this factor run together, and need one name


def batch_knee(
    curves: Mapping[str, pd.DataFrame],
    knees: Mapping[str, float],
    title: str,
    rows: pd.DataFrame | None = None,
) -> Figure:
    """Decode latency above, tokens per second below, against the batch; log-log.

    `curves` are tables.batch_curve() by "precision: name"; `knees` the batch at which
    linear layers reach the ridge, by precision. Filled marks are measured rows. A line
    is thin and pale beyond the calibrated range, and ends where memory is full. What
    bounds a step is written above the first line, below the second, and so on, but once
    for lines of one colour that run together.
    """
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for n, (label, curve) in enumerate(curves.items()):
        color = _color(label)
        _line(upper, curve, "ms", color, DASHES[n % len(DASHES)], label)
        _line(lower, curve, "tokens_per_s", color, DASHES[n % len(DASHES)], label)
        before = [c for k, c in [*curves.items()][:n] if _color(k) == color]
        _name_bounds(upper, curve[curve["fits"]], color, before, below=n % 2 == 1)
    _full(upper, curves, "ms")
    _full(lower, curves, "tokens_per_s")
    if rows is not None:
        _measured(upper, rows, "measured_ms")
        _measured(lower, rows, "tokens_per_s")
    widest = max(curve["batch"].max() for curve in curves.values())
    _axes(upper, "milliseconds a step", widest)
    _axes(lower, "tokens per second", widest)
    for precision, batch in knees.items():
        _knee(upper, lower, precision, batch, widest)
    lower.set_xlabel("batch (sequences decoded at once)", fontsize=TEXT)
    upper.legend(loc="upper left", fontsize=SMALL, frameon=False)
    upper.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _color(label: str) -> str:
    return COLORS[label.partition(":")[0]]


def _line(
    axes: Axes, curve: pd.DataFrame, name: str, color: str, dashes: Any, label: str
) -> None:
    curve = curve[curve["fits"]]
    x, y = curve["batch"].to_numpy(float), curve[name].to_numpy(float)
    known = ~curve["extrapolated"].to_numpy(bool)
    axes.plot(x, y, color=color, lw=1, alpha=0.5, ls=dashes)
    sure = np.where(known, y, np.nan)
    axes.plot(x, sure, color=color, lw=2, ls=dashes, label=label)
    if name == "ms":
        band: dict[str, Any] = {"color": color, "alpha": 0.08, "lw": 0}
        axes.fill_between(x, curve["low_ms"], curve["high_ms"], **band)


def _full(axes: Axes, curves: Mapping[str, pd.DataFrame], name: str) -> None:
    """A cross at the end of each line that ends; lines that end together, one name."""
    named = set()
    for label, curve in curves.items():
        if curve["fits"].all():
            continue
        row, color = curve[curve["fits"]].iloc[-1], _color(label)
        at = (row["batch"], row[name])
        axes.plot(*at, "x", color=color, markersize=9, markeredgewidth=2)
        note: dict[str, Any] = {"fontsize": SMALL, "color": color, "va": "center"}
        place: dict[str, Any] = {"xytext": (9, 0), "textcoords": "offset points"}
        text = "" if row["batch"] in named else "memory full"
        axes.annotate(text, at, **place, **note)
        named.add(row["batch"])


def _name_bounds(
    axes: Axes,
    curve: pd.DataFrame,
    color: str,
    before: Sequence[pd.DataFrame],
    below: bool,
) -> None:
    """What bounds the step, over each stretch of the line where that is the same."""
    stretch = (curve["bound"] != curve["bound"].shift()).cumsum()
    for _, part in curve.groupby(stretch):
        row = part.iloc[int(len(part) * PLACES[below])]
        if len(part) >= SHORTEST and not any(_together(row, one) for one in before):
            note: dict[str, Any] = {"fontsize": SMALL, "color": color}
            note |= {"ha": "left", "va": "top"} if below else {"ha": "right"}
            place: dict[str, Any] = {"textcoords": "offset points"}
            place["xytext"] = (3, -4) if below else (-3, 5)
            axes.annotate(row["bound"], (row["batch"], row["ms"]), **place, **note)


def _together(row: pd.Series, other: pd.DataFrame) -> bool:
    """Whether another line is bound by the same, and near, at the row's batch."""
    there = other[(other["batch"] == row["batch"]) & (other["bound"] == row["bound"])]
    return bool((np.abs(np.log(there["ms"] / row["ms"])) < np.log(CLOSE)).any())


def _measured(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    for precision, group in rows.groupby("precision", sort=False):
        look: dict[str, Any] = {"color": COLORS[str(precision)], "ls": "none"}
        axes.plot(group["batch"], group[name], "^", markersize=9, zorder=5, **look)


def _axes(axes: Axes, label: str, widest: int) -> None:
    log_axes(axes, "", label)
    axes.grid(True, which="major", color="#eeeeee", lw=0.8)
    axes.set_xlim(0.8, widest)
    ticks = [4**n for n in range(12) if 4**n <= widest]
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if high < 99 * low else (1,))
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: si(v)))


def _knee(upper: Axes, lower: Axes, precision: str, batch: float, widest: int) -> None:
    if not batch < widest:
        return
    color = COLORS[precision]
    for axes in (upper, lower):
        axes.axvline(batch, color=color, lw=1, ls=":")
    text = (
        f"{precision} ridge\nat batch {digits(batch) if batch < 100 else round(batch)}"
    )
    note: dict[str, Any] = {"fontsize": SMALL, "color": color, "va": "bottom"}
    at = (batch, lower.get_ylim()[0])
    side = -1 if batch > widest / 3 else 1
    place: dict[str, Any] = {"textcoords": "offset points"}
    place["ha"] = "right" if side < 0 else "left"
    lower.annotate(text, at, (4 * side, 4), **place, **note)

"""Figures of how far off estimates are: methods side by side, waterfalls, left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fastlab.view.plots.sweep import MANY, bands, series
from fastlab.view.style import GREY, PALE, SMALL, TEXT, TITLE, log_axes
from fastlab.view.tables.score import LEFT
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

OURS = "#0072B2"
LEAST = 0.1  # %: the least error that the axis of methods begins with
ESTIMATE, MEASURED = "= estimate", "measured"


def methods(found: pd.DataFrame, floor: str = "repeat noise") -> Figure:
    """Each method's |error| in %: median (mark), mean (tick), to p90 (line), log scale.

    `found` is tables.methods(); the grey area is the noise of repeating a measurement.
    """
    shown = found[found["method"] != floor][::-1].reset_index(drop=True)
    figure = Figure(figsize=(8.6, 1.5 + 0.48 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, (_, row) in enumerate(shown.iterrows()):
        _method(axes, y, row)
    noise = found[found["method"] == floor]["median"]
    least = max(LEAST, found["median"].min() / 2)
    for value in noise[noise > least]:
        axes.axvspan(least, value, color=PALE, lw=0, zorder=0)
        text: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "top"}
        axes.text(value * 0.97, len(shown) - 0.35, "noise", ha="right", **text)
    axes.set(xscale="log", xlim=(least, found["p90"].max() * 1.4))
    axes.set(ylim=(-0.6, len(shown) - 0.25))
    axes.set_yticks(range(len(shown)), shown["method"].tolist(), fontsize=TEXT)
    known = [step * 10**power for power in range(-1, 5) for step in (1, 2, 5)]
    ticks = [v for v in known if least <= v <= axes.get_xlim()[1]]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{v:g}" for v in ticks], fontsize=SMALL)
    label = "error, % of the measured time: ○ median, | mean, line up to p90"
    axes.set_xlabel(label, fontsize=TEXT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _method(axes: Axes, y: int, row: pd.Series) -> None:
    color = OURS if str(row["method"]).startswith("fastlab") else "black"
    axes.plot([row["median"], row["p90"]], [y, y], color=color, lw=1.5)
    axes.plot(row["mean"], y, color=color, marker="|", markersize=12)
    hollow: dict[str, Any] = {"markerfacecolor": "white", "markersize": 8}
    axes.plot(row["median"], y, color=color, marker="o", **hollow)
    style: dict[str, Any] = {"fontsize": SMALL, "color": color, "ha": "center"}
    text, at = f"{digits(row['median'])} %", (row["median"], y)
    axes.annotate(text, at, (0, 7), textcoords="offset points", **style)


def waterfalls(steps: pd.DataFrame) -> Figure:
    """A panel for each point: what every step adds in ms, up to what was measured.

    Hollow = estimated, hatched = what no step explains, filled = measured.
    """
    points = list(dict.fromkeys(steps["point"]))
    most = steps.groupby("point", sort=False).size().max() + 2
    figure = Figure(figsize=(10.5, 1.2 + 0.42 * most), layout="constrained")
    panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axes, point in zip(panels, points, strict=True):
        _waterfall(axes, totals(steps[steps["point"] == point]))
        axes.set_title(point, fontsize=TITLE, loc="left")
    return figure


def totals(steps: pd.DataFrame) -> pd.DataFrame:
    """One point's steps with two sums put in: the estimate, and what was measured."""
    import pandas as pd

    added = steps[steps["step"] != LEFT]
    left = steps[steps["step"] == LEFT]
    sums = {ESTIMATE: added["ms"].sum(), MEASURED: steps["ms"].sum()}
    lines = [
        pd.DataFrame([{"step": name, "from_ms": 0.0, "ms": ms}])
        for name, ms in sums.items()
    ]
    wanted = [added, lines[0], left, lines[1]]
    return pd.concat(wanted, ignore_index=True)[["step", "from_ms", "ms"]]


def _waterfall(axes: Axes, steps: pd.DataFrame) -> None:
    ends = steps["from_ms"] + steps["ms"]
    most = max(ends.max(), steps["from_ms"].max())
    for y, (_, row) in enumerate(steps.iterrows()):
        axes.barh(y, row["ms"], left=row["from_ms"], height=0.62, **_look(row["step"]))
        text = digits(row["ms"]) if row["from_ms"] == 0 else f"{row['ms']:+.3g}"
        right = max(row["from_ms"], row["from_ms"] + row["ms"])
        axes.text(right + 0.015 * most, y, text, va="center", fontsize=SMALL)
    for y, end in enumerate(ends[:-1]):
        axes.plot([end, end], [y - 0.31, y + 1.31], color=GREY, lw=0.8, zorder=0)
    axes.set_yticks(range(len(steps)), steps["step"].tolist(), fontsize=TEXT)
    axes.set(xlim=(0, 1.14 * most), ylim=(len(steps) - 0.5, -0.6))
    axes.set_xlabel("milliseconds", fontsize=TEXT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _look(step: str) -> dict[str, Any]:
    if step == MEASURED:
        return {"facecolor": "black", "edgecolor": "black"}
    if step == LEFT:
        return {"facecolor": "white", "edgecolor": "#D55E00", "hatch": "////"}
    return {"facecolor": "white" if step == ESTIMATE else PALE, "edgecolor": "black"}


def left_out(rows: pd.DataFrame, chosen: np.ndarray, title: str) -> Figure:
    """Measured against predicted ms: the `chosen` rows in colour, all others grey."""
    both = rows[["measured_ms", "estimated_ms"]].to_numpy(float)
    low, high = both.min() / 1.6, both.max() * 1.6
    figure = Figure(figsize=(6.8, 6.0), layout="constrained")
    axes = figure.subplots()
    bands(axes, low, high)
    others = rows[~chosen]
    faint: dict[str, Any] = {"color": "#bdbdbd", "markersize": 3.5, "zorder": 1}
    axes.plot(others["estimated_ms"], others["measured_ms"], "o", mew=0, **faint)
    for _, group in rows[chosen].groupby(["precision", "phase"], sort=False):
        series(axes, group, crowded=chosen.sum() > MANY)
    log_axes(axes, "predicted without them (ms)", "measured (ms)")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.legend(loc="lower right", fontsize=SMALL, frameon=False)
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure

"""Figures of distilling: kept and live students, and what a temperature does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from fastlab.view.style import GREY, PALE, SMALL, TEXT, TITLE
from fastlab.view.tables.distilling import KINDS, SCRATCH, TEACHER

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

BLUE, RED, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
LOOKS = {
    0: {"color": BLUE, "marker": "o"},
    1: {"color": RED, "marker": "s"},
    2: {"color": GREEN, "marker": "^"},
}
SHADES = (BLUE, RED, GREEN, "#7a21dd", "#a96b59", GREY)
GOAL = 1.03  # within 3 % of the dense model
WORSE = "bits per byte on held-out text, of the dense model's"


def recovery(table: pd.DataFrame, dense: float, title: str) -> Figure:
    """Bits per byte against steps of live students (tables.recovered()), beside dense.

    The axis breaks where a student from scratch is far above the others: its panel is
    the upper one.
    """
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])
    students = list(dict.fromkeys(table["student"]))
    for n, student in enumerate(students):
        own = table[table["student"] == student]
        axes = upper if student == SCRATCH else lower
        _student(axes, own, LOOKS[n % 3], student)
    lower.axhline(dense, color=BLACK, lw=1.5)
    note: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points"}
    first = f" the dense model: {dense:.3f}"
    lower.annotate(first, (0, dense), color=BLACK, fontsize=SMALL, **note)
    for axes in (upper, lower):
        _plain(axes)
        axes.margins(y=0.22)
    lower.set_xlim(0, table["step"].max() * 1.02 or 1)
    lower.set_xticks(sorted(set(table["step"])))
    lower.set_xlabel("steps", fontsize=TEXT)
    figure.supylabel("bits per byte on held-out text", fontsize=TEXT)
    upper.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _student(axes: Axes, own: pd.DataFrame, look: dict[str, Any], name: str) -> None:
    axes.plot(own["step"], own["bits_per_byte"], lw=1.8, ms=7, clip_on=False, **look)
    last = own.iloc[-1]
    text = f"{name}: {last['bits_per_byte']:.3f}, {last['of_dense'] - 1:+.1%}"
    above = 14 if name != TEACHER else -22
    note: dict[str, Any] = {"xytext": (-4, above), "textcoords": "offset points"}
    note |= {"ha": "right", "fontsize": SMALL, "color": look["color"]}
    axes.annotate(text, (last["step"], last["bits_per_byte"]), **note)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=PALE, lw=0.8)
    axes.set_axisbelow(True)


def students(runs: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Kept runs: the curves of training and of the lesson, and before against after.

    runs: tables.kept(); pairs: tables.before_and_after().
    """
    figure = Figure(figsize=(12.8, 4.9), layout="constrained")
    text, lesson, gains = figure.subplots(1, 3, width_ratios=[1, 1, 1.35])
    learned = runs[runs["kind"] != KINDS[2]]
    _curves(text, learned, "bits_per_byte", "bits per byte of the training text")
    for n, (_, run) in enumerate(learned.iterrows()):
        text.plot([run["steps"]], [run["bits_per_byte"]], "D", ms=8, color=SHADES[n])
    text.set_title("learning from the text\n(◆ held-out text)", **_head())
    taught = runs[runs["kind"] == KINDS[2]]
    _curves(lesson, taught, "loss", "loss of the lesson, nats per token")
    lesson.set_title("learning from the teacher", **_head())
    _pairs(gains, pairs)
    return figure


def _head() -> dict[str, Any]:
    return {"fontsize": TITLE, "loc": "left"}


def label(run: pd.Series) -> str:
    """A run in few words: kind, shape, millions of parameters, steps."""
    size = f"{run['parameters'] / 1e6:.1f} M"
    return f"{run['kind']}: {run['shape']}\n{size}, {run['steps']:,.0f} steps"


def _curves(axes: Axes, runs: pd.DataFrame, column: str, what: str) -> None:
    drawn = 0
    for n, (_, run) in enumerate(runs.iterrows()):
        rows = [row for row in run["curve"] if column in row]
        if not rows:
            continue
        steps, values = [r["step"] for r in rows], [r[column] for r in rows]
        axes.plot(steps, values, lw=1.6, color=SHADES[n % len(SHADES)])
        name = f"{run['kind']} {run['shape']}".replace("dense ", "")
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right"}
        style: dict[str, Any] = {"fontsize": SMALL, "color": SHADES[n % len(SHADES)]}
        at = (0.98, 0.96 - 0.075 * drawn)
        axes.annotate(name, at, (0, 0), xycoords="axes fraction", **place, **style)
        drawn += 1
    if not drawn:
        _absent(axes)
        return
    _plain(axes)
    axes.set(xscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axes.set_xlabel("steps", fontsize=TEXT)
    axes.set_ylabel(what, fontsize=TEXT)


def _absent(axes: Axes) -> None:
    """Says in the figure that nothing is stored."""
    axes.set_axis_off()
    words = "no such run is stored yet:\nsee the live students below"
    place: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY}
    axes.text(0.5, 0.5, words, transform=axes.transAxes, fontsize=TEXT, **place)


def _pairs(axes: Axes, pairs: pd.DataFrame) -> None:
    axes.set_title("before and after, over the dense model", **_head())
    if pairs.empty:
        _absent(axes)
        return
    for n, (_, row) in enumerate(pairs.iterrows()):
        y = len(pairs) - 1 - n
        color = GREEN if row["kind"] == KINDS[1] else BLUE
        if np.isfinite(row["before"]):
            ends = [row["before"], row["after"]]
            axes.plot(ends, [y, y], color=color, lw=4, alpha=0.25)
            axes.plot(ends[:1], [y], "o", mfc="white", mec=color, ms=9)
        axes.plot([row["after"]], [y], "o", color=color, ms=9)
        note: dict[str, Any] = {"xytext": (0, 9), "textcoords": "offset points"}
        words, at = f"{row['after'] - 1:+.1%}", (row["after"], y)
        axes.annotate(words, at, ha="center", fontsize=SMALL, **note)
    axes.axvline(1, color=BLACK, lw=1.5)
    axes.axvspan(1, GOAL, color=PALE)
    axes.set_yticks(range(len(pairs)), [label(r) for _, r in pairs.iterrows()][::-1])
    axes.set_ylim(-0.6, len(pairs) - 0.2)
    _plain(axes)
    axes.set(xscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"×{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    most = np.nanmax(pairs[["before", "after"]].to_numpy(float))
    axes.set_xticks(_ticks(float(most)))
    axes.set_xlabel(WORSE, fontsize=TEXT)


def _ticks(most: float) -> Sequence[float]:
    places = (1, 1.05, 1.1, 1.2) if most < 1.25 else (1, 1.2, 1.5, 2, 3, 5)
    return [t for t in places if t <= 1.1 * most]


def softened(table: pd.DataFrame, text: str) -> Figure:
    """Bars of the likeliest tokens, a panel a temperature (tables.softened())."""
    names = [name for name in table.columns if name != "token"]
    figure = Figure(figsize=(11.5, 3.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    places = np.arange(len(table))[::-1]
    for axes, name in zip(panels, names, strict=True):
        axes.barh(places, table[name], color=BLUE, height=0.65)
        for place, share in zip(places, table[name], strict=True):
            at = (share, place)
            axes.annotate(f" {share:.2%}", at, va="center", fontsize=SMALL)
        rest = 1 - table[name].sum()
        axes.set_title(f"{name} (all other tokens: {rest:.0%})", **_head())
        axes.margins(x=0.3)
        axes.set_xticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("probability, each panel to its own scale", fontsize=SMALL)
    words = list(table["token"])
    panels[0].set_yticks(places, words, fontsize=TEXT, family="monospace")
    head = f"The teacher's next token after {text!r}"
    figure.suptitle(head, fontsize=TITLE, x=0.01, ha="left")
    return figure

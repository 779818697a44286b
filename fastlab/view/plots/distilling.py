"""Figures of distilling: kept and live students, and what a temperature does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    MultipleLocator,
    NullFormatter,
    NullLocator,
)

from fastlab.view.plots.precisions import PLAIN, bare
from fastlab.view.plots.pruning import CUTS
from fastlab.view.style import GREY, PALE, SMALL, TEXT, TITLE
from fastlab.view.tables.distilling import SCRATCH, TEACHER
from fastlab.view.tables.distilling import TEXT as TAUGHT
from fastlab.view.tables.stored_runs import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

BLUE, RED, BLACK, BROWN = "#0072B2", "#D55E00", "#000000", "#a96b59"
LOOKS = {  # brown learned from scratch, in every figure
    TEACHER: {"color": BLUE, "marker": "o"},
    TAUGHT: {"color": RED, "marker": "s"},
    SCRATCH: {"color": BROWN, "marker": "^"},
}
SPARE = ("#CC79A7", "#7a21dd", RED, GREY)  # where two runs would look the same
BELOW = (TEACHER, SCRATCH)  # students whose words stand below their line
SHARES = (1e-5, 1e-4, 0.001, 0.01, 0.1, 1)  # that an axis names
GOAL = 1.03  # within 3 % of the dense model
WORSE = "bits per byte on held-out text, of the dense model's"


def recovery(table: pd.DataFrame, dense: float, title: str) -> Figure:
    """Bits per byte against steps of live students (tables.recovered()), beside dense.

    The axis breaks where a student from scratch is far above the others: its panel is
    the upper one. Both have the same scale, so slopes compare.
    """
    figure = Figure(figsize=(9.6, 6.2), layout="constrained")
    far = table["student"] == SCRATCH
    ends = [
        _ends(table[far]["bits_per_byte"]),
        _ends(table[~far]["bits_per_byte"], dense),
    ]
    heights = [high - low for low, high in ends]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    for student, own in table.groupby("student", sort=False):
        _student(upper if student == SCRATCH else lower, own, str(student))
    lower.axhline(dense, color=BLACK, lw=1.5)
    note: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points"}
    first = f" the dense model: {dense:.3f}"
    lower.annotate(first, (0, dense), color=BLACK, fontsize=SMALL, **note)
    for axes, limits in zip((upper, lower), ends, strict=True):
        _plain(axes)
        axes.set_ylim(limits)
        axes.yaxis.set_major_locator(MultipleLocator(_step(sum(heights))))
    apart = ends[0][0] > ends[1][1]
    if apart:
        _broken(upper, lower)
    lower.set_xlim(0, table["step"].max() * 1.02 or 1)
    lower.set_xticks(sorted(set(table["step"])))
    lower.set_xlabel("steps", fontsize=TEXT)
    figure.supylabel("bits per byte on held-out text: lower is better", fontsize=TEXT)
    words = f"{title} (one scale, but the axis is broken)" if apart else title
    upper.set_title(words, **_head())
    return figure


def _ends(bits: pd.Series, *more: float) -> tuple[float, float]:
    """Limits around values, with room for the words above and below."""
    values = [*bits, *more] or [0.0, 1.0]
    room = 0.15 + 0.05 * (max(values) - min(values))
    return min(values) - room, max(values) + room


def _step(span: float) -> float:
    """Between two ticks, for some ten of them in all."""
    return next((s for s in (0.1, 0.2, 0.5, 1.0, 2.0) if span / s <= 12), 5.0)


def _broken(upper: Axes, lower: Axes) -> None:
    """Two slanted strokes where the y axis leaves something out."""
    look: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "ms": 11, "mew": 1.5}
    look |= {"ls": "none", "color": BLACK, "clip_on": False}
    upper.plot([0], [0], transform=upper.transAxes, **look)
    lower.plot([0], [1], transform=lower.transAxes, **look)
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0)


def _student(axes: Axes, own: pd.DataFrame, name: str) -> None:
    look: dict[str, Any] = LOOKS[name]
    axes.plot(own["step"], own["bits_per_byte"], lw=1.8, ms=7, clip_on=False, **look)
    last = own.iloc[-1]
    text = f"{name}: {last['bits_per_byte']:.3f}, {last['of_dense'] - 1:+.1%}"
    above = -21 if name in BELOW else 14
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

    runs: tables.kept(); pairs: tables.before_and_after(). A run has one colour in all
    panels; ◆ is its whole held-out text.
    """
    figure = Figure(figsize=(12.8, 4.9), layout="constrained")
    text, lesson, gains = figure.subplots(1, 3, width_ratios=[1, 1, 1.35])
    learned, colors = runs[runs["kind"] != KINDS[2]], run_colors(runs)
    _curves(
        text, learned, "bits_per_byte", "bits per byte of the training text", colors
    )
    for _, run in learned.iterrows():
        look: dict[str, Any] = {"color": colors[run["name"]], "ms": 8}
        text.plot([run["steps"]], [run["bits_per_byte"]], "D", **look)
    text.set_title("learning from the text\n(◆ whole held-out text)", **_head())
    taught = runs[runs["kind"] == KINDS[2]]
    _curves(lesson, taught, "loss", "loss of the lesson, nats per token", colors)
    lesson.set_title("learning from the teacher", **_head())
    _pairs(gains, pairs, colors)
    return figure


def run_colors(runs: pd.DataFrame) -> dict[str, str]:
    """Each run's colour by its name: dense black, scratch brown, students as cuts."""
    colors: dict[str, str] = {}
    for _, run in runs.iterrows():
        wanted = (_color(run), *SPARE)
        free = [color for color in wanted if color not in colors.values()]
        colors[run["name"]] = (free or [GREY])[0]
    return colors


def _color(run: pd.Series) -> str:
    if run["kind"] != KINDS[2]:
        return BLACK if run["kind"] == KINDS[0] else BROWN
    cut = run["pruning"] if isinstance(run["pruning"], dict) else {}
    return next((CUTS[kind][0] for kind in CUTS if cut.get(kind)), GREY)


def _head() -> dict[str, Any]:
    return {"fontsize": TITLE, "loc": "left"}


def label(run: pd.Series) -> str:
    """A run in few words: kind, shape, millions of parameters, steps."""
    size = f"{run['parameters'] / 1e6:.1f} M"
    return f"{run['kind']}: {run['shape']}\n{size}, {run['steps']:,.0f} steps"


def _curves(
    axes: Axes, runs: pd.DataFrame, column: str, what: str, colors: dict[str, str]
) -> None:
    drawn = 0
    for _, run in runs.iterrows():
        rows = [row for row in run["curve"] if column in row]
        if not rows:
            continue
        steps, values = [r["step"] for r in rows], [r[column] for r in rows]
        axes.plot(steps, values, lw=1.6, color=colors[run["name"]])
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right"}
        style: dict[str, Any] = {"fontsize": SMALL, "color": colors[run["name"]]}
        at, name = (0.98, 0.96 - 0.075 * drawn), f"{run['kind']} {run['shape']}"
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


def _pairs(axes: Axes, pairs: pd.DataFrame, colors: dict[str, str]) -> None:
    words = "before → after, on the blocks at hand\n(◆ whole held-out text)"
    axes.set_title(words, **_head())
    if pairs.empty:
        _absent(axes)
        return
    for n, (_, row) in enumerate(pairs.iterrows()):
        _pair(axes, len(pairs) - 1 - n, row, colors[row["name"]])
    axes.axvline(1, color=BLACK, lw=1.5, zorder=1)
    axes.axvspan(1, GOAL, color=PALE, zorder=0)
    axes.set_yticks(range(len(pairs)), [label(r) for _, r in pairs.iterrows()][::-1])
    axes.set_ylim(-0.6, len(pairs) - 0.2)
    _plain(axes)
    axes.set(xscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"×{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    values = pairs[["before", "after", "whole"]].to_numpy(float)
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    axes.set_xlim(min(least, 1) / 1.08, most * 1.1)
    axes.set_xticks(_ticks(most))
    axes.set_xlabel(WORSE, fontsize=TEXT)


def _pair(axes: Axes, y: float, row: pd.Series, color: str) -> None:
    """One student: hollow before, filled after, a diamond for all of the text."""
    ends = [row["before"], row["after"]]
    axes.plot(ends, [y, y], color=color, lw=4, alpha=0.25)
    axes.plot(ends[:1], [y], "o", mfc="white", mec=color, ms=9)
    axes.plot(ends[1:], [y], "o", color=color, ms=9)
    axes.plot([row["whole"]], [y], "D", color=color, ms=8, mec="white")
    note: dict[str, Any] = {"xytext": (0, 13), "textcoords": "offset points"}
    note |= {"xycoords": axes.get_yaxis_transform(), "ha": "right"}
    axes.annotate(_moved(row), (0.99, y), fontsize=SMALL, **note)


def _moved(row: pd.Series) -> str:
    parts = [f"{v - 1:+.1%}" for v in (row["before"], row["after"]) if np.isfinite(v)]
    return ", ".join([" → ".join(parts)] * bool(parts) + [f"◆ {row['whole'] - 1:+.1%}"])


def _ticks(most: float) -> Sequence[float]:
    places = (1, 1.05, 1.1, 1.2) if most < 1.25 else (1, 1.2, 1.5, 2, 3, 5)
    return [t for t in places if t <= 1.1 * most]


def softened(table: pd.DataFrame, text: str) -> Figure:
    """Dots of the likeliest tokens, a panel a temperature (tables.softened()).

    All panels have one log scale: T divides distances on it.
    """
    names = [name for name in table.columns if name != "token"]
    figure = Figure(figsize=(11.5, 3.9), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    places = np.arange(len(table))[::-1]
    for axes, name in zip(panels, names, strict=True):
        _dots(axes, places, table[name])
        rest = 1 - table[name].sum()
        axes.set_title(f"{name} (all other tokens: {rest:.0%})", **_head())
    shares = table[names].to_numpy(float)
    panels[0].set(xscale="log", xlim=(shares.min() / 1.6, shares.max() * 6))
    panels[0].set_xticks([t for t in SHARES if t <= 1 and t >= shares.min() / 1.6])
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
    words = list(table["token"])
    panels[0].set_yticks(places, words, fontsize=TEXT, family="monospace")
    head = f"The teacher's next token after {text!r}"
    figure.suptitle(head, fontsize=TITLE, x=0.01, ha="left")
    figure.supxlabel("probability, log scale, the same in all panels", fontsize=TEXT)
    return figure


def _dots(axes: Axes, places: Any, shares: pd.Series) -> None:
    axes.plot(shares, places, "o", color=BLUE, ms=8)
    for place, share in zip(places, shares, strict=True):
        near: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points"}
        near |= {"va": "center", "fontsize": SMALL, "bbox": PLAIN}
        axes.annotate(f"{share:.2%}", (share, place), **near)
    bare(axes)
    axes.xaxis.set_minor_locator(NullLocator())

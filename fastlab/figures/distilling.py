"""Distilling: students beside their teacher, and what it tells them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, level, line, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import BLACK, DASHES, GREY, PALE, PINK
from fastlab.words import more, percent, plain, si

SCRATCH = "from scratch, learns from the text"
LOOKS: dict[str, tuple[str, str, str]] = {  # of live students: colour, marker, dash
    "pruned, learns from the teacher": (PINK, "o", "-"),
    "pruned, learns from the text": ("#b36b00", "s", "--"),
    SCRATCH: (GREY, "^", "-."),
}
COLORS = {"dense": BLACK, "from scratch": GREY, "distilled": PINK}  # of stored runs
GOAL = 1.03  # within 3 % of the dense model


def recovery(table: pd.DataFrame) -> Figure:
    """Bits per byte of students against steps, beside the dense model's.

    table: student (a name of LOOKS), step, bits_per_byte, of_dense (its ratio to the
    dense model's), prune_layers. The axis breaks where a student from scratch is far
    above the others: its panel is the upper one. Both have one scale: slopes compare.
    """
    last, far = int(table["step"].max()), table["student"] == SCRATCH
    dense = float((table["bits_per_byte"] / table["of_dense"]).iloc[0])
    flat = pd.DataFrame({"student": "the dense model", "step": [0, last]})
    flat = flat.assign(bits_per_byte=dense, of_dense=1.0)
    named = f"the dense model: {dense:.3f}"
    behind = line(flat, "step", "bits_per_byte", named, width=1.5)
    rooms = [_room(table[far]["bits_per_byte"])]
    rooms.append(_room([*table[~far]["bits_per_byte"], dense]))
    spans = [high - low for low, high in rooms]
    tick = next((s for s in (0.1, 0.2, 0.5, 1, 2) if sum(spans) / s <= 12), 5)
    edges = -0.02 * last, 1.02 * last
    steps = Axis("steps", "linear", plain, sorted({*table["step"]}), edges)
    panels = []
    for rows, room, under in ((far, rooms[0], []), (~far, rooms[1], [behind])):
        ticks = tick * np.arange(np.ceil(room[0] / tick), room[1] / tick)
        look: tuple[Any, ...] = ("linear", "{:.3g}".format, ticks.tolist(), room)
        bits = Axis("bits per byte", *look)
        drawn = [*under, *_students(table[rows])]
        panels.append(Panel(steps, bits, drawn, key="edge", decor=[gridlines()]))
    apart = rooms[0][0] > rooms[1][1]
    title = f"{percent(table['prune_layers'].iloc[0])} of the layers cut; {last} steps "
    title += f"bring back {_recovered(table[~far], dense)}"
    title += "\n(lower is better" + "; one scale, but the axis is broken" * apart + ")"
    how: dict[str, Any] = {"columns": 1, "heights": spans, "share": "x"}
    how |= {"rows": pd.concat([table, flat]), "finish": _broken if apart else None}
    return Figure(panels, title, size=(10.4, 6.4), **how)


def _room(values: Sequence[float] | pd.Series) -> tuple[float, float]:
    """Limits around values, with room for the words above and below."""
    low, high = min(values), max(values)
    room = 0.15 + 0.05 * (high - low)
    return low - room, high + room


def _recovered(pruned: pd.DataFrame, dense: float) -> str:
    """Which share of what the cut cost each student won back: 100 % = all of it."""
    words = []
    for name, own in pruned.groupby("student", sort=False)["bits_per_byte"]:
        first, last = own.iloc[[0, -1]]
        if first > dense:
            share = (first - last) / (first - dense)
            words.append(f"{percent(share)} ({str(name).split(', ')[-1]})")
    return ", ".join(words) or "nothing: nothing was lost"


def _students(table: pd.DataFrame) -> Iterator[Layer]:
    at = "step", "bits_per_byte"
    for name, own in table.groupby("student", sort=False):
        color, marker, dash = LOOKS[str(name)]
        last = own.iloc[-1]
        words = f"{last['bits_per_byte']:.3f}, {more(last['of_dense'])}"
        own = own.assign(result=[""] * (len(own) - 1) + [words])
        yield line(own, *at, str(name), dash=dash, color=color)
        yield points(own, *at, marker=marker, words="result", color=color)


def _broken(_: Any, every: Sequence[Any]) -> None:
    """Two slanted strokes where the y axis leaves something out."""
    look: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "ms": 11, "mew": 1.5}
    look |= {"ls": "none", "color": BLACK, "clip_on": False}
    for axes, height in zip(every, (0, 1), strict=True):
        axes.plot([0], [height], transform=axes.transAxes, **look)
    every[0].spines["bottom"].set_visible(False)
    every[0].tick_params(axis="x", length=0)


def students(runs: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Stored runs: the curves of training and of distilling, and before against after.

    runs: name, kind (of COLORS), shape, parameters, steps, bits_per_byte, and as ratios
    to the dense model whole (on the whole held-out text), before and after (the cut one
    and the student, on the blocks at hand), missing where there is none. curves: name,
    step, loss (nats per token), bits_per_byte (of those that learned from the text).
    """
    taught, pairs = runs["kind"] == "distilled", runs[runs["kind"] != "dense"]
    text = "bits_per_byte", "bits per byte", "learning from the text; ◆ all held out"
    teacher = "loss", "nats per token", "the loss of distilling, from the teacher"
    panels = [_learning(runs[~taught], curves, *text)]
    panels += [_learning(runs[taught], curves, *teacher), _pairs(pairs)]
    said = [
        f"{more(known.min())} to {more(known.max())} {when}"
        for name, when in (("before", "when cut"), ("after", "when distilled"))
        if len(known := pairs[name].dropna())
    ]
    title = f"Bits per byte over the dense model's: {', '.join(said) or 'none judged'}"
    rows = pd.concat([runs, curves], ignore_index=True)
    below = 0.6 + 0.6 * len(pairs)
    heights, size = (2.2, 2.2, below), (10.6, 6.0 + below)
    return Figure(panels, title, rows, size, columns=1, heights=heights)


def _learning(
    runs: pd.DataFrame, curves: pd.DataFrame, column: str, label: str, title: str
) -> Panel:
    """The curves of runs; ◆ what the whole held-out text says of bits per byte."""
    layers = []
    for dash, (_, run) in zip(DASHES * len(runs), runs.iterrows(), strict=False):
        color, name = COLORS[run["kind"]], f"{run['kind']} {run['shape']}"
        own = curves[curves["name"] == run["name"]].dropna(subset=[column])
        layers.append(line(own, "step", column, name, color=color, dash=dash))
        if column in run:
            end = run.to_frame().T
            layers.append(points(end, "steps", column, color=color, marker="D"))
    axes = Axis("steps", "log", plain), Axis(label)
    return Panel(*axes, layers, title, key="edge", decor=[gridlines()])


def _pairs(pairs: pd.DataFrame) -> Panel:
    """A line a student: hollow before, filled after, a diamond for all of the text."""
    layers = []
    for kind, own in pairs.groupby("kind", sort=False):
        look: dict[str, Any] = {"color": COLORS[str(kind)], "size": 9}
        cut: dict[str, Any] = {"across": ("before", "after"), "pale": True, **look}
        layers.append(points(own, "before", "name", f"{kind}: cut", hollow=True, **cut))
        layers.append(points(own, "after", "name", f"{kind}: after", **look))
        look |= {"marker": "D", "shift": 0.25}
        layers.append(points(own, "whole", "name", f"{kind}: whole text", **look))
    values = pairs[["before", "after", "whole"]].to_numpy(float)
    low, high = min(np.nanmin(values), 1) / 1.08, np.nanmax(values) * 1.1
    label = "bits per byte on held-out text, of the dense model's"
    ratio = Axis(label, "log", "×{:g}".format, limits=(low, high))
    names, moved = {}, []
    for _, row in pairs.iterrows():
        size = f"{si(row['parameters'])} parameters, {row['steps']:,} steps"
        names[row["name"]] = f"{row['kind']}: {row['shape']}\n{size}"
        moved.append(" → ".join(row[["before", "after"]].dropna().map(more)))
    look = {"notes": [("before → after", moved), ("◆", [*pairs["whole"].map(more)])]}
    goal = level(1, "x", BLACK, "-")
    look["decor"] = [lambda axes: axes.axvspan(1, GOAL, color=PALE), goal]
    title = "before → after, on the blocks at hand; ◆ all of the text"
    return Panel(ratio, Axis("", names=names), layers, title, note_width=0.28, **look)


def softened(table: pd.DataFrame, text: str) -> Figure:
    """Dots of the likeliest tokens after a text, a panel a temperature.

    table: token, then a column of shares for each temperature. All panels have one log
    scale: T divides distances on it.
    """
    names = [str(name) for name in table if name != "token"]
    low = table[names].to_numpy(float).min() / 1.6
    write = lambda v: f"{100 * v:.3g} %"  # noqa: E731
    share = Axis("probability", "log", write, limits=(low, 1.3))
    token, panels = Axis("", names=list(table["token"])), []
    for name in names:
        rest = f"{name}\nall others: {percent(1 - table[name].sum())}"
        dots, said = [points(table, name, "token", name)], [*table[name].map(percent)]
        panels.append(Panel(share, token, dots, rest, notes=[("", said)]))
    first = table.iloc[0]
    each = ", ".join(f"{percent(first[name])} at {name}" for name in names)
    title = f"The teacher's next token after {text!r}: {first['token']!r} {each}"
    return Figure(panels, title, table, (11, 3.9), share="y")

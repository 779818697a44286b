"""Distilling: stored and live students beside their teacher, and what it tells them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, level, line, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import BLACK, GREY, PALE, PINK
from fastlab.spec.hub import read_shape
from fastlab.spec.shape import ModelShape
from fastlab.words import percent, si

if TYPE_CHECKING:
    import pandas as pd

SCRATCH = "from scratch, learns from the text"
LOOKS: dict[str, tuple[str, str, str]] = {  # of live students: colour, marker, dash
    "pruned, learns from the teacher": (PINK, "o", "-"),
    "pruned, learns from the text": ("#b36b00", "s", "--"),
    SCRATCH: (GREY, "^", "-."),
}
COLORS = {"dense": BLACK, "from scratch": GREY, "distilled": PINK}  # of stored runs
DASHES = ("-", "--", ":", "-.")  # of runs of one kind
SHARES = (1e-5, 1e-4, 0.001, 0.01, 0.1, 1)  # that an axis names
WHOLE = dict.fromkeys(("layers", "hidden", "parameters", "steps", "step"), "Int64")
GOAL = 1.03  # within 3 % of the dense model


def more(ratio: float) -> str:
    """A ratio as what it is more or less: +53 %, −0.77 %."""
    return f"{'+' if ratio >= 1 else '−'}{percent(abs(ratio - 1))}"


# --- live students


def recovery(table: pd.DataFrame, dense: float, layers: float) -> Figure:
    """Bits per byte against steps of live students, beside `dense`, the teacher's.

    table: student (a name of LOOKS), step, bits_per_byte, of_dense (its ratio to the
    teacher's). The axis breaks where a student from scratch is far above the others:
    its panel is the upper one. Both have the same scale, so slopes compare. layers: the
    share cut.
    """
    import pandas as pd

    last, far = int(table["step"].max()), table["student"] == SCRATCH
    ends = {"step": [0, last], "bits_per_byte": dense, "of_dense": 1.0}
    flat = pd.DataFrame({"student": "the dense model", **ends})
    named = f"the dense model: {dense:.3f}"
    behind = line(flat, "step", "bits_per_byte", named, width=1.5)
    rooms = [_room(table[far]["bits_per_byte"])]
    rooms.append(_room([*table[~far]["bits_per_byte"], dense]))
    spans = [high - low for low, high in rooms]
    tick = next((s for s in (0.1, 0.2, 0.5, 1, 2) if sum(spans) / s <= 12), 5)
    edges = -0.02 * last, 1.02 * last
    steps = Axis("steps", "linear", "{:,.0f}".format, sorted({*table["step"]}), edges)
    panels = []
    for rows, room, under in ((far, rooms[0], []), (~far, rooms[1], [behind])):
        ticks = tick * np.arange(np.ceil(room[0] / tick), room[1] / tick)
        look: tuple[Any, ...] = ("linear", "{:.3g}".format, ticks.tolist(), room)
        bits = Axis("bits per byte: lower is better", *look)
        drawn = [*under, *_students(table[rows])]
        panels.append(Panel(steps, bits, drawn, key="edge", decor=[gridlines()]))
    apart = rooms[0][0] > rooms[1][1]
    title = f"{percent(layers)} of the layers cut; {last} steps bring back "
    title += _won(table[~far], dense) + "\n(one scale, but the axis is broken)" * apart
    whole, size = pd.concat([table, flat], ignore_index=True), (10.4, 6.4)
    finish = _broken if apart else None
    how: dict[str, Any] = {"columns": 1, "heights": spans, "share": "x"}
    return Figure(panels, title, whole, size, finish=finish, **how)


def _room(values: Sequence[float] | pd.Series) -> tuple[float, float]:
    """Limits around values, with room for the words above and below."""
    low, high = min(values), max(values)
    room = 0.15 + 0.05 * (high - low)
    return low - room, high + room


def _won(pruned: pd.DataFrame, dense: float) -> str:
    """Which share of what the cut cost each student won back: 100 % = all of it."""
    words = []
    for name, own in pruned.groupby("student", sort=False)["bits_per_byte"]:
        first, last = own.iloc[[0, -1]]
        if first > dense:
            share = (first - last) / (first - dense)
            words.append(f"{percent(share)} ({str(name).split(', ')[-1]})")
    return ", ".join(words) or "nothing: nothing was lost"


def _students(table: pd.DataFrame) -> Iterator[Layer]:
    for name, own in table.groupby("student", sort=False):
        color, marker, dash = LOOKS[str(name)]
        last = own.iloc[-1]
        words = f"{last['bits_per_byte']:.3f}, {more(last['of_dense'])}"
        own = own.assign(result=[""] * (len(own) - 1) + [words])
        at = "step", "bits_per_byte"
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


# --- stored runs


def kept() -> pd.DataFrame:
    """Every run.json under data/checkpoints: a model, its origin, what it reaches.

    Columns: name, kind, shape, layers, hidden, parameters, steps, bits_per_byte, low,
    high, sha (of the text that judged), pruning (fields), curve (rows), folder. The
    dense model is that of most parameters among those trained on the text alone.
    """
    import pandas as pd

    from fastlab.shrink.trained import CHECKPOINTS

    runs = [_run(file) for file in sorted(CHECKPOINTS.glob("**/run.json"))]
    alone = [run for run in runs if run["kind"] != "distilled"]
    max(alone, key=lambda run: int(run["parameters"]))["kind"] = "dense"
    return pd.DataFrame(sorted(runs, key=lambda run: [*COLORS].index(run["kind"])))


def _run(file: Path) -> dict[str, Any]:
    """A stored run; a loss in nats per token is also told in bits per byte."""
    run, folder = json.loads(file.read_text(encoding="utf-8")), file.parent
    home = folder.parent if folder.name == "final" else folder
    text = (home / "curve.jsonl").read_text(encoding="utf-8")
    curve = [json.loads(row) for row in text.splitlines()]
    if "recipe" in run:
        kind, shape, how = "distilled", read_shape(str(folder)), run["recipe"]
        steps = how["distill_steps"]
    else:
        kind, shape, how = "from scratch", ModelShape(**run["run"]["shape"]), {}
        steps, size = run["steps"], run["text"]
        nats = 0.6931471805599453 * size["train_bytes"] / size["train_tokens"]
        curve = [row | {"bits_per_byte": row["loss"] / nats} for row in curve]
    sizes = {"shape": f"{shape.layers} x {shape.hidden}, ffn {shape.ffn}"}
    reached = run["held_out"]
    return {
        **{"name": home.name, "kind": kind, **sizes},
        **{"layers": shape.layers, "hidden": shape.hidden},
        **{"parameters": run["parameters"], "steps": steps},
        **{name: reached[name] for name in ("bits_per_byte", "low", "high")},
        **{"sha": reached["text_sha256"], "pruning": how.get("pruning")},
        **{"curve": curve, "folder": str(folder)},
    }


def students(runs: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Kept runs: the curves of training and of the lesson, and before against after.

    runs: kept(); pairs: those that are not dense, and as ratios to the dense model
    whole (on the whole held-out text), before and after (the cut one and the student,
    on the blocks at hand); missing for models from scratch.
    """
    import pandas as pd

    taught = runs["kind"] == "distilled"
    panels = [
        _learning(
            *(runs[~taught], "bits_per_byte", "bits per byte"),
            "learning from the text, ◆ the whole held-out text",
        ),
        _learning(
            *(runs[taught], "loss", "nats per token"),
            "the lesson's loss, from the teacher",
        ),
        _pairs(pairs),
    ]
    first, last = (
        f"{more(pairs[name].min())} to {more(pairs[name].max())}"
        for name in ("before", "after")
    )
    title = (
        f"Bits per byte over the dense model's: {first} when cut, {last} when taught"
    )
    told = [runs[runs["kind"] == "dense"], pairs, _curves(runs)]
    rows = pd.concat(told, ignore_index=True)[[*pairs, "step", "loss"]].astype(WHOLE)
    below = 0.6 + 0.6 * len(pairs)
    heights, size = (2.2, 2.2, below), (10.6, 6.0 + below)
    return Figure(panels, title, rows, size, columns=1, heights=heights)


def _curves(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each step that runs kept."""
    import pandas as pd

    each = zip(runs["name"], runs["kind"], runs["curve"], strict=True)
    rows = [
        {"name": n, "kind": kind, **row} for n, kind, curve in each for row in curve
    ]
    return pd.DataFrame(rows, columns=["name", "kind", "step", "bits_per_byte", "loss"])


def _learning(runs: pd.DataFrame, column: str, label: str, title: str) -> Panel:
    """The curves of runs; ◆ what the whole held-out text says of bits per byte."""
    layers = []
    for n, (_, run) in enumerate(runs.iterrows()):
        color, name = COLORS[run["kind"]], f"{run['kind']} {run['shape']}"
        whole = runs.iloc[n : n + 1]
        dash = DASHES[n % len(DASHES)]
        own = _curves(whole).dropna(subset=[column])
        layers.append(line(own, "step", column, name, color=color, dash=dash))
        if column == "bits_per_byte":
            layers.append(points(whole, "steps", column, color=color, marker="D"))
    steps = Axis("steps", "log", "{:,.0f}".format)
    return Panel(steps, Axis(label), layers, title, key="edge", decor=[gridlines()])


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
    places = (1, 1.05, 1.1, 1.2) if high < 1.37 else (1, 1.2, 1.5, 2, 3, 5)
    ticks = [place for place in places if place <= high]
    label = "bits per byte on held-out text, of the dense model's"
    ratio = Axis(label, "log", "×{:g}".format, ticks, (low, high))
    names, moved = {}, []
    for _, row in pairs.iterrows():
        size = f"{si(row['parameters'])} parameters, {row['steps']:,} steps"
        names[row["name"]] = f"{row['kind']}: {row['shape']}\n{size}"
        moved.append(" → ".join(row[["before", "after"]].dropna().map(more)))
    notes = [("before → after", moved), ("◆", pairs["whole"].map(more).tolist())]
    decor = [lambda axes: axes.axvspan(1, GOAL, color=PALE), level(1, "x", BLACK, "-")]
    title = "before → after, on the blocks at hand; ◆ the whole held-out text"
    look = {"notes": notes, "decor": decor, "note_width": 0.28}
    return Panel(ratio, Axis("", names=names), layers, title, **look)


# --- what a temperature does


def softened(table: pd.DataFrame, text: str) -> Figure:
    """Dots of the likeliest tokens after a text, a panel a temperature.

    table: token, then a column of shares for each temperature. All panels have one log
    scale: T divides distances on it.
    """
    names = [str(name) for name in table.columns if name != "token"]
    low = table[names].to_numpy(float).min() / 1.6
    ticks = [tick for tick in SHARES if tick >= low]
    write = lambda v: f"{100 * v:.3g} %"  # noqa: E731
    share = Axis("probability", "log", write, ticks, (low, 1.3))
    token, panels = Axis("", names=list(table["token"])), []
    for name in names:
        rest = f"{name}\nall others: {percent(1 - table[name].sum())}"
        notes = [("", table[name].map(percent).tolist())]
        dots = [points(table, name, "token", name)]
        panels.append(Panel(share, token, dots, rest, notes=notes))
    first = table.iloc[0]
    said = ", ".join(f"{percent(first[name])} at {name}" for name in names)
    title = f"The teacher's next token after {text!r}: {first['token']!r} {said}"
    return Figure(panels, title, table, (11, 3.9), share="y")

"""Distilling: kept and live students beside their teacher, and what it tells them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, level, line, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import BLACK, GREY, PALE, PINK, TEXT
from fastlab.spec.checks import check_count, digest
from fastlab.spec.point import Point, Workload
from fastlab.spec.pruning import Pruning, pruned_shape
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape
from fastlab.words import percent, si

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from fastlab.clock.evaluator import Evaluator
    from fastlab.learning.distilling import DistillConfig
    from fastlab.learning.loop import Training
    from fastlab.shrink.trained import Trained

TEACHER, LEARNER, SCRATCH = (
    *("pruned, learns from the teacher", "pruned, learns from the text"),
    "from scratch, learns from the text",
)
KL = 0.9  # of a taught student's loss; the rest is cross-entropy
LOOKS: dict[str, tuple[str, str, str]] = {  # colour, marker, dash
    TEACHER: (PINK, "o", "-"),
    LEARNER: ("#b36b00", "s", "--"),
    SCRATCH: (GREY, "^", "-."),
}
KINDS = ("dense", "from scratch", "distilled")
COLORS = dict(zip(KINDS, (BLACK, GREY, PINK), strict=True))
DASHES = ("-", "--", ":", "-.")  # of runs of one kind
SHARES = (1e-5, 1e-4, 0.001, 0.01, 0.1, 1)  # that an axis names
GOAL = 1.03  # within 3 % of the dense model
KEPT = (
    *("name", "kind", "shape", "layers", "hidden", "parameters", "steps"),
    *("bits_per_byte", "low", "high", "sha", "pruning", "curve", "folder"),
)
WHOLE = dict.fromkeys(("layers", "hidden", "parameters", "steps", "step"), "Int64")
STEPS = Axis("steps", "log", "{:,.0f}".format)


def more(ratio: float) -> str:
    """A ratio as what it is more or less: +53 %, −0.77 %."""
    return f"{'+' if ratio >= 1 else '−'}{percent(abs(ratio - 1))}"


# --- live students


@dataclass(frozen=True)
class DistillPlan:
    """Which share of the layers is cut, and how live students learn afterwards.

    The layers that change the residual stream least go (block influence). ValueError
    names the field that is out of range.
    """

    layers: float = 0.5
    steps: int = 20
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        assert self.pruning
        assert self.lesson

    @property
    def pruning(self) -> Pruning:
        """What is cut."""
        return Pruning(layers=self.layers, layer_choice="influence")

    @property
    def lesson(self) -> DistillConfig:
        """What the teacher's student is told."""
        from fastlab.learning.distilling import DistillConfig

        return DistillConfig(self.temperature, KL)

    def how(self, student: Any) -> Training:
        """Short blocks and small batches: seconds on two threads.

        Steps smaller than when training begins: weights that are nearly right move
        little.
        """
        from fastlab.learning.loop import Training

        block = min(128, student.config.max_position_embeddings)
        return Training(8, block, lr=1e-3, matrix_lr=5e-3, warmup=3, decay=0.5)

    def students(
        self, trained: Trained
    ) -> Iterator[tuple[str, nn.Module, DistillConfig]]:
        """Three students, made one after the other: name, model, what it is told."""
        from fastlab.checkpoints import without_bars
        from fastlab.clock.evaluator import built
        from fastlab.models import build
        from fastlab.spec.hub import read_shape

        cut, alone = Recipe(pruning=self.pruning), replace(self.lesson, kl=0.0)
        yield TEACHER, built(trained, cut), self.lesson
        yield LEARNER, built(trained, cut), alone
        shape = pruned_shape(read_shape(str(trained.folder)), self.pruning)
        with without_bars():
            untrained = build(Point(shape, Workload(prompt_len=1)))
        yield SCRATCH, untrained, alone

    def folder(self, root: Path, trained: Trained) -> Path:
        """Where these students are kept: named by all that they are made of."""
        what = {"weights": trained.weights, "text": trained.corpus.train_sha256}
        return root / digest(what | {"plan": asdict(self)})[:16]


def recovered(
    curves: Mapping[str, Iterable[Mapping[str, float]]], dense: float
) -> pd.DataFrame:
    """Bits per byte against steps of students: the rows of curves with held-out text.

    Columns: student, step, bits_per_byte, seconds, parameters, of_dense (its ratio to
    the dense model's).
    """
    import pandas as pd

    rows = [
        {"student": name, **row}
        for name, curve in curves.items()
        for row in curve
        if "held_out" in row
    ]
    table = pd.DataFrame(rows).rename(columns={"held_out": "bits_per_byte"})
    table["parameters"] = table["parameters"].ffill()
    table = table.astype({"step": int, "parameters": "Int64"})
    names = ["student", "step", "bits_per_byte", "seconds", "parameters"]
    return table[names].assign(of_dense=table["bits_per_byte"] / dense)


def recovered_fraction(table: pd.DataFrame, dense: float) -> dict[str, float]:
    """Which share of what the cut cost each pruned student won back: 1 = all of it."""
    shares = {}
    for student, own in table.groupby("student", sort=False):
        first, last = own["bits_per_byte"].iloc[[0, -1]]
        if student != SCRATCH and first > dense:
            shares[str(student)] = round(float((first - last) / (first - dense)), 2)
    return shares


def recovery(table: pd.DataFrame, dense: float, layers: float) -> Figure:
    """Bits per byte against steps of live students (`recovered`), beside dense.

    The axis breaks where a student from scratch is far above the others: its panel is
    the upper one. Both have the same scale, so slopes compare. layers: the share cut.
    """
    import pandas as pd

    last = max(int(table["step"].max()), 1)
    ends = {"step": [0, last], "bits_per_byte": [dense] * 2, "of_dense": [1.0] * 2}
    flat = pd.DataFrame({"student": "the dense model", **ends})
    far = table["student"] == SCRATCH
    named = f"the dense model: {dense:.3f}"
    behind = [line(flat, "step", "bits_per_byte", named, width=1.5)]
    rooms = [_room([*table[far]["bits_per_byte"]])]
    rooms.append(_room([*table[~far]["bits_per_byte"], dense]))
    spans = [high - low for low, high in rooms]
    tick = next((s for s in (0.1, 0.2, 0.5, 1, 2) if sum(spans) / s <= 12), 5)
    edges = -0.02 * last, 1.02 * last
    steps = replace(STEPS, scale="linear", ticks=sorted({*table["step"]}), limits=edges)
    panels = []
    for rows, room, under in ((far, rooms[0], []), (~far, rooms[1], behind)):
        ticks = tick * np.arange(np.ceil(room[0] / tick), room[1] / tick)
        bits = Axis(
            "bits per byte: lower is better",
            "linear",
            "{:.3g}".format,
            ticks.tolist(),
            room,
        )
        drawn = [*under, *_students(table[rows])]
        panels.append(Panel(steps, bits, drawn, key="edge", decor=[gridlines()]))
    shares = recovered_fraction(table, dense)
    won = [f"{percent(v)} ({n.split(', ')[-1]})" for n, v in shares.items()]
    title = f"{percent(layers)} of the layers cut; {last} steps bring back "
    title += ", ".join(won) or "nothing: nothing was lost"
    apart = rooms[0][0] > rooms[1][1]
    title += "\n(one scale, but the axis is broken)" * apart
    return Figure(
        *(panels, title, pd.concat([table, flat], ignore_index=True), (10.4, 6.4)),
        columns=1,
        heights=spans,
        share="x",
        finish=_broken if apart else None,
    )


def _room(values: Sequence[float]) -> tuple[float, float]:
    """Limits around values, with room for the words above and below."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.15 + 0.05 * (high - low)
    return low - room, high + room


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


def kept(folder: Path | None = None) -> pd.DataFrame:
    """Every run.json under a folder: a model, how it came about, what it reaches.

    Columns: name, kind, shape, layers, hidden, parameters, steps, bits_per_byte, low,
    high, sha (of the text that judged), pruning (fields), curve (rows), folder. The
    dense model is that of most parameters among those trained on the text alone.
    Without a folder those of data/checkpoints.
    """
    import pandas as pd

    from fastlab.shrink.trained import CHECKPOINTS

    files = sorted((folder or CHECKPOINTS).glob("**/run.json"))
    runs = [_reached(f, json.loads(f.read_text(encoding="utf-8"))) for f in files]
    own = [run for run in runs if "built" in run]
    own.sort(key=lambda one: (-one["parameters"], -one["steps"]))
    for n, one in enumerate(own):
        one |= _sized(one["built"]) | {"kind": KINDS[min(n, 1)]}
    taught = [run for run in runs if "built" not in run]
    for one in taught if own else []:
        one |= _sized(pruned_shape(own[0]["built"], Pruning(**one["pruning"])))
    return pd.DataFrame([*own, *taught], columns=list(KEPT))


def _sized(shape: ModelShape) -> dict[str, Any]:
    words = f"{shape.layers} x {shape.hidden}, ffn {shape.ffn}"
    return {"shape": words, "layers": shape.layers, "hidden": shape.hidden}


def _reached(file: Path, run: dict[str, Any]) -> dict[str, Any]:
    """What a run reached, and its whole curve where that is kept beside or above."""
    home = file.parents[1] if file.parent.name == "final" else file.parent
    whole = [*file.parent.glob("curve.jsonl"), *home.glob("curve.jsonl")]
    rows = [json.loads(row) for one in whole[:1] for row in one.open(encoding="utf-8")]
    fields = {name: run["held_out"][name] for name in ("bits_per_byte", "low", "high")}
    fields |= {"name": home.name, "folder": str(file.parent)}
    fields |= {"parameters": run["parameters"], "curve": rows or run["curve"]}
    if "teacher" in run:
        how = {"kind": KINDS[2], "steps": run["recipe"].get("distill_steps", 0)}
        how |= {"pruning": run["recipe"].get("pruning", {})}
        return fields | how | {"sha": run["held_out_sha256"]}
    text, shape = run["text"], ModelShape(**run["run"]["shape"])
    nats = 0.6931471805599453 * text["train_bytes"] / text["train_tokens"]
    curve = [row | {"bits_per_byte": row["loss"] / nats} for row in fields["curve"]]
    how = {"built": shape, "steps": run["steps"], "sha": text["held_out_sha256"]}
    return fields | how | {"curve": curve}


def before_and_after(
    runs: pd.DataFrame, trained: Trained, judge: Evaluator
) -> pd.DataFrame:
    """Each kept student before and after distilling, as ratios to the dense model.

    before: the same cut, made now; after: the student, where its weights are kept; both
    judged on the blocks at hand. whole: from run.json, of the whole held-out text.
    Models from scratch have no before.
    """
    from fastlab.checkpoints import load
    from fastlab.clock.evaluator import built

    def judged(model: nn.Module) -> float:
        return judge.bits_per_byte(model) / judge.dense

    def before(cut: Any) -> float:
        recipe = Recipe(pruning=Pruning(**cut)) if isinstance(cut, dict) else None
        return judged(built(trained, recipe)) if recipe else np.nan

    def after(folder: str) -> float:
        there = (Path(folder) / "model.safetensors").exists()
        return judged(load(folder)[0]) if there else np.nan

    small = runs[runs["kind"] != KINDS[0]].reset_index(drop=True)
    dense = runs[runs["kind"] == KINDS[0]]["bits_per_byte"]
    return small.drop(columns=["curve", "folder"]).assign(
        whole=small["bits_per_byte"] / (dense.iloc[0] if len(dense) else np.nan),
        before=[before(cut) for cut in small["pruning"]],
        after=[after(folder) for folder in small["folder"]],
    )


def students(runs: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Kept runs: the curves of training and of the lesson, and before against after.

    runs: kept(); pairs: before_and_after(). ◆ is the whole held-out text.
    """
    import pandas as pd

    taught = runs["kind"] == KINDS[2]
    title = "learning from the text, ◆ the whole held-out text"
    text = _learning(runs[~taught], "bits_per_byte", "bits per byte", title)
    lesson = _learning(
        *(runs[taught], "loss", "nats per token", "the lesson's loss, from the teacher")
    )
    both = pairs.dropna(subset=["before", "after"])
    first, last = (
        f"{more(both[name].min())} to {more(both[name].max())}"
        for name in ("before", "after")
    )
    title = (
        f"Bits per byte over the dense model's: {first} when cut, {last} when taught"
    )
    rows = [*runs[runs["kind"] == KINDS[0]].to_dict("records")]
    rows += [*pairs.to_dict("records"), *_curves(runs).to_dict("records")]
    return Figure(
        *([text, lesson, _pairs(pairs)], title if len(both) else "Stored students"),
        pd.DataFrame(rows, columns=[*pairs.columns, "step", "loss"]).astype(WHOLE),
        (10.6, 6.6 + 0.6 * max(len(pairs), 1)),
        columns=1,
        heights=(2.2, 2.2, 0.6 + 0.6 * max(len(pairs), 1)),
    )


def _curves(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each step that runs kept."""
    import pandas as pd

    each = runs[["name", "kind", "curve"]].to_dict("records")
    rows = [{**run, **row} for run in each for row in run.pop("curve")]
    return pd.DataFrame(rows, columns=["name", "kind", "step", "bits_per_byte", "loss"])


def _learning(runs: pd.DataFrame, column: str, label: str, title: str) -> Panel:
    """The curves of runs; ◆ what the whole held-out text says of bits per byte."""
    layers, steps = [], _curves(runs)
    for n, (_, run) in enumerate(runs.iterrows()):
        color, name = COLORS[run["kind"]], f"{run['kind']} {run['shape']}"
        own = steps[steps["name"] == run["name"]].dropna(subset=[column])
        dash = DASHES[n % len(DASHES)]
        layers.append(line(own, "step", column, name, color=color, dash=dash))
        if column == "bits_per_byte":
            whole = runs.iloc[n : n + 1]
            layers.append(points(whole, "steps", column, color=color, marker="D"))
    if not layers:
        return _absent(title)
    return Panel(STEPS, Axis(label), layers, title, key="edge", decor=[gridlines()])


def _absent(title: str) -> Panel:
    """Says in the figure that nothing is stored."""
    words = "no such run is stored yet:\nsee the live students below"
    place: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY}

    def say(axes: Any) -> None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, words, transform=axes.transAxes, fontsize=TEXT, **place)

    return Panel(Axis(""), Axis(""), [], title, decor=[say])


def _pairs(pairs: pd.DataFrame) -> Panel:
    """A line a student: hollow before, filled after, a diamond for all of the text."""
    title = "before → after, on the blocks at hand; ◆ the whole held-out text"
    if pairs.empty:
        return _absent(title)
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
    rows = [row for _, row in pairs.iterrows()]
    sizes = [f"{si(row['parameters'])} parameters" for row in rows]
    names = {
        row["name"]: f"{row['kind']}: {row['shape']}\n{size}, {row['steps']:,.0f} steps"
        for row, size in zip(rows, sizes, strict=True)
    }
    moved = [" → ".join(row[["before", "after"]].dropna().map(more)) for row in rows]
    notes = [("before → after", moved), ("◆", pairs["whole"].map(more).tolist())]
    decor = [lambda axes: axes.axvspan(1, GOAL, color=PALE), level(1, "x", BLACK, "-")]
    panel = Panel(ratio, Axis("", names=names), layers, title, notes=notes, decor=decor)
    return replace(panel, note_width=0.28)


# --- what a temperature does


def next_tokens(
    dense: nn.Module, tokenizer: Any, text: str, temperatures: Sequence[float]
) -> pd.DataFrame:
    """The teacher's likeliest next tokens after `text`, at each temperature.

    Columns: token, then one share for each temperature; the likeliest eight.
    """
    import pandas as pd
    import torch

    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = dense(ids, use_cache=False).logits[0, -1].float()
    top = logits.topk(8).indices
    shares = {
        f"T = {t:g}": (logits / t).softmax(-1)[top].tolist() for t in temperatures
    }
    words = pd.Series([repr(tokenizer.decode([int(one)]))[1:-1] for one in top])
    alike = words.duplicated(keep=False)  # parts of one letter, say
    named = words.where(~alike, words + [f" #{int(one)}" for one in top])
    return pd.DataFrame({"token": named} | shares)


def softened(table: pd.DataFrame, text: str) -> Figure:
    """Dots of the likeliest tokens, a panel a temperature (`next_tokens`).

    All panels have one log scale: T divides distances on it.
    """
    names = [name for name in table.columns if name != "token"]
    low = table[names].to_numpy(float).min() / 1.6
    ticks = [tick for tick in SHARES if tick >= low]
    share = Axis("probability", "log", percent, ticks, (low, 1.3))
    share = replace(share, write=lambda v: f"{100 * v:.3g} %")
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

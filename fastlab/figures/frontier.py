"""Fast and good enough: what no other recipe beats, what a search saw, what is served.

Notebook 12 makes the rows.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, level, line, points
from fastlab.figures.panels import ENDS, Axis, Layer, Panel
from fastlab.figures.style import GREY, ORANGE, PINK, color_of
from fastlab.record import Record
from fastlab.spec.point import Point
from fastlab.spec.pruning import RATIOS
from fastlab.words import digits, percent, plain, si, times

LEAST = 1e-3  # losses up to this are drawn alike
LOSSES = (LEAST, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
DRAWN = ("measured_ms", "drawn")
RING: dict[str, Any] = {"fill": "none", "size": 17, "color": PINK}
LOSER: dict[str, Any] = {"color": ORANGE, "marker": "X"}


def name(point: Point) -> str:
    """A recipe in words: "bf16, 50 % of layers cut by influence, distilled"."""
    recipe, cut = point.recipe, point.recipe.pruning
    words = [recipe.precision]
    for kind in RATIOS:
        by = cut.layer_choice if kind == "layers" else cut.importance
        if share := getattr(cut, kind):
            words.append(f"{percent(share)} of {kind} cut by {by}")
    if recipe.sparsity:
        zeros = recipe.sparsity.pattern or percent(recipe.sparsity.ratio)
        words.append(f"{zeros} zeros")
    if recipe.sharing:
        words.append(f"tables of {recipe.sharing.bits} bit")
    return ", ".join([*words, *["distilled"] * bool(recipe.distill_steps)])


def frontier(rows: pd.DataFrame, target_ms: float, floor: float) -> Figure:
    """Measured milliseconds against what is lost, and the choice: the fastest good one.

    rows: `measured_ms`; `loss`, by which share bits per byte rise; `front`, whether no
    row beats it in both; `name`. Lines: the target, and the floor.
    """
    rows = rows.assign(drawn=rows["loss"].clip(lower=LEAST)).sort_values("measured_ms")
    rows["words"] = rows["name"].str.replace(", ", "\n")
    good = rows[(rows["measured_ms"] <= target_ms) & (rows["loss"] <= floor)]
    x = Axis("measured milliseconds: left is better", "log", si)
    y = Axis("bits per byte over dense: lower is better", "log", _lost, LOSSES)
    front, look = rows[rows["front"]], {"size": 5, "alpha": 0.35}
    layers = [line(front, *DRAWN, "frontier", color=GREY, dash="--", width=1)]
    layers += _marks(rows[~rows["front"]], "beaten", **look)
    layers += _marks(front, "not beaten", words="words")
    layers.append(points(good[:1], *DRAWN, "the choice", **RING))
    aims = level(max(floor, LEAST), words=f"floor: {percent(floor)}")
    decor = [gridlines(), aims, level(target_ms, "x", words="target ")]
    panel = Panel(x, y, layers, key="beside", decor=decor)
    title = f"No recipe takes {digits(target_ms)} ms and loses {percent(floor)} at most"
    for _, best in good[:1].iterrows():
        said = f"{digits(best['measured_ms'])} ms, loses {percent(best['loss'])}"
        n = len(good)
        rank = f"fastest of {n} good ones" if n > 1 else "only good one"
        title = f"{best['name']}: {said}\nthe {rank}"
    table = rows[["name", "measured_ms", "loss", "drawn", "front"]]
    return Figure([panel], title, table, size=(10.2, 5.4))


def _lost(share: float) -> str:
    return f"{percent(LEAST)} or less" if share <= LEAST else percent(share)


def _marks(rows: pd.DataFrame, said: str, **look: Any) -> list[Layer]:
    """A layer for each precision."""
    return [
        points(own, *DRAWN, f"{p}, {said}", color=color_of(p), **look)
        for p, own in rows.groupby("precision", sort=False)
    ]


def visited(rows: pd.DataFrame, title: str) -> Figure:
    """Candidates in the order of their estimates: which of them a search measured.

    rows: estimates with intervals, `measured_ms` of all, `visit` (which one it was, of
    those that were measured), `good` (it keeps the floor), `chosen`.
    """
    rows = rows.sort_values("estimated_ms", ignore_index=True)
    rows["order"] = rows.index + 1
    x = Axis("candidates, in the order of their estimates")
    y = Axis("milliseconds", "log", si)
    seen = rows[rows["visit"].notna()]
    look: dict[str, Any] = {"hollow": True, "size": 4, "ends": ENDS, "pale": True}
    layers = [points(rows, "order", "estimated_ms", "estimated", color=GREY, **look)]
    for name, own, mark in (
        ("measured, loses too much", seen[~seen["good"]], LOSER),
        ("measured, good enough", seen[seen["good"]], {}),
        ("the choice", rows[rows["chosen"]], RING),
    ):
        layers.append(points(own, "order", "measured_ms", name, **mark))
    panel = Panel(x, y, layers, key="upper left")
    told = ["order", "name", "estimated_ms", *ENDS, "measured_ms", "loss", "visit"]
    return Figure([panel], title, rows[told], size=(9.6, 4.8))


def served(rows: pd.DataFrame, title: str, target_ms: float) -> Figure:
    """Time to the first token, and the share that meets all targets, against the load.

    rows: of each rate (`per_s`) `ttft_p50_ms`, `ttft_p99_ms` with `low_ms` and
    `high_ms`, `attainment`; all of them estimated.
    """
    x = Axis("requests a second")
    known = rows.dropna(subset="ttft_p99_ms")
    times = [
        line(known, "per_s", "ttft_p50_ms", "half of them", dash=":"),
        line(known, "per_s", "ttft_p99_ms", "99 of 100", band=("low_ms", "high_ms")),
    ]
    y = Axis("ms to the first token, estimated", "log", plain)
    aim = level(target_ms, words=f"target: {digits(target_ms)} ms")
    upper = Panel(x, y, times, key="edge", decor=[gridlines(), aim])
    share = Axis("share that meets all targets", write=percent, limits=(0, 1.05))
    met = [line(rows, "per_s", "attainment", "attainment")]
    lower = Panel(x, share, met, decor=[gridlines()])
    return Figure([upper, lower], title, rows, size=(9.6, 4.4))


def kept(record: Record, promised_ms: float) -> str:
    """A promised time beside the one that was measured, in words."""
    if record.measured is None:
        return f"{record.status}: {record.reason}"
    ms = 1e3 * record.measured.seconds
    said = f"promised {digits(promised_ms)} ms, measured {digits(ms)} ms here"
    return f"{said}: {times(ms / promised_ms)} of the promise"

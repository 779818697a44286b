"""KV caches: their bytes a token, and when they outweigh the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, level, line, points
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import DASHES, color_of
from fastlab.latency.costs import WEIGHTS, costs_of
from fastlab.spec.formats import QUANTIZED
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe, kv_row_bytes
from fastlab.spec.shape import ModelShape
from fastlab.words import plain, si

SHORTEST, LONGEST = 128, 2**20  # contexts


def kv_kinds(shape: ModelShape) -> dict[str, int]:
    """Bytes of one cached position of one sequence, by how a model may keep it."""
    heads, own = shape.heads, shape.kv_heads
    wide, packed = (
        2 * shape.layers * own * kv_row_bytes(cache, 2, shape.head_dim)
        for cache in ("dynamic", "static-int8")
    )
    every = {f"16-bit KV for all {heads} heads": wide * heads // own}
    return (every if heads != own else {}) | {"16-bit KV": wide, "int8 KV": packed}


def crossings(
    shape: ModelShape, precisions: Sequence[str], batch: int = 1
) -> pd.DataFrame:
    """Where a step reads as many bytes of KV cache as of weights, in tokens a sequence.

    context = weights (the head's too) / (batch x bytes of a cached position).
    """
    lines = []
    for precision in precisions:
        step = _step(shape, 1, 2, precision=precision, cache="static")
        read = int(costs_of(step).totals[WEIGHTS])
        for kind, each in kv_kinds(shape).items():
            lines.append([precision, kind, batch, read, each, read / (batch * each)])
    names = ["weights", "cache", "batch", "weight bytes", "bytes a token", "context"]
    return pd.DataFrame(lines, columns=names)


def _step(shape: ModelShape, batch: int, context: int, **recipe: Any) -> Point:
    """A decode step; `context` rows in the cache, its own included."""
    scope = "head" if recipe["precision"] in QUANTIZED else "layers"
    work = Workload("decode", batch, context - 1)
    return Point(shape, work, Recipe(**recipe, scope=scope))


def crossover(rows: pd.DataFrame, title: str, context: int | None = None) -> Figure:
    """Bytes that one decode step reads against the context, log-log, all estimated.

    `rows` are crossings(). Level lines: weights by precision. Rising lines: the KV
    cache of all sequences, by how it is kept. A ring marks where both are equal;
    `context` draws a cursor, and the title tells the bytes there.
    """
    ends = pd.DataFrame({"context": [SHORTEST, LONGEST]})
    lines, rings = [], []
    for weights, own in rows.groupby("weights", sort=False):
        color, read = color_of(weights), own["weight bytes"].iloc[0]
        flat = ends.assign(weights=weights, **{"weight bytes": read})
        name, at = f"{weights} weights", ("context", "weight bytes")
        lines.append(line(flat, *at, name, color=color))
        seen = own[own["context"].between(SHORTEST, LONGEST)]
        seen = seen.assign(tokens=seen["context"].map(si))
        ring: dict[str, Any] = {"color": color, "hollow": True, "words": "tokens"}
        rings.append(points(seen, *at, **ring))
    for n, (kind, own) in enumerate(rows.groupby("cache", sort=False)):
        each = own["batch"].iloc[0] * own["bytes a token"].iloc[0]
        rise = ends.assign(cache=kind, **{"cache bytes": each * ends["context"]})
        lines.append(line(rise, "context", "cache bytes", str(kind), dash=DASHES[n]))
    drawn = pd.concat([rows, *(one.rows for one in lines)], ignore_index=True)
    every = drawn[["weight bytes", "cache bytes"]]
    contexts = [2**n for n in range(8, 21, 2)]
    label = "context (tokens cached for each sequence)"
    x = Axis(label, "log", plain, contexts, (SHORTEST, LONGEST))
    limits = every.min(axis=None) / 2, every.max(axis=None) * 2
    y = Axis("bytes read a step", "log", lambda size: si(size, "B"), limits=limits)
    decor = [gridlines(), *([level(context, "x", dash="-.")] if context else [])]
    panel = Panel(x, y, [*lines, *rings], key="edge", decor=decor)
    if context is None:
        first, last = (si(at) for at in (rows["context"].min(), rows["context"].max()))
        title += f": cache and weights weigh the same at {first} to {last} tokens"
    else:
        cached = rows["batch"] * rows["bytes a token"] * context
        each = [
            f"{si(n, 'B')} as {k}" for n, k in zip(cached, rows["cache"], strict=True)
        ]
        title += (
            f"\n{si(rows['weight bytes'].iloc[0], 'B')} of weights; {', '.join(each)}"
        )
    return Figure([panel], title, drawn, (9.8, 5.6))

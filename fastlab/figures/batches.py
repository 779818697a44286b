"""Decode steps at once: latency against the batch, bytes against the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fastlab.cost.memory import RESERVE
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import formats, gridlines, level, line, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import DASHES, color_of
from fastlab.latency.costs import WEIGHTS, costs_of
from fastlab.latency.devices import Device
from fastlab.latency.whatif import knee
from fastlab.rows import compared, points_of
from fastlab.spec.formats import QUANTIZED
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe, kv_row_bytes
from fastlab.spec.shape import ModelShape
from fastlab.words import digits, plain, si

FEWEST = 4  # batches in a row that are bound by the same: fewer are not named
SHORTEST, LONGEST = 128, 2**20  # contexts


def batch_knee(
    curves: pd.DataFrame, device: Device, rows: pd.DataFrame | None = None
) -> Figure:
    """Decode latency above, tokens per second below, against the batch; log-log.

    curves: rows as `estimated` makes them of `device`, of several batches; a column
    "series" names their lines. rows: measured ones, drawn as filled marks. A line is
    thin and pale beyond the calibrated range, and ends where memory is full. What
    bounds a step stands along the lines; a dotted line is the batch at the ridge.
    """
    curves = _described(curves, device)
    known = curves[:0] if rows is None else compared(rows).assign(series="measured")
    knees, widest = curves.drop_duplicates("precision"), int(curves["batch"].max())
    turns = dict(zip(knees["precision"], knees["knee"], strict=True))
    ticks = [4**n for n in range(12) if 4**n <= widest]
    label, edges = "batch (sequences decoded at once)", (0.8, 1.25 * widest)
    batch = Axis(label, "log", plain, ticks, edges)
    ridges = [level(b, "x", color_of(p), ":") for p, b in turns.items()]
    upper = [*_lines(curves, "estimated_ms", ENDS), *_bounds(curves)]
    named = {p: f"{p} measured" for p in turns}
    upper += formats(known, "batch", "measured_ms", named, ends=OWN_ENDS)
    lower = _lines(curves, "tokens_per_s")
    lower += formats(known, "batch", "tokens_per_s", name="")
    said = knees["precision"] + " ridge\nat batch " + knees["knee"].map(digits)
    knees = knees.assign(said=said, batch=knees["knee"])[knees["knee"] < widest]
    lower += formats(knees, "batch", "tokens_per_s", name="", marker="", words="said")
    look: dict[str, Any] = {"decor": [gridlines(), *ridges]}
    ms, rate = "milliseconds a step", "tokens per second"
    panels = [Panel(batch, Axis(ms, "log", si), upper, key="upper left", **look)]
    panels.append(Panel(batch, Axis(rate, "log", si), lower, **look))
    reached = [f"{p} at batch {digits(b)}" for p, b in turns.items() if b < np.inf]
    title = f"Decode on {device.name}"
    title += f"\nlinear layers reach the ridge: {', '.join(reached) or 'never'}"
    both = [curves, known]
    table = pd.concat(both[: 1 + bool(len(known))], ignore_index=True)
    shown = ["series", "precision", "batch", "estimated_ms", *ENDS, "measured_ms"]
    shown += [*OWN_ENDS, "ratio", "tokens_per_s", "bound", "n", "timed", "fits", "knee"]
    look = {"columns": 1, "share": "x", "note": device.trust}
    return Figure(panels, title, table[shown], (9.0, 6.6), **look)


def _described(curves: pd.DataFrame, device: Device) -> pd.DataFrame:
    """With tokens a second, whether a step fits, was timed, and where the ridge is.

    timed: whether calibration timed operations as large.
    """
    series = curves["precision"] + ": " + curves["prompt_len"].map("{:,} cached".format)
    named = series + ", " + curves["series"] if "series" in curves else series
    heads = {p.recipe.precision: knee(p, device) for p in points_of(curves)}
    return curves.assign(
        series=named,
        tokens_per_s=1e3 * curves["batch"] / curves["estimated_ms"],
        timed=~curves["extrapolated"].astype(bool),
        fits=curves["estimated_gb"] <= (1 - RESERVE) * device.memory_bytes / 1e9,
        knee=curves["precision"].map(heads),
    )


def _lines(curves: pd.DataFrame, y: str, band: Any = ()) -> list[Layer]:
    """A line for each series, as far as memory reaches, and a cross where it ends."""
    layers: list[Layer] = []
    for n, (series, own) in enumerate(curves.groupby("series", sort=False)):
        look: dict[str, Any] = {"color": color_of(own["precision"].iloc[0])}
        look |= {"dash": DASHES[n % len(DASHES)], "band": band, "sure": "timed"}
        layers.append(line(own[own["fits"]], "batch", y, str(series), **look))
    ends = curves[~curves.groupby("series")["fits"].transform("all") & curves["fits"]]
    ends = ends.groupby("series", sort=False).tail(1)
    full = np.where(ends["batch"].duplicated(), "", "memory full")
    look = {"marker": "x", "size": 9, "words": "full"}
    return [*layers, *formats(ends.assign(full=full), "batch", y, name="", **look)]


def _bounds(curves: pd.DataFrame) -> list[Layer]:
    """What bounds the step, on each stretch of a line where that is the same."""
    named = []
    for _, own in curves[curves["fits"]].groupby("series", sort=False):
        for _, part in own.groupby((own["bound"] != own["bound"].shift()).cumsum()):
            if len(part) >= FEWEST:
                named.append(part.iloc[len(part) // 2])
    rows = pd.DataFrame(named, columns=curves.columns)
    return formats(rows, "batch", "estimated_ms", name="", marker="", words="bound")


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
        scope = "head" if precision in QUANTIZED else "layers"
        recipe = Recipe(precision, cache="static", scope=scope)
        step = Point(shape, Workload("decode", 1, 1), recipe)
        read = int(costs_of(step).totals[WEIGHTS])
        for kind, each in kv_kinds(shape).items():
            lines.append([precision, kind, batch, read, each, read / (batch * each)])
    names = ["weights", "cache", "batch", "weight bytes", "bytes a token", "context"]
    return pd.DataFrame(lines, columns=names)


def crossover(rows: pd.DataFrame, title: str, context: int | None = None) -> Figure:
    """Bytes that one decode step reads against the context, log-log, all estimated.

    `rows` are crossings(). Level lines: weights by precision. Rising lines: the KV
    cache of all sequences, by how it is kept. A ring marks where both are equal;
    `context` draws a cursor, and the title tells the bytes there.
    """
    ends = pd.DataFrame({"context": [SHORTEST, LONGEST]})
    at, lines, rings = ("context", "weight bytes"), [], []
    for weights, own in rows.groupby("weights", sort=False):
        look: dict[str, Any] = {"color": color_of(weights)}
        flat = ends.assign(weights=weights, **{at[1]: own[at[1]].iloc[0]})
        lines.append(line(flat, *at, f"{weights} weights", **look))
        seen = own[own["context"].between(SHORTEST, LONGEST)]
        seen = seen.assign(tokens=seen["context"].map(si))
        rings.append(points(seen, *at, hollow=True, words="tokens", **look))
    for n, (kind, own) in enumerate(rows.groupby("cache", sort=False)):
        each = own["batch"].iloc[0] * own["bytes a token"].iloc[0]
        rise = ends.assign(cache=kind, **{"cache bytes": each * ends["context"]})
        lines.append(line(rise, "context", "cache bytes", str(kind), dash=DASHES[n]))
    drawn = pd.concat([rows, *(one.rows for one in lines)], ignore_index=True)
    every = drawn[["weight bytes", "cache bytes"]]
    label, ticks = (
        "context (tokens cached for each sequence)",
        [4**n for n in range(4, 11)],
    )
    x = Axis(label, "log", plain, ticks, (SHORTEST, LONGEST))
    limits = every.min(axis=None) / 2, every.max(axis=None) * 2
    y = Axis("bytes read a step", "log", lambda size: si(size, "B"), limits=limits)
    decor = [gridlines(), *([level(context, "x", dash="-.")] if context else [])]
    panel = Panel(x, y, [*lines, *rings], key="edge", decor=decor)
    if context is None:
        first, last = (si(end) for end in rows["context"].agg(["min", "max"]))
        title += f": cache and weights weigh the same at {first} to {last} tokens"
    else:
        cached = rows["batch"] * rows["bytes a token"] * context
        kinds = zip(cached, rows["cache"], strict=True)
        said = ", ".join(f"{si(size, 'B')} as {kind}" for size, kind in kinds)
        title += f"\n{si(rows['weight bytes'].iloc[0], 'B')} of weights; {said}"
    return Figure([panel], title, drawn, (9.8, 5.6))

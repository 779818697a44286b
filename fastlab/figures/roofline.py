"""What bounds an operation: products and benchmarks under the roof of a device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.cost import ops
from fastlab.cost.operations import operations
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, line, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import GREY, color_of, look_of
from fastlab.latency import estimates as model
from fastlab.latency.costs import CAUSAL, KV_WRITE, WEIGHTS, costs_of
from fastlab.latency.devices import Device, datasheet_row
from fastlab.latency.devices import device as find_device
from fastlab.rows import estimated
from fastlab.spec.point import Point
from fastlab.words import digits, percent, si

Limits = tuple[float, float]
X, Y = "FLOP per byte", "FLOP/s"
GROUPS = {
    **{"q": "QKV", "k": "QKV", "v": "QKV", "qkv": "QKV", "attention": "attention"},
    **{"out": "out", "mlp": "MLP", "head": "head"},
}
NO_FLOPS = "no FLOPs"  # norms, elementwise, look-ups, copies
SHAPES = {"linear": "s", "attention, prefill": "o", "attention, decode": "^"}
ABOVE = 1.05  # times the roof: what a roof of main memory does not explain
DEVICES = ("h200", "h100", "a100", "l4", "t4", "rtx4090", "m4-max")
LEFT, RIGHT = 0.1, 30_000.0  # FLOP per byte: the axis stays as controls move


def on_the_roof(calls: Iterable[Point], device: Device) -> pd.DataFrame:
    """Each product of each call: FLOPs per byte, and FLOP/s by the roofline's band.

    The band (low, high) is that of `estimate`: from all costs hidden behind the longest
    to none hidden, launches included; share = of the call's time. Precisions
    that the device cannot do are left out; ValueError if nothing remains.
    """
    calls = list(calls)
    able = [p for p in calls if device.can(p.recipe.precision)]
    if calls and not able:
        device.product_rate(calls[0].recipe.precision)
    return pd.DataFrame([row for point in able for row in _products(point, device)])


def product_of(op: ops.Operation) -> str:
    """Which group of products an operation belongs to, or NO_FLOPS."""
    name = op.name.partition(".")[0]
    return GROUPS.get(name, name) if op.flops else NO_FLOPS


def _products(point: Point, device: Device) -> list[dict[str, Any]]:
    work = point.workload
    call: dict[str, Any] = {"phase": work.phase, "precision": point.recipe.precision}
    call |= {"batch": work.batch, "tokens": work.prompt_len}
    names = np.array([product_of(op) for op in operations(point)])
    matrix, rows = costs_of(point).matrix, []
    for name in dict.fromkeys((*GROUPS.values(), NO_FLOPS, *names)):
        if (own := matrix[names == name]).size:
            alike = [call["precision"]] * len(own)
            middle, low, high, bound, _ = model.roofline(own, alike, device)
            flops, moved = own[:, CAUSAL].sum(), own[:, WEIGHTS : KV_WRITE + 1].sum()
            row = {"operation": name, **call, X: flops / moved}
            row |= {Y: flops / middle, "low": flops / high, "high": flops / low}
            rows.append(row | {"ms": middle * 1e3, "bound": bound})
    whole = sum(row["ms"] for row in rows)
    return [row | {"share": row["ms"] / whole} for row in rows]


def roofline(rows: pd.DataFrame, device: Device) -> Figure:
    """FLOP/s against FLOPs per byte, log-log: a hollow mark a product, under its roof.

    rows: of `on_the_roof`. Bars are the band from all costs hidden to none; thin lines
    lead from one precision to the next. Roofs are dashed, from a datasheet, or solid if
    calibrated. All figures of a device have the same axes.
    """
    products = rows[rows[X] > 0]
    precisions = list(dict.fromkeys(products["precision"]))
    top = max(device.peak_flops.values()) * 4
    x, y = (LEFT, RIGHT), (device.bandwidth * LEFT / 10, top)
    roofs = [layer for p in precisions for layer in _roof(device, p, x, y)]
    by = products.groupby(["phase", "operation"], sort=False)
    layers = [*roofs, *(line(own, X, Y, color=GREY, width=0.8) for _, own in by)]
    for (phase, precision), own in products.groupby(["phase", "precision"], sort=False):
        words = "operation" if precision == precisions[-1] else ""
        look = look_of(precision, phase) | {"hollow": True, "ends": ("low", "high")}
        name = f"{phase} {precision}"
        layers.append(points(own, X, Y, name, words=words, **look))
    panel = Panel(*_axes(x, y), layers, key="upper left", decor=[gridlines()])
    what = "calibrated" if device.calibrated else "datasheet, not calibrated"
    last = rows[rows["precision"] == precisions[-1]].groupby("phase", sort=False)
    most = last[Y].max() / device.product_rate(precisions[-1])
    each = ", ".join(f"{percent(share)} in {phase}" for phase, share in most.items())
    title = f"{device.name} ({what}): hollow marks are estimates"
    title += f"\nof the {precisions[-1]} peak the best product reaches {each}"
    table = pd.concat([rows, *(roof.rows for roof in roofs)], ignore_index=True)
    return Figure([panel], title, table, (9.6, 6.2), note=device.trust)


def _axes(x: Limits, y: Limits) -> tuple[Axis, Axis]:
    across = Axis("arithmetic intensity (FLOP per byte)", "log", limits=x)
    return across, Axis("FLOP/s", "log", si, limits=y)


def _roof(
    device: Device, precision: str, x: Limits, y: Limits, of: str = ""
) -> list[Layer]:
    """min(peak, intensity x bandwidth) over the intensities x, and its ridge.

    of: "datasheet " where it stands behind a measured one.
    """
    peak, ridge = device.product_rate(precision), device.ridge(precision)
    at = np.array([x[0], ridge, x[1]])
    roof = pd.DataFrame({X: at, Y: np.minimum(peak, at * device.bandwidth)})
    roof["series"] = name = f"{of}{precision} roof"
    said = f"{of}{precision}: {si(peak, 'FLOP/s')}\nridge at {digits(ridge)}"
    corner, foot = roof[1:2].assign(said=said), roof[1:2].assign(**{Y: y[0]})
    look: dict[str, Any] = {"color": color_of(precision)}
    return [
        line(roof, X, Y, name, dash="-" if device.calibrated else "--", **look),
        line(pd.concat([foot, corner]), X, Y, dash=":", width=0.8, **look),
        points(corner, X, Y, words="said", marker="", **look),
    ]


def measured_roof(samples: pd.DataFrame, device: Device, path: pd.DataFrame) -> Figure:
    """A panel per precision: microbenchmarks (filled) under the device's measured roof.

    path: estimated FLOP/s of one layer as its rows grow, a grey line. Where the device
    has a datasheet, its roof is dashed.
    """
    sheet = datasheet_row(device.name) if device.calibrated else None
    every = {"datasheet ": sheet, "": device} if sheet else {"": device}
    top = max(max(roof.peak_flops.values()) for roof in every.values()) * 4
    x, y = (samples[X].min() / 3, samples[X].max() * 3), (samples[Y].min() / 3, top)
    panels: list[Panel] = []
    tables, medians, look = [samples, path], [], dict[str, Any]()
    for precision, own in samples.groupby("precision", sort=False):
        name = str(precision)
        pairs = [_roof(d, name, x, y, of) for of, d in every.items() if d.can(name)]
        roofs = [layer for pair in pairs for layer in pair]
        tables += [roof.rows for roof in roofs]
        share = own[Y] / own["roof"]
        head = f"{name}: {(share > ABOVE).sum()} of {len(own)} above the roof"
        way, look = path[path["precision"] == name], {"color": color_of(name)}
        look |= {"alpha": 0.75, "size": 6}
        kinds = [(own[own["operation"] == n], n, SHAPES[n]) for n in SHAPES]
        marks = [points(some, X, Y, n, marker=m, **look) for some, n, m in kinds]
        steps = line(way, X, Y, way["operation"].iloc[0], color=GREY, dash="-.")
        layers = [*roofs, *marks, steps]
        key = "" if panels else "upper left"
        panels.append(Panel(*_axes(x, y), layers, head, key, decor=[gridlines()]))
        medians.append(f"{percent(share.median())} in {name}")
    title = f"The median operation reaches {', '.join(medians)} of what its roof allows"
    title += "\nthe data of those above a roof was probably in a cache"
    across, down = min(len(panels), 2), -(-len(panels) // 2)
    size = (1.2 + 4.6 * across, 0.4 + 4.9 * down)
    rows = pd.concat(tables, ignore_index=True)
    return Figure(panels, title, rows, size, columns=across, share="y")


def batches_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to `most`: two values for each doubling."""
    steps = [step for n in range(1, 31) for step in (2**n, 3 * 2 ** (n - 1))]
    return [1, *itertools.takewhile(lambda batch: batch <= most, steps)]


def calls_on(calls: Iterable[Point], device: Device) -> Figure:
    """Calls of one precision on the roof of a device, and what they make of its peaks.

    The note says of each what bounds it, its MFU and MBU, and whether it fits.
    """
    calls, each = list(calls), []
    for _, row in estimated(calls, device).iterrows():
        ms, rate = row["estimated_ms"], device.product_rate(row["precision"])
        mfu = percent(1e3 * row["flops_causal"] / ms / rate)
        mbu = percent(1e3 * row["bytes"] / ms / device.bandwidth)
        full = row["estimated_gb"] * 1e9 > device.memory_bytes
        words = f"{row['phase']} {digits(ms)} ms, bound by {row['bound']}, MFU {mfu}, "
        each.append(f"{words}MBU {mbu}" + ", but does not fit in memory" * full)
    figure = roofline(on_the_roof(calls, device), device)
    call = f"batch {row['batch']}, {row['prompt_len']:,} tokens: {'; '.join(each)}"
    return replace(figure, note="; ".join(filter(None, (call, figure.note))))


def device_menu(*devices: Device | None) -> dict[str, Device]:
    """Devices by the name that a menu shows: the given ones, then mere datasheets."""
    every = [*filter(None, devices), *(find_device(name).sheet for name in DEVICES)]
    return {one.name + " (calibrated)" * one.calibrated: one for one in every}

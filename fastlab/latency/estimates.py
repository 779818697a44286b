"""Points x Device -> estimates: seconds with an interval, counts, and what bounds them.

Every model of latency is one function, which `model=` names in MODELS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlab.cost.memory import memory_footprint, parameters
from fastlab.latency.calibrated import calibrated
from fastlab.latency.costs import (
    CAUSAL,
    COUNTED,
    LAUNCHES,
    MOVED,
    Costs,
    Timing,
    costs_on,
)
from fastlab.latency.devices import Device
from fastlab.record import BOUNDS, Estimate
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.spec.unsupported import unsupported

# Shares of peak and of bandwidth with which a datasheet is read.
EFFICIENCIES = {"datasheet roofline": (1.0, 1.0), "efficiencies 0.7 / 0.9": (0.7, 0.9)}
CHUNK = 1000  # points at a time: bounds the memory of many long generations


def rooflines(
    costs: Sequence[Costs], points: Sequence[Point], device: Device
) -> list[Timing]:
    """The roofline band of each point, from the device's peaks and bandwidth."""
    return [
        roofline(cost.matrix, cost.precisions, device, cost.totals[LAUNCHES])
        for cost in costs
    ]


def roofline(
    costs: np.ndarray,
    precisions: Sequence[str],
    device: Device,
    launches: float | None = None,
) -> Timing:
    """The roofline band, per operation: max(compute, memory) to their sum.

    `seconds` is the geometric middle of the band. Fused attention is charged the
    causal FLOPs, since that is what its kernels do. A GPU's host queues ahead: there
    launches hide behind the work at best, and add to it at worst. precisions: what
    each row computes in; launches: those of the host, by default all.
    """
    peaks = {name: device.product_rate(name) for name in set(precisions)}
    compute = costs[:, CAUSAL] / np.array([peaks[name] for name in precisions])
    memory = costs[:, MOVED].sum(axis=1) / device.bandwidth
    every = costs[:, LAUNCHES]
    share = 1.0 if launches is None else launches / float(every.sum())
    launch = every * (device.launch_s * share)
    work, launching = float(np.maximum(compute, memory).sum()), float(launch.sum())
    low = work + launching if device.kind == "cpu" else max(work, launching)
    high = float((compute + memory + launch).sum())
    # Bound by what most of the time goes to, each operation by its longest part.
    times = np.stack([compute, memory, launch])
    longest = np.bincount(times.argmax(axis=0), times.max(axis=0), minlength=3)
    return Timing((low * high) ** 0.5, low, high, BOUNDS[int(longest.argmax())])


MODELS = {"roofline": rooflines, "calibrated": calibrated, "prior": calibrated}


def estimate(
    points: Sequence[Point], device: Device, model: str = "auto"
) -> list[Estimate]:
    """What each point should cost on the device, in order.

    model: "roofline", "calibrated", "prior", or "auto": by the device's fits where it
    has any for the point's precision, which are calibrated if they were measured on it,
    and else a prior. ValueError for an unknown model, for what the device cannot run
    (`unsupported`), or for a model without its fits.
    """
    check_choice("model", model, ("auto", *MODELS))
    if isinstance(points, Point):
        raise TypeError("points must be a list of points: estimate([point], device)")
    if not isinstance(device, Device):
        raise TypeError(f"device={device!r} must be a Device: fl.device({device!r})")
    for point in points:
        if reason := unsupported(point, device):
            raise ValueError(reason)
    chunks = (points[i : i + CHUNK] for i in range(0, len(points), CHUNK))
    return [e for chunk in chunks for e in _estimates(chunk, device, model)]


def _estimates(points: Sequence[Point], device: Device, model: str) -> list[Estimate]:
    names = [model] * len(points)
    if model == "auto":
        precisions = [point.recipe.precision for point in points]
        known = {p: device.holds(p) for p in set(precisions)}
        names = [device.fitted if known[p] else "roofline" for p in precisions]
    costs = [costs_on(point, device) for point in points]
    found: dict[int, Timing] = {}
    for name in set(names):
        where = [i for i, other in enumerate(names) if other == name]
        mine = [costs[i] for i in where], [points[i] for i in where]
        found.update(zip(where, MODELS[name](*mine, device), strict=True))
    return [
        _estimate(point, device, names[i], costs[i].totals, found[i])
        for i, point in enumerate(points)
    ]


def _estimate(
    point: Point, device: Device, model: str, total: tuple[int, ...], timing: Timing
) -> Estimate:
    counts: dict[str, Any] = dict(zip(COUNTED, total, strict=True))
    memory = memory_footprint(point)
    return Estimate(
        model=model,
        profile=device.profile,
        parameters=parameters(point.built_shape),
        **counts,
        kv_cache_bytes=memory.kv_cache,
        peak_bytes=memory.peak,
        **timing._asdict(),
    )

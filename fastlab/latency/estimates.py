"""Points x Device -> estimates: seconds with an interval, counts, and what bounds them.

Every model of latency is one function, which `model=` names in MODELS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlab.cost.columns import apart, in_order
from fastlab.cost.memory import distinct_parameters, memory_footprint
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
    alike: dict[Any, list[int]] = {}
    for i, cost in enumerate(costs):
        alike.setdefault((cost.precisions, cost.matrix.shape), []).append(i)
    found: dict[int, Timing] = {}
    for (precisions, _), where in alike.items():
        matrices = np.stack([costs[i].matrix for i in where])
        launches = np.array([costs[i].totals[LAUNCHES] for i in where], float)
        made = _bands(matrices, precisions, device, launches)
        found.update(zip(where, made, strict=True))
    return [found[i] for i in range(len(costs))]


def roofline(costs: np.ndarray, precisions: Sequence[str], device: Device) -> Timing:
    """The roofline band, per operation: max(compute, memory) to their sum.

    `seconds` is the geometric middle of the band. Fused attention is charged the
    causal FLOPs, since that is what its kernels do. A GPU's host queues ahead: there
    launches hide behind the work at best, and add to it at worst. precisions: what
    each row computes in.
    """
    return _bands(costs[None], precisions, device, costs[:, LAUNCHES].sum())[0]


def _bands(
    costs: np.ndarray, precisions: Sequence[str], device: Device, launches: np.ndarray
) -> list[Timing]:
    """Of each of several calls [calls, operations, 7]; launches: those of its host."""
    peaks = {name: device.product_rate(name) for name in set(precisions)}
    compute = costs[..., CAUSAL] / np.array([peaks[name] for name in precisions])
    memory = costs[..., MOVED].sum(axis=-1) / device.bandwidth
    every = costs[..., LAUNCHES]
    shares = launches / np.maximum(every.sum(axis=-1), 1)
    launch = every * (device.launch_s * shares)[:, None]
    work, launching = np.maximum(compute, memory).sum(axis=-1), launch.sum(axis=-1)
    low = work + launching if device.kind == "cpu" else np.maximum(work, launching)
    high = (compute + memory + launch).sum(axis=-1)
    # Bound by what most of the time goes to, each operation by its longest part.
    times = np.stack([compute, memory, launch])
    longest = np.where(times == times.max(axis=0), times, 0.0).sum(axis=-1)
    columns = (low * high) ** 0.5, low, high, longest.argmax(axis=0)
    each = zip(*[column.tolist() for column in columns], strict=True)
    return [Timing(s, a, b, BOUNDS[longest]) for s, a, b, longest in each]


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
    costs = costs_on(points, device)
    found: dict[int, Timing] = {}
    for name in set(names):
        where = [i for i, other in enumerate(names) if other == name]
        mine = [costs[i] for i in where], [points[i] for i in where]
        found.update(zip(where, MODELS[name](*mine, device), strict=True))
    memory = in_order(points, lambda point: apart(memory_footprint(point), point))
    return [
        _estimate(point, device, names[i], costs[i].totals, memory[i], found[i])
        for i, point in enumerate(points)
    ]


def _estimate(
    point: Point,
    device: Device,
    model: str,
    total: tuple[int, ...],
    memory: tuple[int, int, int],
    timing: Timing,
) -> Estimate:
    counts: dict[str, Any] = dict(zip(COUNTED, total, strict=True))
    return Estimate(
        model=model,
        profile=device.profile,
        parameters=distinct_parameters(point),
        **counts,
        kv_cache_bytes=memory[1],
        peak_bytes=sum(memory),
        **timing._asdict(),
    )

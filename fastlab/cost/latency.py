"""Operations x Device -> seconds, with an interval and what bounds them.

Every model of latency is one registered function; `model=` names it. "roofline" draws
the band of the roofline: each operation takes between the longer and the sum of its
compute and memory time, plus its launches. "calibrated" is in calibrated.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastlab.cost import calibrated  # noqa: F401  it registers its model
from fastlab.cost.costs import (
    ACTIVATIONS,
    CAUSAL,
    FLOPS,
    KV_READ,
    KV_WRITE,
    LAUNCHES,
    MODELS,
    WEIGHTS,
    Costs,
    Timing,
    costs_of,
    latency_model,
)
from fastlab.cost.devices import Device
from fastlab.cost.memory import kv_cache_bytes, parameters, peak_bytes
from fastlab.record import BOUNDS, Estimate
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point

CHUNK = 1000  # points at a time: bounds the memory of many long generations


def roofline(
    costs: np.ndarray,
    point: Point,
    device: Device,
    precisions: Sequence[str] = (),
    launches: float | None = None,
) -> tuple[float, float, float, str]:
    """The roofline band, per operation: max(compute, memory) to their sum.

    `seconds` is the geometric middle of the band. Fused attention is charged the
    causal FLOPs, since that is what its kernels do. A GPU's host queues ahead: there
    launches hide behind the work at best, and add to it at worst. precisions: what
    each row computes in, by default the point's own; launches: those of the host, by
    default all.
    """
    if point.recipe.format.weights == "fp8":
        device.peak("fp8")  # a device without it is not meant to run it at all
    names = precisions or [point.recipe.precision] * len(costs)
    peaks = {name: device.product_rate(name) for name in set(names)}
    own = [peaks[name] for name in names] if len(peaks) > 1 else peaks[names[0]]
    compute = costs[:, CAUSAL] / np.asarray(own)
    memory = costs[:, WEIGHTS : KV_WRITE + 1].sum(axis=1) / device.bandwidth
    launch = costs[:, LAUNCHES] * (device.launch_s * _share(costs, launches))
    work, launching = float(np.maximum(compute, memory).sum()), float(launch.sum())
    hidden = device.kind != "cpu"
    low = max(work, launching) if hidden else work + launching
    high = float((compute + memory + launch).sum())
    return (low * high) ** 0.5, low, high, _bound(compute, memory, launch)


def _share(costs: np.ndarray, launches: float | None) -> float:
    """The host's launches, as a share of all kernels that run."""
    return 1.0 if launches is None else launches / float(costs[:, LAUNCHES].sum())


@latency_model("roofline")
def _rooflines(
    costs: Sequence[Costs], points: Sequence[Point], device: Device
) -> list[Timing]:
    return [
        Timing(*roofline(c.matrix, p, device, c.precisions, c.totals[LAUNCHES]))
        for c, p in zip(costs, points, strict=True)
    ]


def _bound(compute: np.ndarray, memory: np.ndarray, launch: np.ndarray) -> str:
    """What most of the time goes to, each operation counted for its longest part."""
    times = np.stack([compute, memory, launch])
    longest = np.bincount(times.argmax(axis=0), times.max(axis=0), minlength=3)
    return BOUNDS[int(longest.argmax())]


def estimate(
    points: Sequence[Point], device: Device, model: str = "auto"
) -> list[Estimate]:
    """What each point should cost on the device, in order.

    model: "roofline", "calibrated", or "auto": calibrated where the device has fits for
    the point's precision. ValueError for an unknown model, for a precision that the
    device cannot do, or for "calibrated" without fits.
    """
    check_choice("model", model, ("auto", *MODELS))
    if not isinstance(device, Device):
        raise TypeError(f"device={device!r} must be a Device: fl.device({device!r})")
    found = [e for chunk in _chunks(points) for e in _estimates(chunk, device, model)]
    return found


def _chunks(points: Sequence[Point]) -> list[Sequence[Point]]:
    return [points[i : i + CHUNK] for i in range(0, len(points), CHUNK)]


def _estimates(points: Sequence[Point], device: Device, model: str) -> list[Estimate]:
    used = {point.recipe.precision for point in points}
    chosen = {p: _model_for(p, device) if model == "auto" else model for p in used}
    names = [chosen[point.recipe.precision] for point in points]
    costs = [costs_of(point) for point in points]
    found: dict[int, Timing] = {}
    for name in set(names):
        where = [i for i, other in enumerate(names) if other == name]
        mine = [costs[i] for i in where], [points[i] for i in where]
        found.update(zip(where, MODELS[name](*mine, device), strict=True))
    return [
        _estimate(point, device, names[i], costs[i].totals, found[i])
        for i, point in enumerate(points)
    ]


def _model_for(precision: str, device: Device) -> str:
    known = device.fits is not None and device.fits.holds(precision)
    return "calibrated" if known else "roofline"


def _estimate(
    point: Point, device: Device, model: str, total: tuple[int, ...], timing: Timing
) -> Estimate:
    return Estimate(
        model=model,
        profile=device.profile,
        parameters=parameters(point.built_shape),
        flops=total[FLOPS],
        flops_causal=total[CAUSAL],
        weight_bytes=total[WEIGHTS],
        activation_bytes=total[ACTIVATIONS],
        kv_read_bytes=total[KV_READ],
        kv_write_bytes=total[KV_WRITE],
        kv_cache_bytes=kv_cache_bytes(point),
        peak_bytes=peak_bytes(point),
        launches=total[LAUNCHES],
        seconds=timing.seconds,
        low_s=timing.low,
        high_s=timing.high,
        bound=timing.bound,
        extrapolated=timing.extrapolated,
    )

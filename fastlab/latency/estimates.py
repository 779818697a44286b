"""Points x Device -> estimates: seconds with an interval, counts, and what bounds them.

Every model of latency is one function, which `model=` names in MODELS.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastlab.cost.memory import memory_footprint, parameters
from fastlab.latency.calibrated import calibrated
from fastlab.latency.costs import COUNTED, Timing, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.roofline import rooflines
from fastlab.record import Estimate
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.spec.unsupported import unsupported

MODELS = {"roofline": rooflines, "calibrated": calibrated}
CHUNK = 1000  # points at a time: bounds the memory of many long generations


def estimate(
    points: Sequence[Point], device: Device, model: str = "auto"
) -> list[Estimate]:
    """What each point should cost on the device, in order.

    model: "roofline", "calibrated", or "auto": calibrated where the device has fits for
    the point's precision. ValueError for an unknown model, for what the device cannot
    run (`unsupported`), or for "calibrated" without fits.
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
    precisions = [point.recipe.precision for point in points]
    known = {p: device.holds(p) for p in set(precisions)}
    auto = ["calibrated" if known[p] else "roofline" for p in precisions]
    names = auto if model == "auto" else [model] * len(points)
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
    memory = memory_footprint(point)
    return Estimate(
        model=model,
        profile=device.profile,
        parameters=parameters(point.built_shape),
        **dict(zip(COUNTED, total, strict=True)),
        kv_cache_bytes=memory.kv_cache,
        peak_bytes=memory.peak,
        seconds=timing.seconds,
        low_s=timing.low,
        high_s=timing.high,
        bound=timing.bound,
        extrapolated=timing.extrapolated,
    )

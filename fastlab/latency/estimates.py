"""Points x Device -> estimates: seconds with an interval, counts, and what bounds them.

Every model of latency is one registered function, which `model=` names.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastlab.cost.memory import memory_footprint, parameters
from fastlab.latency import calibrated, roofline  # noqa: F401  they register themselves
from fastlab.latency.costs import COUNTED, MODELS, Timing, costs_on
from fastlab.latency.devices import Device
from fastlab.record import Estimate
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point

CHUNK = 1000  # points at a time: bounds the memory of many long generations


def estimate(
    points: Sequence[Point], device: Device, model: str = "auto"
) -> list[Estimate]:
    """What each point should cost on the device, in order.

    model: "roofline", "calibrated", or "auto": calibrated where the device has fits for
    the point's precision. ValueError for an unknown model, for a precision that the
    device cannot do, or for "calibrated" without fits.
    """
    check_choice("model", model, ("auto", *MODELS))
    if isinstance(points, Point):
        raise TypeError("points must be a list of points: estimate([point], device)")
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


def _model_for(precision: str, device: Device) -> str:
    known = device.fits is not None and device.fits.holds(precision)
    return "calibrated" if known else "roofline"


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

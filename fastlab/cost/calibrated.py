"""The calibrated model: each operation from its class's fit, summed by runtime.

A GPU's host queues ahead, so that an eager call takes the longer of its operations and
its dispatches; a CPU is its own host and takes their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastlab.cost.costs import (
    CAUSAL,
    KV_WRITE,
    LAUNCHES,
    WEIGHTS,
    Costs,
    Timing,
    latency_model,
)
from fastlab.cost.devices import Device
from fastlab.cost.fit import formula, parts_of
from fastlab.cost.profile import Profile
from fastlab.cost.samples import Work, work
from fastlab.record import BOUNDS
from fastlab.spec.point import Point

ALIKE = (
    0.3  # share of the error's variance that all operations of a call have in common
)
STRETCHED = 0.05  # share of the time beyond the calibrated range that is worth a flag
UNKNOWN = np.log(2.0)  # half an interval of a class that was not calibrated


class _Each(NamedTuple):
    """Of every operation: seconds, half-width, [3] parts, and whether it is beyond."""

    seconds: np.ndarray
    half: np.ndarray
    parts: np.ndarray
    outside: np.ndarray


class _Total(NamedTuple):
    """Of every point: seconds of its operations, half-width, longest part, beyond."""

    seconds: np.ndarray
    half: np.ndarray
    bound: np.ndarray
    beyond: np.ndarray


@latency_model("calibrated")
def calibrated(
    costs: Sequence[Costs], points: Sequence[Point], device: Device
) -> list[Timing]:
    """Seconds from the device's fits; ValueError where it has none for a precision."""
    profile = device.fits
    for precision in {point.recipe.precision for point in points}:
        if profile is None or not profile.holds(precision):
            raise ValueError(
                f"{device.name} has no calibrated fit for {precision}; "
                "run `fastlab calibrate`, or choose model='roofline'"
            )
    assert profile is not None
    each = _operations(costs, points, device, profile)
    total = _totals([cost.times for cost in costs], each)
    runtimes = [point.recipe.runtime for point in points]
    launches = [cost.totals[LAUNCHES] for cost in costs]
    rows = zip(runtimes, launches, *total, strict=True)
    return [_timing(device.kind, profile, *row) for row in rows]


def _totals(times: Sequence[np.ndarray], each: _Each) -> _Total:
    owner = np.repeat(np.arange(len(times)), [len(one) for one in times])

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, minlength=len(times))

    often = np.concatenate(times)
    seconds = often * each.seconds
    error = seconds * each.half
    work_s = total(seconds)
    variance = (1 - ALIKE) * total(error**2) + ALIKE * total(error) ** 2
    parts = np.stack([total(part) for part in _longest(often * each.parts)])
    beyond = total(seconds * each.outside) > STRETCHED * work_s
    return _Total(work_s, np.sqrt(variance) / work_s, parts.argmax(axis=0), beyond)


def _timing(
    kind: str,
    profile: Profile,
    runtime: str,
    launches: int,
    work_s: float,
    half: float,
    bound: int,
    beyond: bool,
) -> Timing:
    host, name = launches * profile.dispatch_s, BOUNDS[bound]
    if runtime != "eager":
        seconds = work_s + profile.replay_s
    elif kind == "cpu":
        seconds = work_s + host
    else:
        seconds = max(work_s, host)
        name = "launch" if host > work_s else name
    low, high = seconds / math.exp(half), seconds * math.exp(half)
    return Timing(float(seconds), float(low), float(high), name, bool(beyond))


def _longest(parts: np.ndarray) -> np.ndarray:
    """Each operation's longest part, the others zero."""
    return np.where(parts == parts.max(axis=0), parts, 0.0)


def _operations(
    costs: Sequence[Costs], points: Sequence[Point], device: Device, profile: Profile
) -> _Each:
    names = [
        (kind, point.recipe.precision)
        for cost, point in zip(costs, points, strict=True)
        for kind in cost.classes
    ]
    codes = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of = np.array([codes[name] for name in names])
    times = np.concatenate([cost.times for cost in costs])
    matrix = np.concatenate([cost.matrix for cost in costs]) / times[:, None]
    dims = np.concatenate([cost.dims for cost in costs])
    each = _empty(len(of))
    for (kind, precision), code in codes.items():
        at = of == code
        found = _class(kind, precision, matrix[at], dims[at], device, profile)
        for whole, part in zip(each, found, strict=True):
            whole[..., at] = part
    return each


def _empty(size: int) -> _Each:
    outside = np.empty(size, dtype=bool)
    return _Each(np.empty(size), np.empty(size), np.empty((3, size)), outside)


def _class(
    kind: str,
    precision: str,
    matrix: np.ndarray,
    dims: np.ndarray,
    device: Device,
    profile: Profile,
) -> _Each:
    moved = matrix[:, WEIGHTS : KV_WRITE + 1].sum(axis=1)
    columns = work(kind, matrix[:, CAUSAL], moved, matrix[:, LAUNCHES], dims)
    one = profile.find(kind, precision)
    if one is None:
        return _unknown(columns, datasheet(device, precision))
    seconds, half = one.predict(columns)
    return _Each(seconds, half, one.parts(columns), one.outside(columns))


def _unknown(columns: Work, rates: Mapping[str, float]) -> _Each:
    size = len(columns.flops)
    outside, half = np.ones(size, dtype=bool), np.full(size, UNKNOWN)
    return _Each(formula(rates, columns), half, parts_of(rates, columns), outside)


def datasheet(device: Device, precision: str) -> dict[str, float]:
    """The formula's parameters where all that is known is the device's row."""
    rates = {"peak": device.peak(precision), "bandwidth": device.bandwidth}
    return rates | {"overhead_s": device.launch_s}

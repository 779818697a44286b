"""What microbenchmarks cannot tell: the host's work, cache levels, whole calls.

Whole forward passes of each way of running, and a few products on weights that no
longer fit the caches of a CPU, complete a calibration.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from fastlab.clock.clocks import clock_for
from fastlab.clock.microbench import Work, settings_for
from fastlab.clock.microbenchmarks import STREAMED
from fastlab.clock.timing import Settings, time_call
from fastlab.latency.calibrated import host_work
from fastlab.latency.costs import LAUNCHES, costs_of, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.fit import LEVEL
from fastlab.models import DTYPES, numerics
from fastlab.runtime.engines import prepare
from fastlab.shrink.recipes import build
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.spec.precision import DENSE
from fastlab.spec.shape import FAMILIES

LEVELS = tuple(STREAMED // 16 * 2**n for n in (0, 2, 4, 5, 6, 7))  # bytes of weights
COMPILED_LAYERS = (1, 5)
WIDTH = 2048  # of the square product whose weights are read


def host_points() -> list[Point]:
    """Forwards so small that all their time is the host's: two for each family."""
    tiny = {"layers": 4, "hidden": 64, "heads": 2, "vocab": 256, "prompt_len": 4}
    phases = {"bert": ("prefill",)}
    return [
        point_of(family=family, phase=phase, **tiny)
        for family in FAMILIES
        for phase in phases.get(family, ("prefill", "decode"))
    ]


def whole_points(precision: str, kind: str = "cpu") -> list[Point]:
    """Four forwards of sizes that people run; two where only products differ.

    On a GPU they are so wide that it does not wait for the host.
    """
    sizes = [("llama", "prefill", 512), ("llama", "decode", 768)]
    if precision in DENSE:
        sizes += [("gpt2", "prefill", 768), ("gpt2", "decode", 512)]
    wider, longer = (8, 8) if kind == "cuda" else (1, 1)
    common = {"layers": 6, "vocab": 8192, "precision": precision}
    return [
        point_of(
            family=family,
            phase=phase,
            hidden=hidden * wider,
            prompt_len=128 * longer,
            **common,
        )
        for family, phase, hidden in sizes
    ]


def compiled_point(precision: str, kind: str = "cpu") -> Point:
    """A decode step that compiles in some seconds; on a GPU replayed as a graph."""
    gpu = kind == "cuda"
    sizes = {"layers": 2, "hidden": 6144 if gpu else 768, "vocab": 8192}
    how = {"phase": "decode", "runtime": "graph" if gpu else "decoder"}
    return point_of(family="llama", prompt_len=128, precision=precision, **sizes, **how)


def seconds_of(point: Point, kind: str, settings: Settings | None = None) -> float:
    """Median seconds of the point's call on the device at hand."""
    call = prepare(build(point, kind), point, kind)
    with numerics(point.recipe.precision):
        samples = time_call(call, settings or settings_for(kind), clock_for(kind))
    return samples.seconds


def host_seconds(device: Device) -> dict[str, float]:
    """Host seconds per launch of each family's code, beyond the kernels' own on a CPU.

    There an operation's own call is in its benchmark; the modules around it are not.
    """
    points = host_points()
    took = np.array([seconds_of(point, device.kind) for point in points])
    if device.kind == "cpu":
        took -= [e.seconds for e in estimate(points, device, model="calibrated")]
    each = took / [costs_of(point).totals[LAUNCHES] for point in points]
    families = np.array([point.shape.family for point in points])
    found = {name: float(each[families == name].mean()) for name in FAMILIES}
    return {name: max(seconds, 0.0) for name, seconds in found.items()}


def compiled_seconds(device: Device) -> tuple[float, float]:
    """Host seconds per launch within compiled code, and per call of it.

    From decode steps of one layer and of several, which take some seconds to compile; 0
    where no compiler is found, since nothing that is compiled can run there.
    """
    tiny = {"hidden": 64, "heads": 2, "vocab": 256, "prompt_len": 4}
    points = [
        point_of(family="llama", phase="decode", runtime="decoder", layers=n, **tiny)
        for n in COMPILED_LAYERS
    ]
    try:
        few, many = (seconds_of(point, device.kind) for point in points)
    except (RuntimeError, OSError):  # what inductor raises is a RuntimeError
        return 0.0, 0.0
    if device.kind == "cpu":
        few, many = np.array([few, many]) - [
            e.seconds for e in estimate(points, device, model="calibrated")
        ]
    first, second = (costs_of(point).totals[LAUNCHES] for point in points)
    each = max((many - few) / (second - first), 0.0)
    return float(each), float(max(few - first * each, 0.0))


def slowdowns(kind: str, precision: str) -> tuple[tuple[float, float], ...]:
    """(bytes, factor): what a byte of weights takes when so many are gone through.

    Against the bytes that microbenchmarks go through. One row is multiplied with one
    weight after the other, over and over: the slowest level of the caches that they
    fit in serves them. Empty on a GPU, whose L2 is emptied before each sample.
    """
    if kind != "cpu":
        return ()
    each = [_seconds_per_byte(size, precision) for size in LEVELS]
    at = LEVELS.index(STREAMED)
    # Fewer bytes never come slower, nor more faster: what says otherwise is noise.
    factors = np.array(each) / each[at]
    factors[: at + 1] = np.minimum.accumulate(factors[at::-1])[::-1]
    factors[at:] = np.maximum.accumulate(factors[at:])
    return tuple(zip(map(float, LEVELS), factors.tolist(), strict=True))


def _seconds_per_byte(size: int, precision: str) -> float:
    dtype = DTYPES[precision]
    x = torch.randn(1, WIDTH).to(dtype)
    one = torch.randn(WIDTH, WIDTH).to(dtype)
    weights = [one.clone() for _ in range(max(1, size // one.nbytes))]
    turn = itertools.cycle(weights)

    def through_all() -> None:
        for _ in weights:
            F.linear(x, next(turn))

    with numerics(precision):
        took = time_call(Work(through_all), settings_for("cpu"), clock_for("cpu"))
    return min(took.device_ns) / 1e9 / (len(weights) * one.nbytes)


def call_overhead_factor(
    points: Sequence[Point], took: Sequence[float], device: Device
) -> float:
    """What calls take beyond the sum of their operations, each timed alone: a factor.

    The median over calls, without the host's own work; 1 where all wait for the host.
    """
    assert device.fits is not None
    each = []
    for point, seconds in zip(points, took, strict=True):
        [made] = estimate([point], device, model="calibrated")
        costs = costs_on(point, device)
        host = sum(host_work(costs, point, device.fits, device.kind))
        alone = device.kind == "cpu"  # elsewhere the host works at the same time
        busy = made.seconds - (host if alone else 0.0)
        if made.bound != "launch" and seconds > host:
            each.append((seconds - (host if alone else 0.0)) / busy)
    return float(np.median(each)) if each else 1.0


def stretched(
    points: Sequence[Point], took: Sequence[float], device: Device, factors: int = 0
) -> float:
    """What intervals must be stretched by so that nine in ten of such calls lie within.

    A few errors tell their spread better than their largest ones: the t interval for
    one more error of a normal distribution about 0, in units of the half-width. Of the
    errors as many are lost as `factors` were fitted to the same calls.
    """
    from scipy.stats import t  # 0.5 s, and only a calibration needs it

    made = estimate(points, device, model="calibrated")
    error = np.log([s / e.seconds for s, e in zip(took, made, strict=True)])
    half = np.log([e.high_s / e.seconds for e in made])
    left = max(len(points) - factors, 1)
    spread = np.sqrt(np.sum((error / half) ** 2) / left)
    return float(t.ppf((1 + LEVEL) / 2, left) * spread)

"""What microbenchmarks cannot tell: the host's work, cache levels, whole calls.

Whole forward passes of each way of running, and a few products on weights that no
longer fit the caches of a CPU, complete a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fastlab.clock.calibrate import fastest
from fastlab.clock.clocks import clock_for
from fastlab.clock.microbenchmarks import STREAMED, settings_for
from fastlab.clock.timing import Settings, time_call
from fastlab.latency.calibrated import host_work
from fastlab.latency.costs import LAUNCHES, costs_of, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.fit import LEVEL
from fastlab.latency.profile import Profile, way_of
from fastlab.models import DTYPES, numerics
from fastlab.runtime.engines import prepare
from fastlab.shrink.recipes import build
from fastlab.spec.formats import DENSE, TIMED
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.spec.shape import FAMILIES

LEVELS = tuple(STREAMED // 16 * 2**n for n in (0, 2, 4, 5, 6, 7))  # bytes of weights
COMPILED = ("fp32", "bf16")  # precisions of which one compiled call is timed
COMPILED_LAYERS = (1, 5)
WIDTH = 2048  # of the square product whose weights are read
TINY: dict[str, Any] = {"hidden": 64, "heads": 2, "vocab": 256}  # no work to speak of


def dense_of(device: Device) -> list[str]:
    """The dense precisions that the device was timed in."""
    return [precision for precision in DENSE if precision in device.peak_flops]


def host_points() -> list[Point]:
    """Forwards so small that all their time is the host's: two for each family."""
    phases = {"bert": ("prefill",)}
    return [
        point_of(family=family, phase=phase, layers=4, prompt_len=4, **TINY)
        for family in FAMILIES
        for phase in phases.get(family, ("prefill", "decode"))
    ]


def whole_points(precision: str, kind: str = "cpu") -> list[Point]:
    """Four forwards of sizes that people run; two where only products differ.

    On a GPU they are so wide that it does not wait for the host.
    """
    wider = 8 if kind == "cuda" else 1
    calls = [("llama", "prefill", 512), ("llama", "decode", 768)]
    if precision in DENSE:
        calls += [("gpt2", "prefill", 768), ("gpt2", "decode", 512)]
    common: dict[str, Any] = {"layers": 6, "vocab": 8192, "precision": precision}
    common |= {"prompt_len": 128 * wider, "max_positions": 2048}  # and the next token
    return [
        point_of(family=family, phase=phase, hidden=hidden * wider, **common)
        for family, phase, hidden in calls
    ]


def compiled_point(precision: str, kind: str = "cpu") -> Point:
    """A decode step that compiles in some seconds; on a GPU replayed as a graph."""
    hidden, runtime = (6144, "graph") if kind == "cuda" else (768, "decoder")
    sizes = {"layers": 2, "hidden": hidden, "vocab": 8192, "prompt_len": 128}
    how = {"phase": "decode", "runtime": runtime, "precision": precision}
    return point_of(family="llama", **sizes, **how)


def seconds_of(point: Point, kind: str) -> float:
    """Median seconds of the point's call on the device at hand."""
    call = prepare(build(point, kind), point, kind)
    with numerics(point.recipe.precision):
        return time_call(call, settings_for(kind), clock_for(kind)).seconds


def _beyond_kernels(points: Sequence[Point], device: Device) -> np.ndarray:
    """(2, points): seconds of each call that are the host's own, and its launches.

    A CPU is its own host: there what its kernels are estimated to take goes off. An
    operation's own call is in its benchmark; the modules around it are not.
    """
    seconds = np.array([seconds_of(point, device.kind) for point in points])
    if device.kind == "cpu":
        seconds -= [e.seconds for e in estimate(points, device, model="calibrated")]
    return np.array([seconds, [costs_of(point).totals[LAUNCHES] for point in points]])


def host_seconds(device: Device) -> dict[str, float]:
    """Host seconds per launch of each family's code, without a CPU's kernels."""
    points = host_points()
    seconds, launches = _beyond_kernels(points, device)
    families = np.array([point.shape.family for point in points])
    each = {name: (seconds / launches)[families == name].mean() for name in FAMILIES}
    return {name: max(float(mean), 0.0) for name, mean in each.items()}


def compiled_seconds(device: Device) -> tuple[float, float]:
    """Host seconds per launch within compiled code, and per call of it.

    From decode steps of one layer and of several, which take some seconds to compile.
    """
    how = {"family": "llama", "phase": "decode", "runtime": "decoder", **TINY}
    points = [point_of(layers=layers, **how) for layers in COMPILED_LAYERS]
    (few, many), (first, second) = _beyond_kernels(points, device).tolist()
    each = max((many - few) / (second - first), 0.0)
    return each, max(few - first * each, 0.0)


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

    def through_all() -> None:
        for weight in weights:
            F.linear(x, weight)

    with numerics(precision):
        seconds = fastest(through_all, "cpu", settings_for("cpu"))
    return seconds / (len(weights) * one.nbytes)


def call_overhead_factor(
    points: Sequence[Point], seconds: Sequence[float], device: Device
) -> float:
    """What calls take beyond the sum of their operations, each timed alone: a factor.

    The median over calls, without the host's own work; 1 where all wait for the host.
    """
    assert device.fits is not None
    each = []
    estimates = estimate(points, device, model="calibrated")
    costs = costs_on(points, device)
    for point, took, alone, cost in zip(points, seconds, estimates, costs, strict=True):
        host = sum(host_work(cost, point, device.fits, device.kind))
        if alone.bound != "launch" and took > host:
            # Elsewhere than on a CPU the host works at the same time.
            apart = host if device.kind == "cpu" else 0.0
            each.append((took - apart) / (alone.seconds - apart))
    return float(np.median(each)) if each else 1.0


def stretched(
    points: Sequence[Point], seconds: Sequence[float], device: Device, factors: int = 0
) -> float:
    """What intervals must be stretched by so that nine in ten of such calls lie within.

    A few errors tell their spread better than their largest ones: the t interval for
    one more error of a normal distribution about 0, in units of the half-width. Of the
    errors as many are lost as `factors` were fitted to the same calls.
    """
    from scipy.stats import t  # 0.5 s, and only a calibration needs it

    estimates = estimate(points, device, model="calibrated")
    middle, high = np.array([(e.seconds, e.high_s) for e in estimates]).T
    errors = np.log(seconds / middle) / np.log(high / middle)
    left = max(len(points) - factors, 1)
    return float(t.ppf((1 + LEVEL) / 2, left) * np.sqrt(np.sum(errors**2) / left))


def replay_overhead() -> float:
    """Seconds to replay a CUDA graph of one tiny kernel, from call to result."""
    x = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
    settings = Settings.for_device("cuda", budget_s=0.2, warmup_s=0.05, cache="warm")
    samples = time_call(graph.replay, settings, clock_for("cuda"))
    return min(samples.e2e_ns) / 1e9


def with_host(profile: Profile, device: Device, compiling: bool) -> Profile:
    """The profile with what launching and cache levels cost.

    compiling: whether anything can be compiled; else what it costs the host stays 0.
    """
    levels = {p: slowdowns(device.kind, p) for p in dense_of(device)}
    profile = replace(
        profile,
        replay_s=replay_overhead() if device.kind == "cuda" else 0.0,
        levels={p: found for p, found in levels.items() if found},
    )
    host = host_seconds(replace(device, fits=profile))
    profile = replace(profile, host_s=host, dispatch_s=max(host.values()))
    if not compiling:
        return profile
    each, call = compiled_seconds(replace(device, fits=profile))
    return replace(profile, compiled_s=each, call_s=call)


def with_whole_calls(profile: Profile, device: Device, compiling: bool) -> Profile:
    """The profile with what timed calls say of their parts' sum and of its interval."""
    kind, dense = device.kind, dense_of(device)
    packed = [p for p in (*TIMED, "autocast-bf16") if profile.holds(p)]
    points = [point for p in (*dense, *packed) for point in whole_points(p, kind)]
    points += [compiled_point(p, kind) for p in dense if compiling and p in COMPILED]
    calls = [
        (way_of(p.recipe.precision, p.recipe.engine.compiled), p, seconds_of(p, kind))
        for p in points
    ]
    known, whole = replace(device, fits=profile), {}
    for way in dict.fromkeys(way for way, _, _ in calls):
        _, mine, seconds = zip(*(one for one in calls if one[0] == way), strict=True)
        whole[way] = call_overhead_factor(mine, seconds, known)
    took = [[f"{way}: {point.label}", seconds] for way, point, seconds in calls]
    profile = replace(profile, whole=whole, provenance={"whole_calls": took})
    known = replace(device, fits=profile)
    stretch = stretched(points, [s for _, _, s in calls], known, len(whole))
    return replace(profile, stretch=stretch)

"""What microbenchmarks cannot tell: the host's work, cache levels, whole calls.

Whole forward passes of each way of running, and a few products on weights that no
longer fit the caches of a CPU, complete a calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from fastlab.spec.formats import DENSE
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.spec.shape import FAMILIES

LEVELS = tuple(STREAMED // 16 * 2**n for n in (0, 2, 4, 5, 6, 7))  # bytes of weights
COMPILED = ("fp32", "bf16")  # precisions of which one compiled call is timed
COMPILED_LAYERS = (1, 5)
WIDTH = 2048  # of the square product whose weights are read
# Family, phase, hidden size and batch of the calls that are timed whole.
WHOLE = (
    *(("llama", "prefill", 512, 1), ("llama", "decode", 768, 1)),
    *(("llama", "prefill", 256, 4), ("llama", "decode", 512, 8)),
    *(("gpt2", "prefill", 768, 1), ("gpt2", "decode", 512, 1)),
    *(("gpt2", "prefill", 256, 1), ("bert", "prefill", 512, 1)),
)
TINY: dict[str, Any] = {"hidden": 64, "heads": 2, "vocab": 256}  # no work to speak of


def dense_of(device: Device) -> list[str]:
    """The dense precisions that the device was timed in."""
    return [precision for precision in DENSE if precision in device.peak_flops]


def host_points(precision: str = "fp32") -> list[Point]:
    """Forwards so small that all their time is the host's: two for each family."""
    phases, how = {"bert": ("prefill",)}, TINY | {"precision": precision}
    return [
        point_of(family=family, phase=phase, layers=4, prompt_len=4, **how)
        for family in FAMILIES
        for phase in phases.get(family, ("prefill", "decode"))
    ]


def whole_points(precision: str, kind: str = "cpu") -> list[Point]:
    """Eight forwards of kinds and sizes that people run; four where products differ.

    On a GPU they are so wide that it does not wait for the host.
    """
    calls = WHOLE if precision in DENSE else WHOLE[:4]
    wider = 8 if kind == "cuda" else 1
    common: dict[str, Any] = {"layers": 3, "vocab": 8192, "precision": precision}
    common |= {"prompt_len": 128 * wider, "max_positions": 2048}  # and the next token
    return [
        point_of(family=name, phase=phase, hidden=n * wider, batch=batch, **common)
        for name, phase, n, batch in calls
    ]


def compiled_point(precision: str, kind: str = "cpu") -> Point:
    """A decode step that compiles in some seconds; on a GPU replayed as a graph."""
    hidden, runtime = (6144, "graph") if kind == "cuda" else (768, "decoder")
    sizes = {"layers": 2, "hidden": hidden, "vocab": 8192, "prompt_len": 128}
    how = {"phase": "decode", "runtime": runtime, "precision": precision}
    return point_of(family="llama", **sizes, **how)


def seconds_of(point: Point, kind: str, settings: Settings | None = None) -> float:
    """Median seconds of the point's call on the device at hand."""
    call = prepare(build(point, kind), point, kind)
    with numerics(point.recipe.precision):
        return time_call(call, settings or settings_for(kind), clock_for(kind)).seconds


def _beyond_kernels(
    points: Sequence[Point], device: Device, settings: Settings | None = None
) -> np.ndarray:
    """(2, points): seconds of each call that are the host's own, and its launches.

    A CPU is its own host: there what its kernels are estimated to take goes off. An
    operation's own call is in its benchmark; the modules around it are not.
    """
    seconds = np.array([seconds_of(p, device.kind, settings) for p in points])
    if device.kind == "cpu":
        seconds -= [e.seconds for e in estimate(points, device, model="calibrated")]
    return np.array([seconds, [costs_of(point).totals[LAUNCHES] for point in points]])


def host_seconds(
    device: Device, precision: str = "fp32", settings: Settings | None = None
) -> dict[str, float]:
    """Host seconds per launch of each family's code, without a CPU's kernels."""
    points = host_points(precision)
    seconds, launches = _beyond_kernels(points, device, settings)
    families = np.array([point.shape.family for point in points])
    each = {name: (seconds / launches)[families == name].mean() for name in FAMILIES}
    return {name: max(float(mean), 0.0) for name, mean in each.items()}


def compiled_seconds(device: Device, precision: str = "fp32") -> tuple[float, float]:
    """Host seconds per launch within compiled code, and per call of it.

    From decode steps of one layer and of several, which take some seconds to compile.
    """
    how = {"family": "llama", "phase": "decode", "runtime": "decoder", **TINY}
    how["precision"] = precision
    points = [point_of(layers=layers, **how) for layers in COMPILED_LAYERS]
    (few, many), (first, second) = _beyond_kernels(points, device).tolist()
    each = max((many - few) / (second - first), 0.0)
    return each, max(few - first * each, 0.0)


def slowdowns(
    kind: str, precision: str, settings: Settings | None = None
) -> tuple[tuple[float, float], ...]:
    """(bytes, factor): what a byte of weights takes when so many are gone through.

    Against the bytes that microbenchmarks go through. One row is multiplied with one
    weight after the other, over and over: the slowest level of the caches that they
    fit in serves them. Empty on a GPU, whose L2 is emptied before each sample.
    """
    if kind != "cpu":
        return ()
    settings = settings or settings_for(kind)
    each = [_seconds_per_byte(size, precision, settings) for size in LEVELS]
    at = LEVELS.index(STREAMED)
    # Fewer bytes never come slower, nor more faster: what says otherwise is noise.
    factors = np.array(each) / each[at]
    factors[: at + 1] = np.minimum.accumulate(factors[at::-1])[::-1]
    factors[at:] = np.maximum.accumulate(factors[at:])
    return tuple(zip(map(float, LEVELS), factors.tolist(), strict=True))


def _seconds_per_byte(size: int, precision: str, settings: Settings) -> float:
    dtype = DTYPES[precision]
    x = torch.randn(1, WIDTH).to(dtype)
    one = torch.randn(WIDTH, WIDTH).to(dtype)
    weights = [one.clone() for _ in range(max(1, size // one.nbytes))]

    def through_all() -> None:
        for weight in weights:
            F.linear(x, weight)

    with numerics(precision):
        seconds = fastest(through_all, "cpu", settings)
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
    points: Sequence[Point],
    visits: Sequence[Sequence[float]],
    device: Device,
    factors: int = 0,
) -> float:
    """What intervals must be stretched by so that nine in ten of such calls lie within.

    visits: seconds of each point's call, whenever it was timed: what differs from one
    time to another widens the interval too.
    A few errors tell their spread better than their largest ones: the t interval for
    one more error of a normal distribution about 0, in units of the half-width. Of the
    errors as many are lost as `factors` were fitted to the same calls.
    """
    from scipy.stats import t  # 0.5 s, and only a calibration needs it

    estimates = estimate(points, device, model="calibrated")
    middle, high = np.array([(e.seconds, e.high_s) for e in estimates]).T
    both = zip(visits, middle, strict=True)
    squares = np.array([np.mean(np.log(np.array(s) / m) ** 2) for s, m in both])
    left = max(len(points) - factors, 1)
    spread = np.sqrt(np.sum(squares / np.log(high / middle) ** 2) / left)
    return float(t.ppf((1 + LEVEL) / 2, left) * spread)


def replay_overhead() -> float:
    """Seconds to replay a CUDA graph of one tiny kernel, from call to result."""
    x = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
    settings = Settings.for_device("cuda", budget_s=0.2, warmup_s=0.05, cache="warm")
    samples = time_call(graph.replay, settings, clock_for("cuda"))
    return min(samples.e2e_ns) / 1e9


def with_host(
    profile: Profile,
    device: Device,
    compiling: bool,
    settings: Settings | None = None,
) -> Profile:
    """The profile with what launching and cache levels cost.

    compiling: whether anything can be compiled; else what it costs the host stays 0.
    settings: how each is timed, other than benchmarks are.
    """
    dense = [p for p in dense_of(device) if profile.holds(p)]
    levels = {p: slowdowns(device.kind, p, settings) for p in dense}
    profile = replace(
        profile,
        replay_s=replay_overhead() if device.kind == "cuda" else 0.0,
        levels={p: found for p, found in levels.items() if found},
    )
    host = host_seconds(replace(device, fits=profile), dense[0], settings)
    profile = replace(profile, host_s=host, dispatch_s=max(host.values()))
    if not compiling:
        return profile
    each, call = compiled_seconds(replace(device, fits=profile), dense[0])
    return replace(profile, compiled_s=each, call_s=call)


def calls_to_time(precisions: Iterable[str], kind: str, compiling: bool) -> list[Point]:
    """The calls that are timed whole: of each precision, and of what is compiled."""
    mixed = ["autocast-bf16"] if "bf16" in precisions else []
    points = [p for name in (*precisions, *mixed) for p in whole_points(name, kind)]
    dense = [name for name in precisions if compiling and name in COMPILED]
    return points + [compiled_point(name, kind) for name in dense]


def calls_for(points: Sequence[Point], calls: Sequence[Point]) -> list[Point]:
    """Of calls one of each kind that points have; all where there are no points."""

    def kind_of(point: Point) -> tuple[str, str, bool, bool]:
        prefills, recipe = point.workload.phase == "prefill", point.recipe
        return recipe.precision, point.shape.family, prefills, recipe.engine.compiled

    wanted = set(map(kind_of, points))
    first = {kind_of(call): call for call in reversed(calls)}
    found = [call for kind, call in first.items() if kind in wanted]
    return found or list(calls)


def with_whole_calls(
    profile: Profile,
    device: Device,
    points: Sequence[Point],
    visits: Sequence[Sequence[float]],
) -> Profile:
    """The profile with what timed calls say of their parts' sum and of its interval.

    visits: seconds of each point's call, once or in several rounds.
    """
    ways = [way_of(p.recipe.precision, p.recipe.engine.compiled) for p in points]
    seconds = [float(np.median(times)) for times in visits]
    known, whole = replace(device, fits=profile), {}
    calls = list(zip(ways, points, seconds, strict=True))
    for way in dict.fromkeys(ways):
        _, mine, took = zip(*(one for one in calls if one[0] == way), strict=True)
        whole[way] = call_overhead_factor(mine, took, known)
    told = [[f"{way}: {point.label}", took] for way, point, took in calls]
    profile = replace(profile, whole=whole, provenance={"whole_calls": told})
    known = replace(device, fits=profile)
    return replace(profile, stretch=stretched(points, visits, known, len(whole)))

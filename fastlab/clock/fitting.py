"""The full calibration: microbenchmarks of each precision, and the fits to them.

`fastlab calibrate` keeps the result as this machine's profile; estimates then come from
it (model "calibrated") instead of the roofline of the short calibration.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch

from fastlab import machine
from fastlab.clock.calibrate import calibrate, marked_busy
from fastlab.clock.clocks import clock_for
from fastlab.clock.cpu_contention import CpuContention, is_contended
from fastlab.clock.end_to_end import (
    call_overhead_factor,
    compiled_point,
    compiled_seconds,
    host_seconds,
    seconds_of,
    slowdowns,
    stretched,
    whole_points,
)
from fastlab.clock.microbench import (
    COMPILED_COUNTS,
    COMPILED_STORED,
    COUNTS,
    PACKED_COUNTS,
    STORED_COUNTS,
    Work,
    chosen,
    timed,
)
from fastlab.clock.microbenchmarks import Benchmark
from fastlab.clock.stored_benchmarks import TIMED, compiles
from fastlab.clock.timing import Settings, time_call
from fastlab.latency.devices import Device
from fastlab.latency.fit import ClassFit, fit
from fastlab.latency.profile import Profile, way_of
from fastlab.latency.samples import Sample, class_of

COMPILED = ("fp32", "bf16")  # precisions of which one compiled call is timed
Progress = Callable[[Sequence[tuple[str, Benchmark]]], Iterable[tuple[str, Benchmark]]]


def calibrate_fully(
    kind: str = "auto",
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
) -> tuple[Device, list[Sample]]:
    """This machine's device with fits for every precision it has, and their samples.

    About 30 s a precision on a GPU, a minute on two CPU cores. `progress` wraps the
    list of (precision, benchmark) that is worked through. If other programs took our
    cores meanwhile, the device's source says so.
    """
    began, others = time.monotonic(), CpuContention()
    device = calibrate(kind)
    compiling, clock = compiles(device.kind), clock_for(device.kind)
    wanted = _wanted(device, counts or COUNTS, compiling).items()
    plan = [(p, bench) for p, n in wanted for bench in chosen(device, p, n)]
    # In any order: where the machine is now faster, now slower, no class is so alone.
    random.Random(0).shuffle(plan)
    samples = [
        timed(bench, device, precision, clock)
        for precision, bench in (progress(plan) if progress else plan)
    ]
    profile = _with_host(Profile(fits_of(samples, device)), device)
    profile = _with_whole_calls(profile, device, compiling)
    cores = others.cores()
    provenance = {
        **profile.provenance,
        "at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "cores_of_others": None if cores is None else round(cores, 2),
        "commit": machine.commit(),
        "versions": machine.versions(),
    }
    device = replace(device, fits=replace(profile, provenance=provenance)).stamped()
    return marked_busy(device) if is_contended(cores, device.kind) else device, samples


def _wanted(
    device: Device, counts: Mapping[str, int], compiling: bool
) -> dict[str, dict[str, int]]:
    """How many benchmarks of each class, for every precision that the device has."""
    real = [p for p in TIMED if not machine.unsupported_reason(device.kind, p)]
    packed, stored = (
        {name: min(n, counts["linear"]) for name, n in some.items()}
        for some in (PACKED_COUNTS, STORED_COUNTS)
    )
    dense = dict(counts)
    if device.kind != "cpu":  # where alone rows cut out are a class of their own
        dense.pop("strided", None)
    if compiling:
        dense, stored = dense | COMPILED_COUNTS, stored | COMPILED_STORED
    wanted = dict.fromkeys(device.peak_flops, dense) | dict.fromkeys(real, packed)
    return wanted | {"fp32": dense | stored}


def fits_of(samples: Iterable[Sample], device: Device) -> tuple[ClassFit, ...]:
    """One fit for each class and precision among the samples."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[class_of(sample), sample.precision].append(sample)
    return tuple(fit(group, device) for _, group in sorted(groups.items()))


def _with_host(profile: Profile, device: Device) -> Profile:
    """The profile with what launching and cache levels cost."""
    levels = {p: slowdowns(device.kind, p) for p in device.peak_flops}
    profile = replace(
        profile,
        replay_s=replay_overhead() if device.kind == "cuda" else 0.0,
        levels={p: found for p, found in levels.items() if found},
    )
    host = host_seconds(replace(device, fits=profile))
    profile = replace(profile, host_s=host, dispatch_s=max(host.values()))
    each, call = compiled_seconds(replace(device, fits=profile))
    return replace(profile, compiled_s=each, call_s=call)


def _with_whole_calls(profile: Profile, device: Device, compiling: bool) -> Profile:
    """The profile with what timed calls say of their parts' sum and of its interval."""
    kind, dense = device.kind, device.peak_flops
    packed = [p for p in (*TIMED, "autocast-bf16") if profile.holds(p)]
    points = [point for p in (*dense, *packed) for point in whole_points(p, kind)]
    points += [compiled_point(p, kind) for p in dense if compiling and p in COMPILED]
    seconds = [seconds_of(point, kind) for point in points]
    ways = [way_of(p.recipe.precision, p.recipe.runtime != "eager") for p in points]
    known, whole = replace(device, fits=profile), {}
    for way in dict.fromkeys(ways):
        mine = [n for n, name in enumerate(ways) if name == way]
        whole[way] = call_overhead_factor(
            [points[n] for n in mine], [seconds[n] for n in mine], known
        )
    names = [f"{way}: {point.label}" for way, point in zip(ways, points, strict=True)]
    calls = [[name, took] for name, took in zip(names, seconds, strict=True)]
    profile = replace(profile, whole=whole, provenance={"whole_calls": calls})
    stretch = stretched(points, seconds, replace(device, fits=profile), len(whole))
    return replace(profile, stretch=stretch)


def replay_overhead() -> float:
    """Seconds to replay a CUDA graph of one tiny kernel, from call to result."""
    x = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
    settings = Settings.for_device("cuda", budget_s=0.2, warmup_s=0.05, cache="warm")
    samples = time_call(Work(graph.replay), settings, clock_for("cuda"))
    return min(samples.e2e_ns) / 1e9

"""The full calibration: microbenchmarks of each precision, and the fits to them.

`fastlab calibrate` keeps the result as this machine's profile; estimates then come from
it (model "calibrated") instead of the roofline of the short calibration.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
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
from fastlab.latency.fit import fit
from fastlab.latency.profile import ClassFit, Profile, way_of
from fastlab.latency.samples import Sample, class_of
from fastlab.spec.point import Point

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
    compiling = compiles(device.kind)
    plan = [
        (precision, bench)
        for precision, wanted in _wanted(device, counts or COUNTS, compiling).items()
        for bench in chosen(device, precision, wanted)
    ]
    clock = clock_for(device.kind)
    # In any order: where the machine is now faster, now slower, no class is so alone.
    random.Random(0).shuffle(plan)
    samples = [
        timed(bench, device, precision, clock)
        for precision, bench in (progress(plan) if progress else plan)
    ]
    device = replace(device, fits=Profile(fits_of(samples, device)))
    device = replace(device, fits=_with_wholes(device, compiling))
    cores = others.cores()
    profile = _with_provenance(device, time.monotonic() - began, cores)
    device = replace(device, fits=profile).stamped()
    return marked_busy(device) if is_contended(cores, device.kind) else device, samples


def _wanted(
    device: Device, counts: dict[str, int], compiling: bool
) -> dict[str, dict[str, int]]:
    """How many benchmarks of each class, for every precision that the device has."""
    real = [p for p in TIMED if not machine.unsupported_reason(device.kind, p)]
    packed, stored = (
        {name: min(n, counts["linear"]) for name, n in some.items()}
        for some in (PACKED_COUNTS, STORED_COUNTS)
    )
    if (
        device.kind != "cpu"
    ):  # only there are rows that are cut out a class of their own
        counts = {name: n for name, n in counts.items() if name != "strided"}
    if compiling:
        counts, stored = counts | COMPILED_COUNTS, stored | COMPILED_STORED
    wanted = dict.fromkeys(device.peak_flops, counts) | dict.fromkeys(real, packed)
    return wanted | {"fp32": counts | stored}


def fits_of(samples: Iterable[Sample], device: Device) -> tuple[ClassFit, ...]:
    """One fit for each class and precision among the samples."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[class_of(sample), sample.precision].append(sample)
    return tuple(fit(group, device) for _, group in sorted(groups.items()))


def _with_wholes(device: Device, compiling: bool) -> Profile:
    """The profile with what launching, cache levels and whole calls cost."""
    assert device.fits is not None
    dense = device.peak_flops
    levels = {p: slowdowns(device.kind, p) for p in dense}
    profile = replace(
        device.fits,
        replay_s=replay_overhead() if device.kind == "cuda" else 0.0,
        levels={p: found for p, found in levels.items() if found},
    )
    host = host_seconds(replace(device, fits=profile))
    profile = replace(profile, host_s=host, dispatch_s=max(host.values()))
    each, call = compiled_seconds(replace(device, fits=profile))
    profile = replace(profile, compiled_s=each, call_s=call)
    others = [p for p in (*TIMED, "autocast-bf16") if device.fits.holds(p)]
    kind = device.kind
    points = [point for p in (*dense, *others) for point in whole_points(p, kind)]
    points += [compiled_point(p, kind) for p in dense if compiling and p in COMPILED]
    took = [seconds_of(point, device.kind) for point in points]
    return with_whole_calls(replace(device, fits=profile), points, took)


def with_whole_calls(
    device: Device, points: Sequence[Point], took: Sequence[float]
) -> Profile:
    """The profile with what timed calls say of their parts' sum and of its interval."""
    assert device.fits is not None
    calls = [[f"{_way(p)}: {p.label}", s] for p, s in zip(points, took, strict=True)]
    kept = {**device.fits.provenance, "whole_calls": calls}
    bare = replace(device.fits, whole={}, stretch=1.0, provenance=kept)
    whole = {
        way: call_overhead_factor(*mine, replace(device, fits=bare))
        for way, mine in _by_way(points, took).items()
    }
    profile = replace(bare, whole=whole)
    stretch = stretched(points, took, replace(device, fits=profile), len(whole))
    return replace(profile, stretch=stretch)


def _by_way(
    points: Sequence[Point], took: Sequence[float]
) -> dict[str, tuple[list[Point], list[float]]]:
    found: dict[str, tuple[list[Point], list[float]]] = {}
    for point, seconds in zip(points, took, strict=True):
        mine = found.setdefault(_way(point), ([], []))
        mine[0].append(point)
        mine[1].append(seconds)
    return found


def _way(point: Point) -> str:
    return way_of(point.recipe.precision, point.recipe.runtime != "eager")


def _with_provenance(device: Device, seconds: float, others: float | None) -> Profile:
    assert device.fits is not None
    provenance = {
        "at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "cores_of_others": None if others is None else round(others, 2),
        "commit": machine.commit(),
        "versions": machine.versions(),
    }
    return replace(device.fits, provenance={**device.fits.provenance, **provenance})


def replay_overhead() -> float:
    """Seconds to replay a CUDA graph of one tiny kernel, from call to result."""
    x = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
    settings = Settings.for_device("cuda", budget_s=0.2, warmup_s=0.05, cache="warm")
    samples = time_call(Work(graph.replay), settings, clock_for("cuda"))
    return min(samples.e2e_ns) / 1e9

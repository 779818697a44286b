"""The full calibration: microbenchmarks of each precision, and the fits to them.

`fastlab calibrate` keeps the result as this machine's profile; estimates then come from
it (model "calibrated") instead of the roofline of the short calibration.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch

from fastlab import machine
from fastlab.clock.calibrate import LAUNCH_POINTS, calibrate, launch_overhead
from fastlab.clock.clocks import clock_for
from fastlab.clock.microbench import COUNTS, Benchmark, Work, chosen, timed
from fastlab.clock.timing import Settings, time_call
from fastlab.cost.costs import costs_of
from fastlab.cost.devices import Device
from fastlab.cost.fit import ClassFit, fit
from fastlab.cost.latency import estimate
from fastlab.cost.profile import Profile
from fastlab.cost.samples import Sample, class_of

Progress = Callable[[Sequence[tuple[str, Benchmark]]], Iterable[tuple[str, Benchmark]]]


def calibrate_fully(
    kind: str = "auto",
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
) -> tuple[Device, list[Sample]]:
    """This machine's device with fits for every precision it has, and their samples.

    About 30 s a precision on a GPU, a minute on two CPU cores. `progress` wraps the
    list of (precision, benchmark) that is worked through.
    """
    began = time.monotonic()
    device = calibrate(kind)
    plan = [
        (precision, bench)
        for precision in device.peak_flops
        for bench in chosen(device, precision, counts or COUNTS)
    ]
    clock = clock_for(device.kind)
    samples = [
        timed(bench, device, precision, clock)
        for precision, bench in (progress(plan) if progress else plan)
    ]
    device = replace(device, fits=Profile(fits_of(samples, device)))
    profile = _with_runtime(device, time.monotonic() - began)
    return replace(device, fits=profile).stamped(), samples


def fits_of(samples: Iterable[Sample], device: Device) -> tuple[ClassFit, ...]:
    """One fit for each class and precision among the samples."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[class_of(sample), sample.precision].append(sample)
    return tuple(fit(group, device) for group in groups.values())


def _with_runtime(device: Device, seconds: float) -> Profile:
    """The profile with what launching costs, and where it comes from."""
    assert device.fits is not None
    provenance = {
        "at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "commit": machine.commit(),
        "versions": machine.versions(),
    }
    return replace(
        device.fits,
        dispatch_s=_dispatch(device),
        replay_s=replay_overhead() if device.kind == "cuda" else 0.0,
        provenance=provenance,
    )


def _dispatch(device: Device) -> float:
    """Host seconds per launch: on a CPU, what a tiny forward takes beyond its kernels.

    There an operation's own call is in its benchmark; the modules around it are not.
    """
    if device.kind != "cpu":
        return device.launch_s
    kernels = estimate(LAUNCH_POINTS, device, model="calibrated")
    launches = [costs_of(point).totals[-1] for point in LAUNCH_POINTS]
    own = min(e.seconds / n for e, n in zip(kernels, launches, strict=True))
    return max(launch_overhead(device.kind) - own, 0.0)


def replay_overhead() -> float:
    """Seconds to replay a CUDA graph of one tiny kernel, from call to result."""
    x = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
    settings = Settings.for_device("cuda", budget_s=0.2, warmup_s=0.05, cache="warm")
    samples = time_call(Work(graph.replay), settings, clock_for("cuda"))
    return min(samples.e2e_ns) / 1e9

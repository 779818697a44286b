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
from typing import Any

from fastlab import machine
from fastlab.clock import microbench
from fastlab.clock.calibrate import busy_words, calibrate, marked_busy
from fastlab.clock.clocks import clock_for
from fastlab.clock.cpu_contention import CpuContention
from fastlab.clock.end_to_end import with_host, with_whole_calls
from fastlab.clock.microbenchmarks import Benchmark
from fastlab.clock.stored_benchmarks import compiles
from fastlab.latency.devices import Device
from fastlab.latency.fit import fit
from fastlab.latency.profile import ClassFit, Profile
from fastlab.latency.samples import Sample, class_of
from fastlab.spec.formats import TIMED

Progress = Callable[[Sequence[tuple[str, Benchmark]]], Iterable[tuple[str, Benchmark]]]


def calibrate_fully(
    kind: str = "auto",
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
) -> tuple[Device, list[Sample]]:
    """This machine's device with fits for every precision it has, and their samples.

    About 30 s a precision on a GPU, a minute on two CPU cores. `progress` wraps the
    list of (precision, benchmark) that is worked through. If other programs took our
    cores meanwhile, the device says so (`busy`).
    """
    began, others = time.monotonic(), CpuContention()
    device = calibrate(kind)
    compiling, clock = compiles(device.kind), clock_for(device.kind)
    wanted = _wanted(device, counts or microbench.COUNTS, compiling).items()
    plan = [(p, bench) for p, n in wanted for bench in microbench.chosen(device, p, n)]
    # In any order: where the machine is now faster, now slower, no class is so alone.
    random.Random(0).shuffle(plan)
    samples = [
        microbench.timed(bench, device, precision, clock)
        for precision, bench in (progress(plan) if progress else plan)
    ]
    profile = with_host(Profile(fits_of(samples, device)), device)
    profile = with_whole_calls(profile, device, compiling)
    seconds, cores = time.monotonic() - began, others.cores()
    provenance = {**profile.provenance, **_provenance(seconds, cores)}
    device = replace(device, fits=replace(profile, provenance=provenance)).stamped()
    return marked_busy(device, busy_words(cores, device.kind)), samples


def _provenance(seconds: float, cores_of_others: float | None) -> dict[str, Any]:
    return {
        "at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "cores_of_others": cores_of_others and round(cores_of_others, 2),
        "commit": machine.commit(),
        "versions": machine.versions(),
    }


def _wanted(
    device: Device, counts: Mapping[str, int], compiling: bool
) -> dict[str, dict[str, int]]:
    """How many benchmarks of each class, for every precision that the device has."""
    real = [p for p in TIMED if not machine.unsupported_reason(device.kind, p)]
    packed, stored = (
        {name: min(n, counts["linear"]) for name, n in some.items()}
        for some in (microbench.PACKED_COUNTS, microbench.STORED_COUNTS)
    )
    dense = dict(counts)
    if device.kind != "cpu":  # where alone rows cut out are a class of their own
        dense.pop("strided", None)
    if compiling:
        dense, stored = (
            dense | microbench.COMPILED_COUNTS,
            stored | microbench.COMPILED_STORED,
        )
    wanted = dict.fromkeys(device.peak_flops, dense) | dict.fromkeys(real, packed)
    return wanted | {"fp32": dense | stored}


def fits_of(samples: Iterable[Sample], device: Device) -> tuple[ClassFit, ...]:
    """One fit for each class and precision among the samples."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[class_of(sample), sample.precision].append(sample)
    return tuple(fit(group, device) for _, group in sorted(groups.items()))

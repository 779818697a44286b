"""The full calibration: timed operations of each precision, and the fits to them.

At most 100 operations a precision, spread over the sizes that models have; in fp32 a
third more, of weights stored sparse or shared. Each is run as transformers' eager code
runs it, and counted by the same function of `cost/ops.py` as the models'.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fastlab import machine
from fastlab.clock.calibrate import busy_words, calibrate, marked_busy
from fastlab.clock.calibrate import settings_for as roofline_settings
from fastlab.clock.clocks import Clock, clock_for
from fastlab.clock.cpu_contention import CpuContention
from fastlab.clock.end_to_end import (
    calls_for,
    calls_to_time,
    dense_of,
    seconds_of,
    with_host,
    with_whole_calls,
)
from fastlab.clock.microbenchmarks import CANDIDATES, Benchmark, settings_for
from fastlab.clock.needed import Ends, needs, runnable
from fastlab.clock.stored_benchmarks import (
    STORED_CANDIDATES,
    compiles,
    packed_products,
)
from fastlab.clock.timing import Settings, time_call
from fastlab.cost.classes import CLASSES
from fastlab.latency.devices import Device
from fastlab.latency.fit import fit
from fastlab.latency.profile import ClassFit, Profile
from fastlab.latency.samples import GENERATED, Sample, class_of, work_of
from fastlab.models import DTYPES, numerics
from fastlab.spec.formats import DENSE, FORMATS, QUANTIZED, TIMED
from fastlab.spec.point import Point

LONGEST_S = {"cuda": 0.02, "cpu": 0.06}  # by the roofline; larger ones are left out
LARGEST_BYTES = {"cuda": 2**33, "cpu": 2**29}
POOLS = CANDIDATES | STORED_CANDIDATES
Progress = Callable[[Sequence[int]], Iterable[int]]
# Of each visit where only some points are asked for.
QUICK: dict[str, Any] = {"budget_s": 0.03, "warmup_s": 0.01, "warmup_cap_s": 0.05}
ROUNDS = 3  # in which all is timed once before any is timed again


def counts(*needs: str) -> dict[str, int]:
    """How many benchmarks of each class that needs just this; see `cost.classes`."""
    asked = {name: one.timed for name, one in CLASSES.items() if one.needs == needs}
    return {name: count for name, count in asked.items() if count}


COUNTS = counts() | counts("cpu")  # 100 in all, with those of compiled code
PACKED_COUNTS = {"linear": 24}  # of a quantized precision, whose rest runs dense
# Of weights stored sparse or shared, timed in fp32: sparse products know no other on a
# CPU, and a look-up is one of whole numbers.
STORED_COUNTS = counts("fp32")
# Of compiled code: a second or so each to compile on a CPU.
COMPILED_COUNTS, COMPILED_STORED = counts("compiler"), counts("fp32", "compiler")


def calibrate_fully(
    kind: str = "auto",
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
    points: Sequence[Point] = (),
) -> tuple[Device, list[Sample]]:
    """This machine's device with fits for every precision it has, and their samples.

    About 30 s a precision on a GPU, a minute on two CPU cores. All is timed in rounds,
    in a third of the time each: what counts is the middle one, and a machine that is
    now faster, now slower is so to all alike. points: only what these need, and no
    more often than their fits need, in 15 s or less; ValueError where none can run.
    `progress` wraps the list of what is timed, one after the other. If other programs
    took our cores meanwhile, the device says so (`busy`).
    """
    began, others = time.monotonic(), CpuContention()
    kind, rounds = machine.torch_device(kind), 1 if points else ROUNDS
    settings, over = settings_for(kind), QUICK if points else {}
    device = calibrate(kind, replace(roofline_settings(kind), **over))
    able = runnable(points, device)
    near = needs(able, device)
    compiled = any(point.recipe.engine.compiled for point in able)
    compiling = compiled if points else compiles(kind)
    wanted = {p: {k: few(k) for k in ends} for p, ends in near.items()}
    wanted = wanted or wanted_counts(device, counts or COUNTS, compiling)
    plan = [
        (p, bench)
        for p, each in wanted.items()
        for bench in chosen(device, p, each, near.get(p, {}))
    ]
    calls = calls_for(able, calls_to_time(wanted, kind, compiling))
    visits = timed_in_rounds(
        [*plan, *calls], device, replace(settings, **over), rounds, progress
    )
    samples = [
        Sample.of(bench.op, float(np.median(times)), precision, device.name)
        for (precision, bench), times in zip(plan, visits, strict=False)
    ]
    profile = Profile(fits_of(samples, device))
    profile = with_host(profile, device, compiling, replace(settings, **over))
    profile = with_whole_calls(profile, device, calls, visits[len(plan) :])
    cores = others.cores()
    provenance = {
        **profile.provenance,
        **({"quick": f"for {len(points)} points"} if points else {}),
        "at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "cores_of_others": cores and round(cores, 2),
        "commit": machine.commit(),
        "versions": machine.versions(),
    }
    device = replace(device, fits=replace(profile, provenance=provenance)).stamped()
    return marked_busy(device, busy_words(cores, device.kind)), samples


def few(kind: str) -> int:
    """How many microbenchmarks of a class its fit needs."""
    return min(CLASSES[kind].timed, 3 if CLASSES[kind].form == "bytes" else 6)


def timed_in_rounds(
    tasks: Sequence[Any],
    device: Device,
    settings: Settings,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Seconds of (precision, benchmark) pairs and of points' calls, from each round."""
    clock = clock_for(device.kind)
    short = replace(settings, budget_s=settings.budget_s / rounds)
    once = {task for task in tasks if slow_to_make(task)}

    def seconds(task: Any) -> float:
        how = settings if task in once else short
        if isinstance(task, Point):
            return seconds_of(task, device.kind, how)
        return timed(task[1], device, task[0], clock, how).seconds

    return in_rounds(tasks, seconds, progress, rounds, once)


def slow_to_make(task: Any) -> bool:
    """Whether what is packed or compiled first takes longer to make than to time.

    It is timed once, in any of the rounds, and as long as others in all of them.
    """
    if isinstance(task, Point):
        return task.recipe.engine.compiled or task.recipe.precision not in DENSE
    return task[0] in QUANTIZED or class_of(task[1].op) in GENERATED


def in_rounds(
    tasks: Sequence[Any],
    seconds: Callable[[Any], float],
    progress: Progress | None = None,
    rounds: int = ROUNDS,
    once: Collection[Any] = (),
) -> list[list[float]]:
    """Seconds of each task, one of every round; of those in `once` a single one.

    Each round takes them in an order of its own: a machine that slows down for a while
    does so to any of them.
    """
    order: list[int] = []
    for turn in range(rounds):
        mine = [
            n for n, task in enumerate(tasks) if task not in once or n % rounds == turn
        ]
        random.Random(turn).shuffle(mine)
        order += mine
    found: list[list[float]] = [[] for _ in tasks]
    for n in progress(order) if progress else order:
        found[n].append(seconds(tasks[n]))
    return found


def wanted_counts(
    device: Device, counts: Mapping[str, int], compiling: bool
) -> dict[str, dict[str, int]]:
    """How many benchmarks of each class, for every precision that the device has."""
    packed, stored = (
        {name: min(n, counts["linear"]) for name, n in some.items()}
        for some in (PACKED_COUNTS, STORED_COUNTS)
    )
    dense = dict(counts)
    if device.kind != "cpu":  # where alone rows cut out are a class of their own
        dense.pop("strided", None)
    if compiling:
        dense, stored = dense | COMPILED_COUNTS, stored | COMPILED_STORED
    wanted = dict.fromkeys(dense_of(device), dense)
    real = [p for p in TIMED if not machine.unsupported_reason(device.kind, p)]
    return wanted | dict.fromkeys(real, packed) | {"fp32": dense | stored}


def chosen(
    device: Device,
    precision: str,
    counts: Mapping[str, int],
    near: Mapping[str, Ends] | None = None,
) -> list[Benchmark]:
    """The benchmarks of a precision: of each class, `counts` far apart from another.

    near: by class, the sizes that they are to be taken from, or next to.
    """
    near, rate = near or {}, device.product_rate(precision)
    longest, largest = LONGEST_S[device.kind], LARGEST_BYTES[device.kind]
    picked = []
    for name, count in counts.items():
        if precision in QUANTIZED:
            pool = packed_products(precision)
        else:
            pool = POOLS[name](DTYPES[precision].itemsize)
        pool = [
            b
            for b in pool
            if b.op.flops_causal / rate + b.op.bytes / device.bandwidth <= longest
            and b.op.bytes <= largest
        ]
        places = work_of([Sample.of(b.op, 1.0, precision) for b in pool]).places
        usable = np.arange(len(pool))
        if near:
            usable = within(places, near[name], count)
        picked += [pool[usable[n]] for n in spread(places[usable], count)]
    return picked


def within(places: np.ndarray, ends: Ends, count: int) -> np.ndarray:
    """Indices of the places between the ends or a factor 2 beyond, at least `count`."""
    beyond = np.maximum(np.maximum(ends[0] - places, places - ends[1]), 0).max(axis=1)
    furthest = max(math.log(2), np.sort(beyond)[min(count, len(beyond)) - 1])
    return np.flatnonzero(beyond <= furthest + 1e-9)


def spread(places: np.ndarray, count: int) -> list[int]:
    """Indices of `count` rows of places [n, d], each farthest from those before it.

    The first is the one nearest to the middle (Gonzalez 1985, farthest-first).
    """
    scaled = (places - places.mean(axis=0)) / np.maximum(places.std(axis=0), 1e-9)
    picked = [int((scaled**2).sum(axis=1).argmin())]
    nearest = ((scaled - scaled[picked[0]]) ** 2).sum(axis=1)
    while len(picked) < min(count, len(places)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((scaled - scaled[picked[-1]]) ** 2).sum(axis=1))
    return picked


def timed(
    bench: Benchmark,
    device: Device,
    precision: str,
    clock: Clock,
    settings: Settings | None = None,
) -> Sample:
    """One benchmark, made and timed on the device at hand; its median as a sample."""
    with numerics(precision):
        work = bench.make(device.kind, DTYPES[FORMATS[precision].dense])
        measured = time_call(work, settings or settings_for(device.kind), clock)
    return Sample.of(bench.op, measured.seconds, precision, device.name)


def fits_of(samples: Iterable[Sample], device: Device) -> tuple[ClassFit, ...]:
    """One fit for each class and precision among the samples."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[class_of(sample), sample.precision].append(sample)
    return tuple(fit(group, device) for _, group in sorted(groups.items()))

"""A quick calibration: only the classes, precisions and sizes that points need."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastlab.clock import calibrate
from fastlab.clock.cpu_contention import CpuContention
from fastlab.clock.end_to_end import calls_to_time
from fastlab.clock.fitting import Ends, Progress, chosen, finished, profiled
from fastlab.clock.microbenchmarks import STREAMED, settings_for
from fastlab.cost.classes import CLASSES
from fastlab.latency.costs import CAUSAL, LAUNCHES, MOVED, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.samples import work
from fastlab.spec.formats import DENSE, TIMED, calibrated_alike
from fastlab.spec.point import Point
from fastlab.spec.shape import FAMILIES
from fastlab.spec.unsupported import unsupported

FEW, FEWEST = 6, 3  # microbenchmarks of a class, and of one that only moves bytes
QUICK: dict[str, Any] = {
    "budget_s": 0.03,
    "warmup_s": 0.01,
    "warmup_cap_s": 0.05,
}  # each of them
LEVELS = (STREAMED, 4 * STREAMED)

Needs = dict[str, dict[str, Ends]]  # by precision and class


def calibrate_for(
    points: Sequence[Point], kind: str = "auto", progress: Progress | None = None
) -> Device:
    """This machine's device with fits for what the points are made of; 15 s or less.

    A fit is as good near the points' sizes as `calibrate_fully`'s, and knows no others.
    ValueError where the device can run none of the points.
    """
    began, others = time.monotonic(), CpuContention()
    settings = replace(calibrate.settings_for(calibrate.machine.torch_device(kind)))
    device = calibrate.calibrate(kind, replace(settings, **QUICK))
    able = runnable(points, device)
    wanted = needs(able, device)
    counts = {p: {k: few(k) for k in ends} for p, ends in wanted.items()}
    plan = [(p, b) for p, n in counts.items() for b in chosen(device, p, n, wanted[p])]
    compiling = any(point.recipe.engine.compiled for point in able)
    recipes = dict.fromkeys(point.recipe.precision for point in able)
    calls = like(able, calls_to_time(list(recipes), device.kind, compiling))
    profile, _ = profiled(
        *(device, plan, calls, compiling, progress),
        settings=replace(settings_for(device.kind), **QUICK),
        rounds=1,
        families=families(able),
        sizes=LEVELS,
    )
    words = {**profile.provenance, "quick": f"for {len(points)} points"}
    return finished(device, replace(profile, provenance=words), began, others)


def runnable(points: Sequence[Point], device: Device) -> list[Point]:
    """The points that the device can run; ValueError with the reason if none is."""
    whys = [unsupported(point, device) for point in points]
    if points and all(whys):
        raise ValueError(
            f"{device.name} can run none of {len(points)} points: {whys[0]}"
        )
    return [point for point, why in zip(points, whys, strict=True) if not why]


def serves(device: Device | None, points: Sequence[Point]) -> bool:
    """Whether a calibration knows the points' classes and sizes; a full one always."""
    if device is None or device.busy or device.fits is None:
        return False
    able, fits = runnable(points, device), device.fits
    if not all(device.holds(point.recipe.precision) for point in able):
        return False
    if "quick" not in fits.provenance:
        return True
    pairs = [(kind, p) for p, ends in needs(able, device).items() for kind in ends]
    return all(fits.find(*pair) for pair in pairs) and not any(
        one.extrapolated for one in estimate(able, device)
    )


def needs(points: Sequence[Point], device: Device) -> Needs:
    """Of each precision and class that is timed: the ends of the points' places."""
    found: dict[str, dict[str, list[np.ndarray]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for cost in costs_on(points, device):
        each = cost.matrix / cost.times[:, None]
        pairs = list(zip(cost.classes, cost.precisions, strict=True))
        for pair in set(pairs):
            at = [n for n, other in enumerate(pairs) if other == pair]
            kind, precision = timed_as(*pair, device.kind)
            if kind:
                own = each[at]
                costs = own[:, CAUSAL], own[:, MOVED].sum(axis=1), own[:, LAUNCHES]
                places = work(pair[0], *costs, cost.dims[at]).places
                found[precision][kind].append(places)
    return {
        precision: {
            kind: (np.vstack(places).min(axis=0), np.vstack(places).max(axis=0))
            for kind, places in kinds.items()
        }
        for precision, kinds in found.items()
    }


def timed_as(kind: str, precision: str, device: str) -> tuple[str, str]:
    """The class and precision whose microbenchmarks stand for an operation's.

    An empty class where there are none.
    """
    one = CLASSES[kind]
    if not one.timed or ("cpu" in one.needs and device != "cpu"):
        kind = one.like
    if not kind or "fp32" in CLASSES[kind].needs:
        return kind, "fp32"
    names = calibrated_alike(precision)
    return kind, next(name for name in names if name in (*DENSE, *TIMED))


def few(kind: str) -> int:
    """How many microbenchmarks of a class: what its fit needs."""
    moves = CLASSES[kind].form == "bytes"
    return min(CLASSES[kind].timed, FEWEST if moves else FEW)


def families(points: Sequence[Point]) -> list[str]:
    """The families of the points; of architectures that have no formula, llama."""
    return sorted({p.shape.family for p in points} & set(FAMILIES)) or ["llama"]


def like(points: Sequence[Point], calls: Sequence[Point]) -> list[Point]:
    """The first of the calls for each precision, family and phase of the points."""
    wanted = {
        (point.recipe.precision, family, point.workload.phase == "prefill")
        for point in points
        for family in families([point])
    }
    first: dict[tuple[str, str, bool], Point] = {}
    for call in calls:
        prefill = call.workload.phase == "prefill"
        one = call.recipe.precision, call.shape.family, prefill
        if call.recipe.engine.compiled or one in wanted:
            first.setdefault(one, call)
    return list(first.values()) or list(calls[:2])

"""The calibrated model: each operation from its class's fit, summed by runtime.

A GPU's host queues ahead, so that a call takes the longer of its operations and its
dispatches; a CPU is its own host and takes their sum. A CUDA graph is one dispatch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastlab.cost.classes import CLASSES
from fastlab.cost.memory import used_again
from fastlab.latency.costs import (
    CAUSAL,
    KV_READ,
    LAUNCHES,
    MOVED,
    READ,
    Costs,
    Timing,
)
from fastlab.latency.devices import Device
from fastlab.latency.profile import ClassFit, Profile, parts_of
from fastlab.latency.samples import GENERATED, work
from fastlab.record import BOUNDS
from fastlab.spec.formats import FORMATS
from fastlab.spec.point import Point

ALIKE = 0.3  # share of the error's variance that a call's operations have in common
ALIKE_QUANTIZED = 0.6  # where all of them wait for the same quantizer of their rows
STRETCHED = 0.05  # share of the time beyond the calibrated range that is worth a flag
UNKNOWN = math.log(2.0)  # half an interval of a class that was not calibrated


class Each(NamedTuple):
    """Of every operation: seconds, half-width, [3] parts, if it is beyond, `alike`."""

    seconds: np.ndarray
    half: np.ndarray
    parts: np.ndarray
    outside: np.ndarray
    alike: np.ndarray


def calibrated(
    costs: Sequence[Costs], points: Sequence[Point], device: Device
) -> list[Timing]:
    """Seconds from the device's fits; ValueError where it has none for a precision."""
    for precision in {point.recipe.precision for point in points}:
        if not device.holds(precision):
            raise ValueError(
                f"{device.name} has no {device.fitted} fit for {precision}; "
                "run `fastlab calibrate`, or choose model='roofline'"
            )
    profile = device.fits or Profile(())
    each = each_operation(costs, points, device, profile)
    totals = _totals([cost.times for cost in costs], each)
    return [
        _timing(host_work(cost, point, profile, device.kind), device, *total)
        for cost, point, *total in zip(costs, points, *totals, strict=True)
    ]


def host_work(
    cost: Costs, point: Point, profile: Profile, kind: str
) -> tuple[float, float]:
    """Seconds of the host beside the operations of a call: launching, replaying graphs.

    A CPU's own kernels are called within its operations: what is left is the code
    between them, of which there is none within one function. A serving engine's cost of
    a step stands for all that.
    """
    host = cost.host
    if profile.serves:
        each = profile.step_s + point.workload.batch * profile.sequence_s
        again = profile.again_s * read_again(cost)
        return 0.0, host.passes * each + again
    eager = host.eager - (host.inner if kind == "cpu" else 0)
    launching = eager * profile.host(point.shape.family)
    launching += host.compiled * profile.compiled_s + host.calls * profile.call_s
    return launching, host.replays * profile.replay_s


def alike(precision: str) -> float:
    """Share of the error's variance that products of a precision have in common."""
    return ALIKE_QUANTIZED if FORMATS[precision].dynamic else ALIKE


def read_again(cost: Costs) -> float:
    """Bytes of the cache that steps read for all heads of a group but the first."""
    steps = np.array([name == "decode" for name in cost.classes])
    heads, kv_heads = cost.dims[steps, 3:5].T
    return float(cost.matrix[steps, KV_READ] @ (heads / kv_heads - 1))


def _totals(times: Sequence[np.ndarray], each: Each) -> tuple[np.ndarray, ...]:
    """Of every point: seconds of its operations, half-width, longest part, beyond."""
    owner = np.repeat(np.arange(len(times)), [len(one) for one in times])

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, minlength=len(times))

    often = np.concatenate(times)
    seconds = often * each.seconds
    error = seconds * each.half
    work_s = total(seconds)
    apart, together = (1 - each.alike) * error**2, np.sqrt(each.alike) * error
    variance = total(apart) + total(together) ** 2
    parts = often * each.parts
    longest = np.where(parts == parts.max(axis=0), parts, 0.0)
    bound = np.stack([total(part) for part in longest]).argmax(axis=0)
    beyond = total(seconds * each.outside) > STRETCHED * work_s
    return work_s, np.sqrt(variance) / work_s, bound, beyond


def _timing(
    host: tuple[float, float],
    device: Device,
    work_s: float,
    half: float,
    bound: int,
    beyond: bool,
) -> Timing:
    launching, replaying = host
    busy, name = float(work_s) + replaying, BOUNDS[bound]
    if device.kind == "cpu":
        seconds = busy + launching
    else:
        seconds = max(busy, launching)
        name = "launch" if launching > busy else name
    fits = device.fits or Profile(())
    half *= fits.stretch
    if launching:  # as far as the host's time may go beyond the device's
        half = max(half, fits.host_half + math.log(launching / seconds))
    width = math.exp(half)
    return Timing(seconds, seconds / width, seconds * width, name, bool(beyond))


def each_operation(
    costs: Sequence[Costs], points: Sequence[Point], device: Device, profile: Profile
) -> Each:
    """Every operation of the calls, one after the other, as the profile's fits time it.

    Fits are asked once for all operations of a class, precision and way of running.
    """
    known = [
        zip(c.classes, c.precisions, c.compiled.tolist(), strict=True) for c in costs
    ]
    codes: dict[tuple[str, str, bool], int] = {}
    of = np.array([codes.setdefault(one, len(codes)) for each in known for one in each])
    times = np.concatenate([cost.times for cost in costs])
    matrix = np.concatenate([cost.matrix for cost in costs]) / times[:, None]
    slow = [slowdown(c, p, profile) for c, p in zip(costs, points, strict=True)]
    sizes = [len(cost.times) for cost in costs]
    matrix[:, READ] *= np.repeat(slow, sizes)[:, None]
    dims = np.concatenate([cost.dims for cost in costs])
    n = len(of)
    empty = np.empty(n), np.empty(n), np.empty((3, n))
    each = Each(*empty, np.zeros(n, bool), np.empty(n))
    for (kind, precision, compiled), code in codes.items():
        at = of == code
        fit = fit_of(kind, precision, compiled, device, profile)
        own = matrix[at]
        costs_s = own[:, CAUSAL], own[:, MOVED].sum(axis=1), own[:, LAUNCHES]
        columns = work(kind, *costs_s, dims[at])
        each.seconds[at], each.half[at] = fit.predict(columns)
        each.parts[:, at] = parts_of(fit.parameters, columns)
        each.outside[at], each.alike[at] = fit.outside(columns), alike(precision)
    both = zip(costs, points, strict=True)
    beyond = np.concatenate([call_overhead_factor(c, p, profile) for c, p in both])
    return each._replace(seconds=each.seconds * beyond, parts=each.parts * beyond)


def call_overhead_factor(cost: Costs, point: Point, profile: Profile) -> np.ndarray:
    """[operations] what each takes within a call beyond its time alone: factors."""
    recipe, prefills = point.recipe, point.workload.phase == "prefill"
    factors = np.full(len(cost.times), profile.call_overhead_factor(recipe.precision))
    if recipe.engine.compiled and not prefills:  # a compiled prefill has eager's
        factors[cost.compiled] = profile.call_overhead_factor(recipe.precision, True)
    return factors


def slowdown(cost: Costs, point: Point, profile: Profile) -> float:
    """What the call's weights and cached rows take beyond a microbenchmark's.

    They come from the level of the caches that holds all that the call comes back to.
    """
    passes = max(1, point.workload.new_tokens)
    footprint = sum(cost.totals[column] for column in READ) / passes
    if point.recipe.distinct_layers:  # the caches hold them once
        footprint -= used_again(point)
    return profile.slowdown(point.recipe.format.dense, footprint)


def fit_of(
    kind: str, precision: str, compiled: bool, device: Device, profile: Profile
) -> ClassFit:
    """The fit of a class of operations; from the datasheet where none was calibrated.

    In compiled code only library calls keep their overhead: what other kernels cost a
    CPU beyond their work is the profile's compiled_s; on a GPU every kernel takes its
    time to begin and end. A fit that stands in for another class is taken as its own.
    """
    fit = profile.find(kind, precision)
    if fit is None:
        rates, nowhere = datasheet(device, precision), (math.inf,)
        ends = (UNKNOWN, nowhere, nowhere, 0)
        return ClassFit(kind, precision, device.name, rates, None, *ends)
    called = CLASSES[fit.kind].form != "bytes" and fit.kind not in GENERATED
    if called or device.kind != "cpu" or not compiled:
        return fit
    rates = {k: v for k, v in fit.parameters.items() if k != "overhead_s"}
    return replace(fit, parameters=rates)


def datasheet(device: Device, precision: str) -> dict[str, float]:
    """The formula's parameters where all that is known is the device's row."""
    rates = {"peak": device.product_rate(precision), "bandwidth": device.bandwidth}
    return rates | {"overhead_s": device.launch_s}

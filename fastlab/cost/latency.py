"""Operations x Device -> seconds, with an interval and what bounds them.

Every model of latency is one registered function; `model=` names it. The first one,
"roofline", draws the band of the roofline: each operation takes between the longer and
the sum of its compute and memory time, plus its launches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastlab.cost.devices import Device
from fastlab.cost.memory import kv_cache_bytes, parameters, peak_bytes
from fastlab.cost.operations import operations
from fastlab.record import BOUNDS, Estimate
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point

# Columns of a point's cost matrix, one row per operation, times already multiplied in.
FLOPS, CAUSAL, WEIGHTS, ACTIVATIONS, KV_READ, KV_WRITE, LAUNCHES = range(7)

# costs (operations x 7), precision, device -> (seconds, low_s, high_s, bound)
Timing = tuple[float, float, float, str]
LatencyModel = Callable[[np.ndarray, Point, Device], Timing]
MODELS: dict[str, LatencyModel] = {}


def latency_model(name: str) -> Callable[[LatencyModel], LatencyModel]:
    """Register a latency model under the name that `model=` takes."""

    def register(function: LatencyModel) -> LatencyModel:
        MODELS[name] = function
        return function

    return register


class Costs(NamedTuple):
    """A point's operations as numbers, each already multiplied by its count."""

    matrix: np.ndarray  # operations x (FLOPs ... launches), read-only
    totals: tuple[int, ...]  # exact sums of the columns


@lru_cache(maxsize=4096)
def costs_of(point: Point) -> Costs:
    """The cost matrix of a point and its exact totals."""
    rows = [[op.times * value for value in op[3:10]] for op in operations(point)]
    matrix = np.array(rows, dtype=np.float64)
    matrix.flags.writeable = False
    return Costs(matrix, tuple(map(sum, zip(*rows, strict=True))))


@latency_model("roofline")
def roofline(costs: np.ndarray, point: Point, device: Device) -> Timing:
    """The roofline band, per operation: max(compute, memory) to their sum.

    `seconds` is the geometric middle of the band. Fused attention is charged the
    causal FLOPs, since that is what its kernels do. A GPU's host queues ahead: there
    launches hide behind the work at best, and add to it at worst.
    """
    compute = costs[:, CAUSAL] / device.peak(point.recipe.precision)
    memory = costs[:, WEIGHTS : KV_WRITE + 1].sum(axis=1) / device.bandwidth
    launch = costs[:, LAUNCHES] * device.launch_s
    work, launching = float(np.maximum(compute, memory).sum()), float(launch.sum())
    hidden = device.kind != "cpu"
    low = max(work, launching) if hidden else work + launching
    high = float((compute + memory + launch).sum())
    return (low * high) ** 0.5, low, high, _bound(compute, memory, launch)


def _bound(compute: np.ndarray, memory: np.ndarray, launch: np.ndarray) -> str:
    """What most of the time goes to, each operation counted for its longest part."""
    times = np.stack([compute, memory, launch])
    longest = np.bincount(times.argmax(axis=0), times.max(axis=0), minlength=3)
    return BOUNDS[int(longest.argmax())]


def estimate(
    points: Sequence[Point], device: Device, model: str = "roofline"
) -> list[Estimate]:
    """What each point should cost on the device, in order.

    Raises ValueError for an unknown model, or a precision that the device cannot do.
    """
    check_choice("model", model, MODELS)
    return [_estimate(point, device, model) for point in points]


def _estimate(point: Point, device: Device, model: str) -> Estimate:
    matrix, total = costs_of(point)
    seconds, low, high, bound = MODELS[model](matrix, point, device)
    return Estimate(
        model=model,
        profile=device.profile,
        parameters=parameters(point.shape),
        flops=total[FLOPS],
        flops_causal=total[CAUSAL],
        weight_bytes=total[WEIGHTS],
        activation_bytes=total[ACTIVATIONS],
        kv_read_bytes=total[KV_READ],
        kv_write_bytes=total[KV_WRITE],
        kv_cache_bytes=kv_cache_bytes(point),
        peak_bytes=peak_bytes(point),
        launches=total[LAUNCHES],
        seconds=seconds,
        low_s=low,
        high_s=high,
        bound=bound,
    )

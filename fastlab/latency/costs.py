"""What every model of latency is given, and the registry that `model=` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastlab.cost.operations import forward, operations
from fastlab.cost.steps import compiled_calls, replays, steps
from fastlab.latency.devices import Device
from fastlab.latency.samples import class_of
from fastlab.spec.point import Point

# Columns of a point's cost matrix, one row per operation, times already multiplied in.
FLOPS, CAUSAL, WEIGHTS, ACTIVATIONS, KV_READ, KV_WRITE, LAUNCHES = range(7)
_NO_DIMS = (0,) * 6
GENERATE_LAUNCHES = 14  # of generate() for each token beside the forward pass


class Timing(NamedTuple):
    """Seconds with their interval, what bounds them, and whether it was stretched."""

    seconds: float
    low: float
    high: float
    bound: str
    extrapolated: bool = False


class Costs(NamedTuple):
    """A point's operations as numbers, each already multiplied by its count.

    The matrix has every kernel's launch. The total of launches is the host's: what is
    replayed within a CUDA graph is one launch for the whole graph.
    """

    matrix: np.ndarray  # operations x (FLOPs ... launches), read-only
    totals: tuple[int, ...]  # exact sums of the columns
    times: np.ndarray  # [operations] how often each runs
    dims: np.ndarray  # [operations, 6], zeros where an operation has fewer
    classes: tuple[str, ...]  # of each operation, as fits name them
    precisions: tuple[str, ...]  # what each operation computes in
    replays: int = 0  # CUDA graphs; the rest of the launches are dispatched one by one
    calls: int = 0  # of compiled code


LatencyModel = Callable[[Sequence[Costs], Sequence[Point], Device], list[Timing]]
MODELS: dict[str, LatencyModel] = {}


def latency_model(name: str) -> Callable[[LatencyModel], LatencyModel]:
    """Register a latency model under the name that `model=` takes."""

    def register(function: LatencyModel) -> LatencyModel:
        MODELS[name] = function
        return function

    return register


@lru_cache(maxsize=4096)
def costs_of(point: Point) -> Costs:
    """The cost matrix of a point and its exact totals."""
    ops = operations(point)
    exact = [[op.times * value for value in op[3:10]] for op in ops]
    extra = [(op.times, *op.dims, *_NO_DIMS[len(op.dims) :]) for op in ops]
    whole = np.array([a + list(b) for a, b in zip(exact, extra, strict=True)], float)
    whole.flags.writeable = False
    totals = tuple(map(sum, zip(*exact, strict=True)))
    classes = tuple(map(class_of, ops))
    dense, graphs = point.recipe.format.dense, replays(point)
    precisions = tuple([op.precision or dense for op in ops])
    if graphs:
        totals = (*totals[:LAUNCHES], host_launches(point))
    numbers = whole[:, :7], totals, whole[:, 7], whole[:, 8:]
    return Costs(*numbers, classes, precisions, graphs, compiled_calls(point))


def host_launches(point: Point) -> int:
    """Kernels that the host launches one by one, and CUDA graphs that it replays.

    transformers' generate() chooses each token outside of its graph.
    """
    eager = [step for step in steps(point) if not step.samples]
    alone = sum(op.times * op.launches for step in eager for op in forward(step))
    outside = GENERATE_LAUNCHES * (point.recipe.runtime == "transformers")
    return alone + replays(point) * (1 + outside)

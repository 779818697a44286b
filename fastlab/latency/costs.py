"""What every model of latency is given: a point's operations as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from fastlab.cost.columns import apart, in_order, width
from fastlab.cost.operations import operations
from fastlab.cost.ops import Operation
from fastlab.cost.passes import calls
from fastlab.latency.devices import Device
from fastlab.latency.samples import class_of
from fastlab.spec.engines import STATIC
from fastlab.spec.point import Point

# Columns of a point's cost matrix, one row per operation, times already multiplied in.
FLOPS, CAUSAL, WEIGHTS, ACTIVATIONS, KV_READ, KV_WRITE, LAUNCHES = range(7)
MOVED = slice(WEIGHTS, LAUNCHES)  # all bytes
READ = [WEIGHTS, KV_READ]  # those that calls come back to
COUNTED = (
    *("flops", "flops_causal", "weight_bytes", "activation_bytes"),
    *("kv_read_bytes", "kv_write_bytes", "launches"),
)
_NO_DIMS = (0,) * 6


class Timing(NamedTuple):
    """Seconds with their interval, what bounds them, and whether it was stretched."""

    seconds: float
    low_s: float
    high_s: float
    bound: str
    extrapolated: bool = False


class Host(NamedTuple):
    """What the host does for one call, counted.

    launches of single kernels from eager and from compiled code, calls of compiled
    code, and CUDA graphs replayed, which hold the kernels of all compiled steps. inner:
    how many of the eager ones follow another within the same function. passes: forward
    passes, each a step of a serving engine.
    """

    eager: int = 0
    inner: int = 0
    compiled: int = 0
    calls: int = 0
    replays: int = 0
    passes: int = 0


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
    compiled: np.ndarray  # [operations] whether it runs so
    host: Host


EACH = ("matrix", "times", "dims", "classes", "precisions", "compiled")  # by operation


@lru_cache(maxsize=4096)
def costs_of(point: Point, graphs: bool = True) -> Costs:
    """The cost matrix of a point and its exact totals; graphs: as a GPU runs it."""
    return _costs(point, graphs)[0]


def costs_on(points: Sequence[Point], device: Device) -> list[Costs]:
    """The costs of points as the device runs them: only GPUs replay graphs.

    A serving engine's cache is of pages that its sequences fill.
    """
    graphs = device.kind != "cpu"
    pages = device.fits is not None and device.fits.serves

    def count(point: Point) -> list[Costs]:
        return _costs(point, graphs) if width(point) else [costs_of(point, graphs)]

    found = in_order(points, count)
    both = zip(found, points, strict=True)
    return [_filled(*one) for one in both] if pages else found


def _filled(cost: Costs, point: Point) -> Costs:
    """Steps that read a static cache's filled rows, on the average, and no more."""
    steps = np.array([one == "decode" for one in cost.classes])
    if point.recipe.cache not in STATIC or not steps.any():
        return cost
    filled = point.workload.prompt_len + max(point.workload.new_tokens, 2) / 2
    rows = cost.dims[steps, 1:3].sum(axis=1)
    matrix, totals = cost.matrix.copy(), list(cost.totals)
    for column in (FLOPS, CAUSAL, KV_READ):
        matrix[steps, column] *= np.minimum(1, filled / rows)
        totals[column] -= round((cost.matrix - matrix)[:, column].sum())
    return cost._replace(matrix=matrix, totals=tuple(totals))


def _costs(point: Point, graphs: bool) -> list[Costs]:
    """Of each call that a point stands for; what they have in common they share."""
    ops, n = operations(point), width(point)
    times, *counts = zip(*[op[2:10] for op in ops], strict=True)
    often = np.array(times, float)
    matrix = _table([op[3:10] for op in ops], n) * often[:, None]
    dims = _table([(op.dims + _NO_DIMS)[:6] for op in ops], n)
    compiled = np.array([op.compiled for op in ops])
    for array in (often, matrix, dims, compiled):
        array.flags.writeable = False
    dense, host = point.recipe.format.dense, _host(point, ops, graphs)
    told = tuple(map(class_of, ops)), tuple([op.precision or dense for op in ops])
    sums = [sum(map(mul, times, column)) for column in counts[:LAUNCHES]]
    totals = apart([*sums, host.eager + host.compiled + host.replays], point)
    return [
        Costs(own, total, often, sizes, *told, compiled, Host(*one))
        for own, total, sizes, one in zip(
            matrix, totals, dims, apart(host, point), strict=True
        )
    ]


def _table(rows: Sequence[Sequence[Any]], n: int) -> np.ndarray:
    """[n, rows, columns] of numbers, and of columns of n of them; 0: of numbers."""
    if not n:
        return np.array([rows], float)
    found = np.empty((len(rows) * len(rows[0]), n))
    for i, value in enumerate(value for row in rows for value in row):
        found[i] = value
    return found.T.reshape(n, len(rows), -1)


def _host(point: Point, ops: Sequence[Operation], graphs: bool) -> Host:
    passes = calls(point) + (point.workload.phase != "decode")
    engine, called = point.recipe.engine, max(calls(point), 1)
    eager = [op for op in ops if not op.compiled]
    launches = sum(op.times * op.launches for op in eager)
    within = (".quantize", ".rescale") if point.recipe.format.weights else ()
    own = [op for op in eager if op.name.endswith(within)]
    inner = sum(op.times * (op.launches - 1) for op in own)
    if not engine.compiled:
        return Host(launches, inner, passes=passes)
    launches += engine.launches * called  # around its compiled code
    if graphs and engine.replays:
        return Host(launches, inner, replays=called, passes=passes)
    inside = sum(op.times * op.launches for op in ops if op.compiled)
    return Host(launches, inner, inside, called, passes=passes)

"""What every model of latency is given: a point's operations as numbers."""

from __future__ import annotations

from functools import lru_cache
from operator import mul
from typing import NamedTuple

import numpy as np

from fastlab.cost.operations import operations
from fastlab.cost.passes import calls
from fastlab.latency.devices import Device
from fastlab.latency.samples import class_of
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
    ops = operations(point)
    fields = list(zip(*ops, strict=True))  # by columns: 10,000 points take a second
    times, counts = fields[2], fields[3:10]  # those of COUNTED
    totals = tuple([sum(map(mul, times, column)) for column in counts])
    often = np.array(times, float)
    matrix = np.array(counts, float).T * often[:, None]
    dims = np.array([(op.dims + _NO_DIMS)[:6] for op in ops], float)
    for array in (often, matrix, dims):
        array.flags.writeable = False
    classes = tuple(map(class_of, ops))
    dense = point.recipe.format.dense
    precisions = tuple([op.precision or dense for op in ops])
    if not point.recipe.engine.compiled:
        compiled, host = np.zeros(len(ops), bool), Host(totals[LAUNCHES])
    else:
        compiled = np.array([op.compiled for op in ops])
        host = _host(point, matrix[:, LAUNCHES], compiled, graphs)
    if point.recipe.format.weights:
        within = (".quantize", ".rescale")
        own = [op for op in ops if not op.compiled and op.name.endswith(within)]
        host = host._replace(inner=sum(op.times * (op.launches - 1) for op in own))
    steps = calls(point) + (point.workload.phase != "decode")
    host = host._replace(passes=steps)
    totals = (*totals[:LAUNCHES], host.eager + host.compiled + host.replays)
    return Costs(matrix, totals, often, dims, classes, precisions, compiled, host)


def costs_on(point: Point, device: Device) -> Costs:
    """The costs of a point as the device runs it: only GPUs replay graphs."""
    return costs_of(point, device.kind != "cpu")


def _host(
    point: Point, launches: np.ndarray, compiled: np.ndarray, graphs: bool
) -> Host:
    engine, called = point.recipe.engine, max(calls(point), 1)
    # and around its compiled code
    eager = int(launches[~compiled].sum()) + engine.launches * called
    if graphs and engine.replays:
        return Host(eager, replays=called)
    return Host(eager, compiled=int(launches[compiled].sum()), calls=called)

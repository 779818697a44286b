"""Where an estimate's seconds go, operation by operation, and to the host. No torch."""

from __future__ import annotations

from typing import NamedTuple

from fastlab.cost.operations import operations
from fastlab.latency.costs import LAUNCHES, MODELS, Costs, Host, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.spec.point import Point

HOST = "launches"


class Share(NamedTuple):
    """Seconds of one kind of operation, all its times together, and what bounds it."""

    name: str
    seconds: float
    bound: str


def breakdown(point: Point, device: Device, model: str = "auto") -> list[Share]:
    """Each of operations(point) on the device, then what its host adds to them.

    They sum to estimate([point], device, model)[0].seconds; errors are those of
    `estimate`. The host adds nothing where it queues ahead of the device's work.
    """
    [made] = estimate([point], device, model)
    whole = costs_on(point, device)
    alone = [_only(whole, i) for i in range(len(whole.classes))]
    timed = MODELS[made.model](alone, [point] * len(alone), device)
    names = (op.name for op in operations(point))
    shares = [Share(n, t.seconds, t.bound) for n, t in zip(names, timed, strict=True)]
    rest = made.seconds - sum(share.seconds for share in shares)
    return [*shares, Share(HOST, max(rest, 0.0), "launch")]


def _only(costs: Costs, i: int) -> Costs:
    """One operation of a call, dispatched by nobody."""
    totals = (*costs.totals[:LAUNCHES], 0)
    one = slice(i, i + 1)
    return costs._replace(
        matrix=costs.matrix[one],
        totals=totals,
        times=costs.times[one],
        dims=costs.dims[one],
        classes=costs.classes[one],
        precisions=costs.precisions[one],
        compiled=costs.compiled[one],
        host=Host(),
    )

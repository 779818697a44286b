"""Where an estimate's seconds go: by operation, and step by step up to the clock."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastlab.cost.operations import operations
from fastlab.latency.calibrated import (
    call_overhead_factor,
    columns_of,
    datasheet,
    fit_of,
    host_work,
    slowdown,
)
from fastlab.latency.costs import (
    KV_READ,
    LAUNCHES,
    MODELS,
    WEIGHTS,
    Costs,
    Host,
    costs_on,
)
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.profile import Profile, formula, parts_of
from fastlab.spec.point import Point

STEPS = ("math", "+ bytes", "+ launches", "+ nearby", "+ whole call", "+ host")


def waterfall(point: Point, device: Device) -> dict[str, float]:
    """Seconds that each of STEPS adds to the estimate of a point, in order.

    Calibrated: the sum is estimate(...).seconds; "+ nearby" (the fit's residual) and
    "+ whole call" may be negative. Without fits for the precision: the lower end of the
    roofline.
    """
    costs, fits = costs_on(point, device), device.fits
    profile = fits if fits and fits.holds(point.recipe.precision) else None
    slow = slowdown(costs, point, profile) if profile else 1.0
    matrix = costs.matrix / costs.times[:, None]
    matrix[:, [WEIGHTS, KV_READ]] *= slow
    each = np.array(
        [
            _operation(matrix[i : i + 1], costs, i, device, profile)
            for i in range(len(costs.classes))
        ]
    )
    alone = each.sum(axis=1)
    beyond = (
        call_overhead_factor(costs, point, profile) if profile else np.ones(len(alone))
    )
    parts = [*each.sum(axis=0).tolist(), float((beyond - 1) @ alone)]
    host = _host(sum(parts), costs, point, device, profile)
    return dict(zip(STEPS, [*parts, host], strict=True))


def _operation(
    row: np.ndarray,
    costs: Costs,
    i: int,
    device: Device,
    profile: Profile | None,
) -> np.ndarray:
    # [4] seconds of one kind of operation, all its times together.
    kind, precision = costs.classes[i], costs.precisions[i]
    columns = columns_of(kind, row, costs.dims[i : i + 1])
    if profile:
        fit = fit_of(kind, precision, bool(costs.compiled[i]), device, profile)
        rates, whole = fit.parameters, fit.predict(columns)[0][0]
    else:  # the roofline counts launches once, on the host
        rates = datasheet(device, precision) | {"overhead_s": 0.0}
        whole = formula(rates, columns)[0]
    math, _, launches = parts_of(rates, columns)[:, 0]
    plain = formula(rates, columns)[0]
    steps = [math, plain - launches - math, launches, whole - plain]
    return np.array(steps) * costs.times[i]


def _host(
    busy: float, costs: Costs, point: Point, device: Device, profile: Profile | None
) -> float:
    """Seconds that the host adds; a GPU's host queues ahead of its work."""
    if profile is None:
        launching, replaying = costs.totals[LAUNCHES] * device.launch_s, 0.0
    else:
        launching, replaying = host_work(costs, point, profile, device.kind)
    if device.kind == "cpu":
        return launching + replaying
    return replaying + max(launching - busy - replaying, 0.0)


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

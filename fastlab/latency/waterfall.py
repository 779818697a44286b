"""Where the estimated time of one call comes from, step by step; no torch.

math, bytes that math does not hide, launches and waiting within operations, what the
calibration saw nearby, what whole calls took beyond their parts, and the host. Their
sum is the estimate.
"""

from __future__ import annotations

import numpy as np

from fastlab.latency.calibrated import (
    call_overhead_factor,
    columns_of,
    datasheet,
    host_work,
    slowdown,
    within_compiled,
)
from fastlab.latency.costs import (
    KV_READ,
    LAUNCHES,
    WEIGHTS,
    Costs,
    costs_on,
)
from fastlab.latency.devices import Device
from fastlab.latency.fit import formula, parts_of
from fastlab.latency.profile import Profile
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
    fit = profile.find(kind, precision) if profile else None
    if fit and costs.compiled[i]:
        fit = within_compiled(fit, device)
    known = fit.parameters if fit else _rates(device, precision, profile)
    math, _, launches = parts_of(known, columns)[:, 0]
    plain = formula(known, columns)[0]
    whole = fit.predict(columns)[0][0] if fit else plain
    steps = [math, plain - launches - math, launches, whole - plain]
    return np.array(steps) * costs.times[i]


def _rates(device: Device, precision: str, profile: Profile | None) -> dict[str, float]:
    # The roofline counts launches once, on the host; a missing class has its own.
    known = datasheet(device, precision)
    return known if profile else {k: v for k, v in known.items() if k != "overhead_s"}


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

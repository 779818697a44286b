"""Where the estimated time of one call comes from, step by step; no torch.

math, bytes that math does not hide, launches and waiting within operations, what the
calibration saw nearby, and the host. Their sum is the estimate.
"""

from __future__ import annotations

import numpy as np

from fastlab.cost.calibrated import datasheet
from fastlab.cost.costs import CAUSAL, KV_WRITE, LAUNCHES, WEIGHTS, Costs, costs_of
from fastlab.cost.devices import Device
from fastlab.cost.fit import formula, parts_of
from fastlab.cost.profile import Profile
from fastlab.cost.samples import work
from fastlab.spec.point import Point

STEPS = ("math", "+ bytes", "+ launches", "+ nearby", "+ host")


def waterfall(point: Point, device: Device) -> dict[str, float]:
    """Seconds that each of STEPS adds to the estimate of a point, in order.

    Calibrated: the sum is estimate(...).seconds, and "+ nearby" (the fit's residual)
    may be negative. Without fits for the precision: the lower end of the roofline.
    """
    costs, precision = costs_of(point), point.recipe.precision
    fits = device.fits
    profile = fits if fits is not None and fits.holds(precision) else None
    kinds = range(len(costs.classes))
    parts = sum(_operation(costs, i, precision, device, profile) for i in kinds)
    busy = float(np.sum(parts))
    host = _host(busy, costs.totals[LAUNCHES], point.recipe.runtime, device, profile)
    return dict(zip(STEPS, [*np.asarray(parts).tolist(), host], strict=True))


def _operation(
    costs: Costs, i: int, precision: str, device: Device, profile: Profile | None
) -> np.ndarray:
    # [4] seconds of one kind of operation, all its times together.
    row = costs.matrix[i : i + 1] / costs.times[i]
    moved = row[:, WEIGHTS : KV_WRITE + 1].sum(axis=1)
    dims, kind = costs.dims[i : i + 1], costs.classes[i]
    columns = work(kind, row[:, CAUSAL], moved, row[:, LAUNCHES], dims)
    fit = profile.find(kind, precision) if profile else None
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
    busy: float, launches: int, runtime: str, device: Device, profile: Profile | None
) -> float:
    """Seconds that the host adds; a GPU's host queues ahead of its work."""
    if runtime != "eager":
        return profile.replay_s if profile else 0.0
    host = launches * (profile.dispatch_s if profile else device.launch_s)
    return host if device.kind == "cpu" else max(host - busy, 0.0)

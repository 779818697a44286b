"""What given points need of a calibration: classes, precisions and sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastlab.cost.classes import CLASSES
from fastlab.latency.costs import CAUSAL, LAUNCHES, MOVED, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.samples import work
from fastlab.spec.formats import DENSE, TIMED, calibrated_alike
from fastlab.spec.point import Point
from fastlab.spec.unsupported import unsupported

Ends = tuple[np.ndarray, np.ndarray]  # smallest and largest places, in log space
Needs = dict[str, dict[str, Ends]]  # by precision and class


def runnable(points: Sequence[Point], device: Device) -> list[Point]:
    """The points that the device can run; ValueError with the reason if none is."""
    whys = [unsupported(point, device) for point in points]
    if points and all(whys):
        raise ValueError(f"{device.name} can run none of the points: {whys[0]}")
    return [point for point, why in zip(points, whys, strict=True) if not why]


def needs(points: Sequence[Point], device: Device) -> Needs:
    """Of each precision and class that is timed: the ends of the points' places."""
    found: Needs = {}
    for cost in costs_on(points, device):
        each = cost.matrix / cost.times[:, None]
        pairs = np.array(list(zip(cost.classes, cost.precisions, strict=True)))
        for pair in np.unique(pairs, axis=0):
            at = (pairs == pair).all(axis=1)
            own_class, own_precision = map(str, pair)
            kind, precision = timed_as(own_class, own_precision, device.kind)
            if kind:
                own = each[at]
                costs = own[:, CAUSAL], own[:, MOVED].sum(axis=1), own[:, LAUNCHES]
                places = work(own_class, *costs, cost.dims[at]).places
                known = found.setdefault(precision, {})
                both = np.vstack([places, *known.get(kind, ())])
                known[kind] = both.min(axis=0), both.max(axis=0)
    return found


def timed_as(kind: str, precision: str, device: str) -> tuple[str, str]:
    """Class ("" for none) and precision whose benchmarks stand for an operation's."""
    one = CLASSES[kind]
    if not one.timed or ("cpu" in one.needs and device != "cpu"):
        kind = one.like
    if not kind or "fp32" in CLASSES[kind].needs:
        return kind, "fp32"
    names = calibrated_alike(precision)
    return kind, next(name for name in names if name in (*DENSE, *TIMED))


def serves(device: Device, points: Sequence[Point]) -> bool:
    """Whether a calibration knows the points' classes and sizes; a full one always."""
    able, fits = runnable(points, device), device.fits
    if fits is None or device.busy or not all(
        device.holds(point.recipe.precision) for point in able
    ):  # fmt: skip
        return False
    if "quick" not in fits.provenance:
        return True
    pairs = [(kind, p) for p, ends in needs(able, device).items() for kind in ends]
    beyond = any(one.extrapolated for one in estimate(able, device))
    return not beyond and all(fits.find(*pair) for pair in pairs)

"""Where an estimate's seconds go: by operation, and step by step up to the clock."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from fastlab.cost.operations import operations
from fastlab.latency.calibrated import each_operation, host_work
from fastlab.latency.costs import EACH, LAUNCHES, Costs, Host, costs_on
from fastlab.latency.devices import Device
from fastlab.latency.estimates import MODELS, estimate
from fastlab.latency.profile import Profile
from fastlab.spec.point import Point

STEPS = ("math", "+ bytes", "+ launches", "+ nearby", "+ whole call", "+ host")


def waterfall(point: Point, device: Device) -> dict[str, float]:
    """Seconds that each of STEPS adds to the estimate of a point, in order.

    Calibrated: the sum is estimate(...).seconds; "+ nearby" (the fit's residual) and
    "+ whole call" may be negative. Without fits for the precision: the lower end of the
    roofline, which counts launches once, on the host.
    """
    [costs] = costs_on([point], device)
    known = device.holds(point.recipe.precision)
    profile = device.fits if known and device.fits else Profile(())
    on = device if known else replace(device, launch_s=0.0)
    # Estimates of profiles that know less: what each knowledge adds is the difference.
    alone = replace(profile, whole={})
    formula = replace(alone, fits=tuple(replace(f, residual=None) for f in alone.fits))
    each = [
        each_operation([costs], [point], on, one) for one in (formula, alone, profile)
    ]
    math, _, launches = (each[0].parts @ costs.times).tolist()
    by_formula, near, busy = (float(one.seconds @ costs.times) for one in each)
    steps = [math, by_formula - launches - math, launches, near - by_formula]
    launching, replaying = costs.totals[LAUNCHES] * device.launch_s, 0.0
    if known:
        launching, replaying = host_work(costs, point, profile, device.kind)
    if device.kind != "cpu":  # a GPU's host queues ahead of its work
        launching = max(launching - busy - replaying, 0.0)
    steps += [busy - near, launching + replaying]
    return dict(zip(STEPS, steps, strict=True))


HOST = "launches"


class Share(NamedTuple):
    """Seconds of one kind of operation, all its times together, and what bounds it."""

    name: str
    seconds: float
    bound: str


def breakdown(point: Point, device: Device) -> list[Share]:
    """Each of operations(point) on the device, then what its host adds to them.

    They sum to estimate([point], device)[0].seconds; errors are those of `estimate`.
    The host adds nothing where it queues ahead of the device's work.
    """
    [made] = estimate([point], device)
    [whole] = costs_on([point], device)
    alone = [_only(whole, i) for i in range(len(whole.classes))]
    timed = MODELS[made.model](alone, [point] * len(alone), device)
    names = (op.name for op in operations(point))
    shares = [Share(n, t.seconds, t.bound) for n, t in zip(names, timed, strict=True)]
    rest = made.seconds - sum(share.seconds for share in shares)
    return [*shares, Share(HOST, max(rest, 0.0), "launch")]


def _only(costs: Costs, i: int) -> Costs:
    """One operation of a call, dispatched by nobody."""
    every = costs._asdict()
    one = {name: column[i : i + 1] for name, column in every.items() if name in EACH}
    return costs._replace(**one, totals=(*costs.totals[:LAUNCHES], 0), host=Host())

"""A scenario on a device: met or missed, by how much, and what bounds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from fastlab.latency.devices import Device
from fastlab.serving.simulate import Trace, capacity, draw, serve
from fastlab.serving.steps import Server, Timed, cache_room, steps_of
from fastlab.spec.checks import check_count
from fastlab.spec.point import Point
from fastlab.spec.scenarios import Scenario

SATURATED = 0.9  # load above which the queue grows for as long as one looks
SHOWN = (50, 90, 99)
METRICS = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
EARLY = 10  # the first request of so many meet an empty server, and are left out
DEFAULT = Server()


class Range(NamedTuple):
    """A mean over seeds, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Served:
    """What the requests of a scenario would wait for, over several seeds.

    load: requests a second over as many as could be served; None of users, who wait for
    their answers before they ask again. times: of METRICS, percentile -> seconds; empty
    where the load is over SATURATED. attainment: share that meets all targets; goodput:
    so many a second. bound: what most of the time of the slow ones goes to, at the
    target that is missed the most, or met the closest.
    """

    scenario: Scenario
    load: float | None
    times: dict[str, dict[float, Range]]
    attainment: Range
    goodput: Range
    bound: str

    @property
    def saturated(self) -> bool:
        """Whether more comes than can be answered in time."""
        return not self.times

    @property
    def over(self) -> dict[str, float]:
        """Each target's time at its percentile over what is allowed: 1.2 misses it."""
        targets, known = self.scenario.targets, self.times
        allowed = {n: most for n, most in targets.seconds.items() if n in known}
        return {n: known[n][targets.percentile][0] / m for n, m in allowed.items()}

    @property
    def met(self) -> bool:
        """Whether all targets are."""
        return not self.saturated and all(ratio <= 1 for ratio in self.over.values())


def simulate(
    scenario: Scenario,
    point: Point,
    device: Device,
    server: Server = DEFAULT,
    requests: int = 1000,
    seeds: int = 5,
    timed: Timed | None = None,
) -> Served:
    """Serve a scenario with a point's model and recipe, by estimates of the steps.

    timed: seconds of points, of rows that were measured for instance, in the place of
    the device's estimates. ValueError where the model cannot do it, or has no room.
    """
    check_count("requests", requests, 20, 10**6)
    check_count("seeds", seeds, 2, 1000)
    shape = point.built_shape
    scenario.workload(shape)  # refused here, where the model cannot do it
    most = scenario.prompt.at(100)
    ends = [scenario.clip(most, scenario.answer.at(q), shape) for q in (0, 100)]
    longest = ends[0][0], max(p + max(a - 1, 0) for p, a in ends)
    room = cache_room(point, device, longest, server)
    steps = steps_of(point, device, longest, server, timed)
    drawn = [draw(scenario, shape, requests, seed) for seed in range(seeds)]
    load = None
    if rate := scenario.arrivals.rate:
        full = capacity(drawn[0], steps, server, room)
        load = rate / full.rate
        if load > SATURATED:
            none = Range(0.0, 0.0, 0.0)
            return Served(scenario, load, {}, none, none, full.bound)
    traces = [serve(one, steps, server, room) for one in drawn]
    return outcome(scenario, load, traces, steps.bounds)


def outcome(
    scenario: Scenario,
    load: float | None,
    traces: Sequence[Trace],
    bounds: tuple[str, str] = ("", ""),
) -> Served:
    """What traces of a scenario say, one a seed; bounds: of reading and of writing."""
    q, targets = scenario.targets.percentile, scenario.targets.seconds
    later = [trace.after(len(trace.at) // EARLY) for trace in traces]
    times = {
        name: {p: _range([t.percentile(name, p) for t in later]) for p in {*SHOWN, q}}
        for name in METRICS
        if np.isfinite(later[0].percentile(name, 50))
    }
    good = [_share(trace, targets) for trace in later]
    rates = [share * t.per_second for share, t in zip(good, later, strict=True)]
    attained = Range(*(min(1.0, max(0.0, end)) for end in _range(good)))
    made = Served(scenario, load, times, attained, _range(rates), "")
    worst = max(made.over, key=made.over.__getitem__, default="e2e_s")
    return replace(made, bound=_bound(later, worst, q, bounds))


def _range(values: Sequence[float]) -> Range:
    mean, n = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1)) / n**0.5
    return Range(mean, max(0.0, mean - half), mean + half)


def _share(trace: Trace, targets: dict[str, float]) -> float:
    """The share of a trace's requests that meet all targets."""
    met = np.ones(len(trace.at), bool)
    for name, most in targets.items():
        met &= ~(getattr(trace, name) > most)  # no time of a token that is not written
    return float(met.mean())


def _bound(
    traces: Sequence[Trace], name: str, q: float, bounds: tuple[str, str]
) -> str:
    """What most of the time of the slow requests goes to, by one of METRICS."""
    spent: dict[str, float] = {}
    for trace in traces:
        slow = getattr(trace, name) >= trace.percentile(name, q)
        for part, seconds in trace.parts(bounds).items():
            spent[part] = spent.get(part, 0.0) + float(seconds[slow].sum())
    own = {"ttft_s": [*spent][:3], "tpot_s": [*spent][3:]}.get(name, [*spent])
    return max(own, key=spent.__getitem__)

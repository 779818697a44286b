"""search(): from a scenario, a target and a floor to the recipe, measuring few."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.latency.devices import Device
from fastlab.latency.devices import device as device_named
from fastlab.record import Record
from fastlab.searches import engine
from fastlab.searches.engine import FINALISTS, VISITS
from fastlab.searches.plan import Plan, missed, plan
from fastlab.searches.quality import losses_in, model_of
from fastlab.searches.result import Result
from fastlab.searches.spaces import read_space
from fastlab.spec.checks import check_count, check_number
from fastlab.spec.point import Point
from fastlab.spec.scenarios import scenario as scenario_named
from fastlab.sweeps.isolation import bench_in
from fastlab.sweeps.run import Attempts
from fastlab.sweeps.store import FINAL, Store
from fastlab.words import percent

if TYPE_CHECKING:
    from fastlab.clock.measure import Bench

FRESH_S = 10.0  # to start a process anew, for the last visit of a finalist
AGAIN = ("timeout", "crash")  # tried a second time, as in sweeps


def search(
    space: str | Path,
    scenario: str = "",
    model: str = "",
    lam: float = math.inf,
    on: str = "here",
    store: str | Path = "results/search",
    budget_points: int | None = None,
    budget_minutes: float | None = None,
    floor: float | str | None = "scenario",
    device: str = "auto",
    isolation: str = "worker",
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """The fastest recipe of a space that answers a scenario's requests well enough.

    All candidates are estimated; few are measured, one after the other, into the store,
    until it is unlikely that another is better by 3 %. The best four are then visited
    three times more, in turn, last in a fresh process.

    space: a file as in data/spaces; scenario: a name of data/scenarios.yaml or a file,
    "" to compare the calls that the space itself names. lam: see `plan`. on: "here", or
    a device by name: then nothing is measured. Budgets: candidates measured in all, and
    minutes from now. floor: largest rise of bits per byte, None for none. The same call
    again goes on where it stopped, and measures nothing twice. Raises ValueError for
    what cannot be, before any work.
    """
    asked = scenario_named(scenario) if scenario else None
    if budget_points is not None:
        check_count("budget_points", budget_points)
    if budget_minutes is not None:
        check_number("budget_minutes", budget_minutes)
    if floor == "scenario":
        floor = asked.floor if asked else None
    if floor is not None:
        check_number("floor", floor, zero=True)
    kept = Store(store)
    file, candidates = read_space(space, asked, model)
    known = losses_in(kept.records(samples=False))
    models = {model_of(own.point) for own in candidates}
    judged = known.keys() & models or (file.trained and on == "here")
    if floor is not None and not judged:
        raise ValueError(_no_quality(floor, kept, on))
    how: Any = asked.targets if asked else None, floor, lam
    if on != "here":
        named = device_named(on)
        made = plan(candidates, named, *how)
        made.losses.known |= known
        return _estimated(made, named)
    args = device, file.settings, file.trained, file.text
    with bench_in(isolation, _bench, *args) as bench:
        assert bench.profile
        made = plan(candidates, bench.profile, *how)
        made.losses.known |= known
        return Search(made, kept, bench, say).run(budget_points, budget_minutes)


def _bench(device: str, over: dict[str, Any], source: str, text: Any) -> Bench:
    from fastlab import machine
    from fastlab.clock.measure import Bench
    from fastlab.clock.timing import Settings
    from fastlab.shrink.trained import Trained

    kind = machine.torch_device(device)
    trained = Trained(source, tuple(text), "results/students") if source else None
    return Bench.for_device(kind, Settings.for_device(kind, **over), trained=trained)


def _no_quality(floor: Any, store: Store, on: str) -> str:
    need = "weights: trained in the space and a model's folder"
    if on != "here":
        need = "--store with rows of these recipes that were judged on a text"
    return (
        f"floor={floor!r} needs quality, and no row in {store.folder} says what these "
        f"recipes lose: give {need}, or floor none"
    )


def _estimated(plan: Plan, device: Device) -> Result:
    """What the estimate alone says of a device that is not at hand."""
    good, losses = plan.losses.chances(), plan.losses
    good[[*plan.why]] = 0
    told = [plan.scaled(i, own["e2e_s"]) for i, own in enumerate(plan.found)]
    bad = [i for i in range(len(good)) if not math.isnan(losses.of(i))]
    why = {i: words for i in bad if (words := losses.misses(i))} | plan.why
    where = device.name, device.price_per_hour, engine.likely_best(plan.goal, good)
    stopped = "ties: the fastest in 95 % of draws of the estimate's errors"
    return Result(plan, *where, told, {}, why, good, stopped)


class Search:
    """A plan carried out on the rows of a store; those it lacks are measured."""

    def __init__(
        self, plan: Plan, store: Store, bench: Any, say: Callable[[str], None]
    ) -> None:
        self.plan, self.store, self.bench, self.say = plan, store, bench, say
        self.why, self.told = dict(plan.why), dict[int, dict[str, float]]()
        self.times, self.fresh = dict[int, float](), 0
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
        self._how, self._attempts = bench.settings.to_dict(), dict[int, Attempts]()
        self._rows = {
            (row.key, row.round): row
            for row in store.visits(samples=False)
            if row.status in FINAL
        }

    def run(self, points: int | None, minutes: float | None) -> Result:
        """Measure until it is enough, or a budget is spent; then confirm the best."""
        began, goal = time.monotonic(), self.plan.goal
        for i in range(len(self.plan.candidates)):
            if i not in self.why and self._has(i, 1):  # measured before
                self.times[i] = self._visit(i)

        def go_on(measured: int) -> bool:
            spent = time.monotonic() - began
            later = FINALISTS * (VISITS * spent / max(self.fresh, 1) + FRESH_S)
            in_time = minutes is None or spent + later < 60 * minutes
            return in_time and (points is None or measured < points)

        with self.store.begin(self.bench.environment()):
            step = engine.explore(goal, self.times, self._visit, self._good, go_on)
            seconds = self._confirmed(engine.finalists(goal, self.times, self._good()))
        for i, each in seconds.items():
            scale = median(each) / self.times[i]
            self._judge(i, {name: s * scale for name, s in self.told[i].items()})
        able = {i: each for i, each in seconds.items() if i not in self.why}
        mean = np.exp(goal.after(self.times).mean)
        told = [self.told.get(i) or self.plan.scaled(i, s) for i, s in enumerate(mean)]
        better = "3 % better" if able else "good"
        spent = "the budget is spent; " * (step.following is not None)
        stopped = f"{spent}{percent(step.risk)} likely that another is {better}"
        winners = engine.decided(able, goal.extra) if able else []
        name, price = self.bench.name, self.bench.profile.price_per_hour
        found = winners, told, self.times, self.why, self._good(), stopped
        return Result(self.plan, name, price, *found, step.risk, seconds)

    def _visit(self, i: int, round: int = 1) -> float:
        """Seconds of one request, inf where a call of it has no time."""
        own, rows = self.plan.candidates[i], list[Record]()
        for point, _ in own.calls:
            rows.append(self._row(point, round))
            if rows[-1].measured is None:
                self.why[i] = f"failed: {rows[-1].status}: {rows[-1].reason}"
                return math.inf
        self.plan.losses.known |= losses_in(rows)
        told = own.seconds([row.measured.seconds for row in rows if row.measured])
        if round == 1:
            self._judge(i, told)
            line = f"{own.point.label}: {told['e2e_s'] * 1e3:.3g} ms"
            self.say(f"{len(self.times) + 1}. {line} {self.why.get(i, '')}".rstrip())
        return told["e2e_s"]

    def _judge(self, i: int, told: dict[str, float]) -> None:
        self.told[i] = told
        words = missed(told, self.plan.wanted) or self.plan.losses.misses(i)
        self.why = {k: v for k, v in self.why.items() if k != i}
        self.why |= {i: words} if words else {}

    def _good(self) -> np.ndarray:
        """[n] chance to keep the floor; of the measured, whether they are good."""
        good = self.plan.losses.chances()
        good[[*self.times]] = 1
        good[[*self.why]] = 0
        return good

    def _confirmed(self, first: list[int]) -> dict[int, list[float]]:
        """Seconds of each finalist in the rounds after the first, taken in turn."""
        seconds: dict[int, list[float]] = {i: [] for i in first}
        for round in range(2, VISITS + 2):
            for i in first:
                fresh = round == VISITS + 1 and not self._has(i, round)
                if fresh and hasattr(self.bench, "end"):
                    self.bench.end()  # the next visit starts a process
                seconds[i].append(self._visit(i, round))
        return {i: each for i, each in seconds.items() if i not in self.why}

    def _has(self, i: int, round: int) -> bool:
        calls = self.plan.candidates[i].calls
        return all((self.bench.key(point), round) in self._rows for point, _ in calls)

    def _row(self, point: Point, round: int) -> Record:
        """The row of a call in a round; where there is none it is measured."""
        key, bench = (self.bench.key(point), round), self.bench
        if round not in self._attempts:
            seen = self.store.seen(bench.name, self._how, round)
            own = Attempts(self.store, bench, self._run, seen=seen, round=round)
            self._attempts[round] = own
        attempts = self._attempts[round]
        while key not in self._rows:
            self.fresh += 1
            attempts.begin(point)
            row = attempts.end(point, bench.measure(point))
            if row.status not in AGAIN:
                self._rows[key] = row
        return self._rows[key]

"""What requests wait for at a server of which three calls are timed, or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import RBFInterpolator

from fastlab.serving.outcome import EARLY, SATURATED
from fastlab.serving.simulate import Requests, draw, serve
from fastlab.serving.steps import Server, Steps, call
from fastlab.spec.point import Point
from fastlab.spec.scenarios import TIMES, Scenario
from fastlab.spec.shape import ModelShape

SLOTS, REQUESTS, SERVED = 16, 300, 16  # sequences at once; drawn; servers simulated


class Queue(NamedTuple):
    """A scenario's requests before a server of SLOTS, or of as many as there are users.

    Its calls: a prompt at the target's percentile alone; where answers are written also
    a step alone, and one with all slots taken, at the mean lengths.
    """

    scenario: Scenario

    @classmethod
    def of(cls, scenario: Scenario) -> Queue | None:
        """None where nobody waits: one user, or prompts of users read as a batch."""
        writes, users = scenario.answer.at(100) > 1, scenario.arrivals.users
        return cls(scenario) if users is None or (users > 1 and writes) else None

    @property
    def slots(self) -> int:
        """Of the server: sequences at a time."""
        return self.scenario.arrivals.users or SLOTS

    def calls(self, point: Point) -> tuple[tuple[Point, int], ...]:
        """The calls of a server of the point's model; how often a request has each.

        ValueError for a runtime that has no steps.
        """
        work = self.scenario.workload(point.built_shape)
        prompt, later = self._mean(point.built_shape)
        first = call(point, "prefill", 1, work.prompt_len, served=False)
        if not later:
            return ((first, 1),)
        middle = round(prompt + later / 2)
        one, full = (call(point, "decode", b, middle, False) for b in (1, self.slots))
        return (first, 1), (one, work.new_tokens - 1), (full, 0)

    def _mean(self, shape: ModelShape) -> tuple[float, float]:
        """Tokens of a prompt, and of an answer after its first, in the mean."""
        prompt, answer = self.scenario.prompt.mean, self.scenario.answer.mean
        prompt, answer = self.scenario.clip(round(prompt), round(answer), shape)
        return prompt, max(0.0, answer - 1)

    def load(self, shape: ModelShape, each: Sequence[float]) -> float:
        """Of the requests that a server can answer at most, the share that comes.

        Of users, who wait, the share of prompts in the time of all. each: seconds of
        the calls.
        """
        asked, slots = self.scenario.workload(shape).prompt_len, self.slots
        prompt, later = self._mean(shape)
        if not later:
            return (self.scenario.arrivals.rate or 0) * each[0] * prompt / asked
        first, one, full = each
        reads = max(first, one) * max(prompt / asked, one / max(first, one))
        writes = later * full / slots
        if rate := self.scenario.arrivals.rate:  # reading shares what a step takes
            return rate * (reads + writes - one * min(1.0, later / slots))
        return reads / (reads + writes)

    def times(self, shape: ModelShape, each: Sequence[float]) -> dict[str, float]:
        """Each time at the target's percentile, and with a rate the load.

        each: seconds of the calls.
        """
        first, one, full = each if len(each) > 1 else (each[0], 0.0, 0.0)
        asked, slots = self.scenario.workload(shape).prompt_len, self.slots
        rest = max(0.0, first - one) / max(asked - bool(one), 1)  # a token more
        drawn = _drawn(self.scenario, shape)
        read = one + rest * np.arange(max(drawn.prompts) + 1)
        each_more = (full - one) / max(slots - 1, 1)
        write = [[one + each_more * (b - 1)] * 2 for b in range(slots + 1)]
        steps = Steps(read.tolist(), write, whole=shape.kind == "encoder")
        trace = serve(drawn, steps, Server(self.slots)).after(REQUESTS // EARLY)
        q = self.scenario.targets.percentile
        told = {name: trace.percentile(name, q) for name in TIMES}
        told = {name: s for name, s in told.items() if s == s}
        return told | self._told(self.load(shape, each))

    def _told(self, load: float) -> dict[str, float]:
        return {"load": load} if self.scenario.arrivals.rate else {}

    def spread(
        self,
        shapes: Sequence[ModelShape],
        every: Sequence[Sequence[float]],
        alone: Sequence[dict[str, float]],
    ) -> list[dict[str, float]]:
        """`times` of many, about: SERVED of all loads are served, the others like them.

        How much longer than alone a request takes goes smoothly with the load, and with
        the proportions of the calls.
        """
        pairs = [*zip(shapes, every, strict=True)]
        loads = np.array([self.load(*pair) for pair in pairs])
        steps = np.diff(np.log(np.array(every)), axis=1)
        near = np.column_stack([-np.log1p(-np.minimum(loads, 0.95)), steps])
        calm = np.flatnonzero(loads <= max(SATURATED, loads.min()))
        order = calm[np.argsort(loads[calm], kind="stable")]
        some = order[:: -(-len(order) // SERVED)].tolist()
        served = {i: self.times(*pairs[i]) for i in some}
        names = [name for name in TIMES if name in alone[0]]
        longer = [[own[n] / alone[i][n] for n in names] for i, own in served.items()]
        how: Any = {"kernel": "linear", "smoothing": 1e-3}
        like = RBFInterpolator(near[some], np.log(longer), **how)
        each = zip(alone, np.exp(like(near)), loads.tolist(), strict=True)
        return [
            {n: own[n] * float(k) for n, k in zip(names, more, strict=True)}
            | self._told(load)
            for own, more, load in each
        ]


@lru_cache(64)
def _drawn(scenario: Scenario, shape: ModelShape) -> Requests:
    return draw(scenario, shape, REQUESTS, seed=0)

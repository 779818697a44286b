"""What a search found: the winner or its tie set, the frontier, why each other lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.searches.plan import Plan, excess
from fastlab.spec.grids import flat
from fastlab.words import digits, percent, times

if TYPE_CHECKING:
    import pandas as pd

AIMS = ("latency_ms", "loss", "memory_gb", "usd_per_1000")  # all of them the less
SECONDS_PER_HOUR = 3600
SHOWN = 6  # winners and ties, in words


@dataclass
class Result:
    """What a search found on a device; i is a candidate of the plan everywhere.

    winners: the best first, then those that the clock (or, where nothing is measured,
    the estimate) cannot tell from it; empty where none is good. times: the measured
    ones, else those expected after all that was measured. measured: seconds of each
    that was, inf where it failed. why: what is held against some. good [n]: the chance
    to be good. visits: seconds of the finalists in the rounds after the first. price:
    USD an hour, if known.
    """

    plan: Plan
    device: str
    price: float | None
    winners: list[int]
    times: list[dict[str, float]]
    measured: Mapping[int, float]
    why: Mapping[int, str]
    good: np.ndarray
    stopped: str
    risk: float = math.nan
    visits: Mapping[int, list[float]] = field(default_factory=dict)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every candidate, the best first: what it takes, loses, costs; its verdict."""
        import pandas as pd

        n = len(self.times)
        rank = {i: k for k, i in enumerate(self.winners)}
        rest = [(i in self.why, self.times[i]["e2e_s"]) for i in range(n)]
        order = sorted(range(n), key=lambda i: (rank.get(i, n), rest[i]))
        return pd.DataFrame([self._row(i) for i in order])

    def _row(self, i: int) -> dict[str, Any]:
        plan, told = self.plan, self.times[i]
        point = plan.candidates[i].point
        queue, seconds = plan.candidates[i].queue, told["e2e_s"]
        rate = queue.scenario.arrivals.rate if queue else None
        seconds = told["load"] / rate if rate else seconds / point.workload.batch
        return flat(point) | {
            "latency_ms": told["e2e_s"] * 1e3,
            "basis": "measured" if i in self.measured else "estimated",
            "estimated_ms": plan.found[i]["e2e_s"] * 1e3,
            "ttft_ms": told.get("ttft_s", math.nan) * 1e3,
            "tpot_ms": told.get("tpot_s", math.nan) * 1e3,
            "load": told.get("load", math.nan),
            "loss": plan.losses.of(i),
            "memory_gb": plan.found[i]["peak_bytes"] / 1e9,
            "usd_per_1000": 1e3 * seconds / SECONDS_PER_HOUR * (self.price or math.nan),
            "computation": plan.shares[i],
            "verdict": self.verdict(i),
            "candidate": i,
        }

    def verdict(self, i: int) -> str:
        """Why a candidate won, tied or lost, in a few words."""
        if i in self.winners:
            return "winner" if i == self.winners[0] else "tie"
        if i in self.why:
            return self.why[i]
        if self.good[i] < 0.5:
            return f"floor: loses too much, {percent(1 - self.good[i])} likely"
        if not self.winners:
            return "not measured"
        classes, extra = self.plan.goal.beliefs.own, self.plan.goal.extra
        if i not in self.measured and classes[i] in classes[self.winners]:
            return "takes as long as the winner or a tie: not measured"
        own, best = (self.times[k]["e2e_s"] + extra[k] for k in (i, self.winners[0]))
        if own <= best:
            return "no better by the visits, or not measured"
        how = "" if i in self.measured else ", estimated"
        return f"slower: {times(own / best)} as long{how}"

    @cached_property
    def frontier(self) -> pd.DataFrame:
        """The rows of which no other is as good in all of AIMS and better in one.

        Of those that keep targets and floor as far as is known, by latency.
        """
        rows = self.table
        able = [i not in self.why and self.good[i] > 0 for i in rows["candidate"]]
        rows = rows[able]
        rows = rows[rows["loss"].notna() | rows["loss"].isna().all()]
        front = rows[pareto(rows[[*AIMS]].fillna(0.0).to_numpy(float))]
        return front.sort_values("latency_ms", ignore_index=True)

    def along(self) -> list[tuple[float, float, int]]:
        """(lambda from, to, candidate): the best for C + lambda T along lambda."""
        able = [i for i in range(len(self.times)) if i not in self.why]
        able = [i for i in able if self.good[i] >= 0.5]
        seconds = np.array([self.times[i]["e2e_s"] for i in able])
        steps = path(self.plan.shares[able], seconds / self.plan.unit_s)
        return [(low, high, able[k]) for low, high, k in steps]

    def words(self) -> list[str]:
        """The answer, a line for each thing."""
        n, of = len(self.measured) or "none", f"of {len(self.times)} candidates"
        head = "" if self.measured else "estimated, "
        lines = [f"{head}{n} {of} measured on {self.device}; {self.stopped}"]
        if not self.winners:
            return [*lines, self._nobody()]
        for i in self.winners[:SHOWN]:
            each = [_told(*pair) for pair in self.times[i].items()]
            lines.append(f"{self.verdict(i)}: {self.name(i)}: {', '.join(each)}")
        more = len(self.winners) - SHOWN
        return [*lines, f"and {more} ties more"] if more > 0 else lines

    def name(self, i: int) -> str:
        """A candidate in words: model, recipe and call."""
        point = self.plan.candidates[i].point
        recipe = point.recipe
        ways = {"eager": recipe.runtime, "sdpa": recipe.attention}
        own = [value for usual, value in ways.items() if value != usual]
        return " ".join([point.label, f"{recipe.cache} cache", *own])

    def _nobody(self) -> str:
        """Which measured candidate comes closest, and what it would need."""
        losses, wanted = self.plan.losses, self.plan.wanted

        def over(i: int) -> float:
            lost = losses.of(i) / losses.floor if losses.floor else 0.0
            return max(excess(self.times[i], wanted), lost if lost == lost else 0.0)

        able = [i for i, seconds in self.measured.items() if math.isfinite(seconds)]
        if not able:
            return f"none has a time: {'; '.join({*self.why.values()})}"
        best = min(able, key=over)
        why = f"{self.why.get(best, '')}: {times(over(best))} of what is asked"
        return f"none is good; the closest is {self.name(best)}, {why}"


def _told(name: str, value: float) -> str:
    if name == "load":
        return f"load {digits(value)}"
    what = {"ttft_s": "TTFT ", "tpot_s": "TPOT "}.get(name, "")
    return f"{what}{digits(value * 1e3)} ms"


def pareto(values: np.ndarray) -> np.ndarray:
    """[n] whether no row is as low in all columns and lower in one; values [n, d].

    A row that lacks a value is not on it.
    """
    front: list[int] = []
    for i in np.lexsort(values.T[::-1]):
        others, own = values[front], values[i]
        beaten = (others <= own).all(axis=1) & (others < own).any(axis=1)
        if np.isfinite(own).all() and not beaten.any():
            front.append(int(i))
    return np.isin(np.arange(len(values)), front)


def path(costs: np.ndarray, seconds: np.ndarray) -> list[tuple[float, float, int]]:
    """(lambda from, to, index) of what makes costs + lambda x seconds least."""
    if not len(costs):
        return []
    at, low = int(np.lexsort((seconds, costs))[0]), 0.0
    steps = []
    while (faster := np.flatnonzero(seconds < seconds[at])).size:
        change = (costs[faster] - costs[at]) / (seconds[at] - seconds[faster])
        next_low = float(change.min())
        equal = faster[change <= next_low * (1 + 1e-12)]
        steps.append((low, next_low, at))
        at, low = int(equal[seconds[equal].argmin()]), next_low
    return [*steps, (low, math.inf, at)]

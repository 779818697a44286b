"""Which candidate to measure next, and when no more: expected improvement, joint stop.

Every choice follows from the set of what was measured alone: to stop and to go on gives
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from fastlab.searches.beliefs import Beliefs, Posterior

FEWEST, RISK, BETTER = 18, 0.05, 0.03  # measured; chance of a miss; what is one
DRAWS, LIKELIEST = 400, 60
FINALISTS, VISITS = 4, 3  # that are measured again, and how often
SURE = 0.975  # of Student's t on either side, for two medians to differ


@dataclass(frozen=True)
class Goal:
    """What is made least for n candidates: T, or T + what C is worth beside it.

    beliefs: of log T. limits [n]: the longest T that meets the targets. extra [n]:
    seconds that C is worth, C / lambda; 0 where only T counts.
    """

    beliefs: Beliefs
    limits: np.ndarray
    extra: np.ndarray

    def after(self, times: Mapping[int, float]) -> Posterior:
        """What is believed of log T after these times; inf: that candidate failed."""
        seen = sorted(i for i, seconds in times.items() if np.isfinite(seconds))
        return self.beliefs.after(seen, np.log([times[i] for i in seen]).tolist())

    def scores(self, after: Posterior) -> np.ndarray:
        """[n] what is made least, in seconds."""
        return np.exp(after.mean) + self.extra

    def bounds(self, some: np.ndarray, best: float) -> tuple[np.ndarray, np.ndarray]:
        """T at which candidates draw level with the best, and up to which T counts."""
        level = np.maximum(best - self.extra[some], 1e-300)
        return level, np.minimum(level, self.limits[some])


class Step(NamedTuple):
    """What to do next: measure `following`, or, where it is None, stop.

    risk: the chance that one not measured is BETTER than the best that is; while none
    is good, that any is.
    """

    following: int | None
    risk: float


def next_step(goal: Goal, times: Mapping[int, float], good: np.ndarray) -> Step:
    """What to measure next after these times (seconds; inf: it failed).

    good [n]: the chance that a candidate keeps the floor, and of a measured one whether
    it does and meets the targets; 0 leaves it out.
    """
    after, scores = (found := goal.after(times)), goal.scores(found)
    left = np.array([i for i in np.flatnonzero(good) if i not in times], int)
    if not len(left):
        return Step(None, 0.0)
    best = min((scores[i] for i in after.seen if good[i] == 1), default=np.inf)
    level, most = goal.bounds(left, best * (1 - BETTER))
    mean, sd, chance = after.mean[left], after.sd[left], good[left]
    z = (np.log(most) - mean) / sd
    keeps = ndtr(z) * chance
    first = np.argsort(-keeps)[:LIKELIEST]
    rng = np.random.default_rng(len(after.seen))
    wins = np.exp(after.draws(left[first], DRAWS, rng)) < most[first]
    risk = float(1 - np.prod(1 - wins * chance[first], axis=1).mean())
    if len(times) >= FEWEST and risk <= RISK:
        return Step(None, risk)
    if best == np.inf:  # first one that is good, the surest
        return Step(int(left[np.lexsort((scores[left], -keeps))[0]]), risk)
    expected = np.exp(mean + sd**2 / 2)  # E[level - T where T < most], log-normal T
    gain = level * keeps - expected * ndtr(z - sd) * chance
    return Step(int(left[gain.argmax()]), risk)


def explore(
    goal: Goal,
    times: dict[int, float],
    visit: Callable[[int], float],
    good: Callable[[], np.ndarray],
    go_on: Callable[[int], bool] = lambda measured: True,
) -> Step:
    """Measure one candidate after the other into `times` until the step says stop.

    visit: gives seconds, inf where it failed. good: asked before each step. go_on:
    asked with how many are measured; False stops (a budget): the step that is returned
    still names the candidate that would be next.
    """
    while True:
        step = next_step(goal, times, good())
        if step.following is None or not go_on(len(times)):
            return step
        times[step.following] = visit(step.following)


def finalists(goal: Goal, times: Mapping[int, float], good: np.ndarray) -> list[int]:
    """The best of the measured that are good, each a class of its own, best first."""
    after = goal.after(times)
    scores, best = goal.scores(after), dict[int, int]()
    for i in sorted(after.seen.tolist(), key=lambda i: (scores[i], i)):
        if good[i] == 1:
            best.setdefault(int(goal.beliefs.own[i]), i)
    return [*best.values()][:FINALISTS]


def decided(visits: Mapping[int, Sequence[float]], extra: np.ndarray) -> list[int]:
    """The winner of the finalists, then those that the clock cannot tell from it.

    visits: seconds of each in the same rounds. A round's own speed is taken out; what
    is left between the visits of one candidate says how far two medians may differ by
    chance.
    """
    order = [*visits]
    logs = np.log(np.array([visits[i] for i in order]) + extra[order][:, None])
    middle = np.median(logs, axis=1)
    noise = logs - logs.mean(axis=0) - logs.mean(axis=1)[:, None] + logs.mean()
    free = max((len(order) - 1) * (logs.shape[1] - 1), 1)
    wide = stdtrit(free, SURE) * np.sqrt((noise**2).sum() / free * 2 / logs.shape[1])
    first = np.argsort(middle, kind="stable")
    return [order[k] for k in first if middle[k] <= middle[first[0]] + wide]


def likely_best(goal: Goal, good: np.ndarray) -> list[int]:
    """Where nothing is measured: those that are the best in 95 % of joint draws.

    The one that is expected to be it first.
    """
    after = goal.after({})
    able = np.flatnonzero((good >= 0.5) & (np.exp(after.mean) <= goal.limits))
    if not len(able):
        return []
    some = able[np.argsort(goal.scores(after)[able], kind="stable")[:LIKELIEST]]
    drawn = np.exp(after.draws(some, DRAWS, np.random.default_rng(0)))
    wins = np.bincount((drawn + goal.extra[some]).argmin(axis=1), minlength=len(some))
    often = np.argsort(-wins, kind="stable")
    enough = int(np.searchsorted(np.cumsum(wins[often]), 0.95 * DRAWS)) + 1
    return [int(some[k]) for k in sorted(often[:enough])]

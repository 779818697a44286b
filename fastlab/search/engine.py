"""Which candidate to measure next, and when no more: expected improvement, joint stop.

Every choice follows from the set of what was measured alone, in whatever order: to stop
and to go on gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from fastlab.search.beliefs import Beliefs, Posterior

FEWEST, RISK, BETTER = 12, 0.02, 0.03  # measured; chance of a miss; what is one
DRAWS, LIKELIEST = 400, 60
FINALISTS, VISITS = 4, 3  # that are measured again, and how often
SURE = 2.45  # Student's t for 95 %, of (4 - 1) x (3 - 1) degrees of freedom


@dataclass(frozen=True)
class Goal:
    """Seconds that count of n candidates: T, or T + what C is worth beside it.

    beliefs: of log T. limits [n]: the longest T that meets the targets. extra [n]:
    seconds that C is worth, C / lambda; 0 where only T counts.
    """

    beliefs: Beliefs
    limits: np.ndarray
    extra: np.ndarray


class Step(NamedTuple):
    """What to do next: measure `index`, or, where it is None, stop.

    risk: the chance that one not measured is BETTER than the best that is; 1 before
    there is one.
    """

    index: int | None
    risk: float
    scale: float = 1.0


def next_step(goal: Goal, times: Mapping[int, float], good: np.ndarray) -> Step:
    """What to measure next after times (seconds of candidates; inf: it failed).

    good [n]: the chance that a candidate keeps the floor (and, once measured, meets the
    targets); 0 leaves it out.
    """
    tried = np.array(sorted(times), int)
    told = np.array([times[i] for i in tried], float)
    known = np.isfinite(told)
    after = goal.beliefs.after(tried[known], np.log(told[known]))
    left = np.where(good > 0)[0]
    left = left[~np.isin(left, tried)]
    if not len(left):
        return Step(None, 0.0, after.scale)
    scores = np.exp(after.mean) + goal.extra
    best = min((scores[i] for i in tried[known] if good[i] == 1), default=np.inf)
    if best == np.inf:
        return Step(_likeliest(goal, after, good, left), 1.0, after.scale)
    wins = _chance(goal, after, good, left, best * (1 - BETTER))
    risk = _joint(goal, after, good, left[np.argsort(-wins)[:LIKELIEST]], best)
    if len(tried) >= FEWEST and risk <= RISK:
        return Step(None, risk, after.scale)
    gain = _gain(goal, after, left, best) * good[left]
    return Step(int(left[gain.argmax()]), risk, after.scale)


def _bounds(goal: Goal, some: np.ndarray, best: float) -> tuple[np.ndarray, np.ndarray]:
    """T at which candidates draw level with the best, and below which they count."""
    level = np.maximum(best - goal.extra[some], 0.0)
    return level, np.minimum(level, goal.limits[some])


def _z(after: Posterior, some: np.ndarray, most: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return (np.log(most) - after.mean[some]) / np.maximum(after.sd[some], 1e-9)


def _chance(
    goal: Goal, after: Posterior, good: np.ndarray, some: np.ndarray, best: float
) -> np.ndarray:
    return ndtr(_z(after, some, _bounds(goal, some, best)[1])) * good[some]


def _gain(goal: Goal, after: Posterior, some: np.ndarray, best: float) -> np.ndarray:
    """Expected improvement in seconds: E[(level - T) where T is below the bound].

    Of a log-normal T: level x P(T < bound) - E[T] x P(T < bound, weighted by T).
    """
    level, most = _bounds(goal, some, best)
    z, sd = _z(after, some, most), after.sd[some]
    expected = np.exp(after.mean[some] + sd**2 / 2)
    return np.maximum(level * ndtr(z) - expected * ndtr(z - sd), 0.0)


def _joint(
    goal: Goal, after: Posterior, good: np.ndarray, some: np.ndarray, best: float
) -> float:
    """The chance that any of some is BETTER: their errors go together."""
    rng = np.random.default_rng(len(after.seen))
    drawn = np.exp(after.draws(some, DRAWS, rng))
    wins = drawn < _bounds(goal, some, best * (1 - BETTER))[1]
    return float(1 - np.prod(1 - wins * good[some], axis=1).mean())


def _likeliest(
    goal: Goal, after: Posterior, good: np.ndarray, left: np.ndarray
) -> int:
    """While none is good: the least expected seconds over the chance to be good."""
    meets = ndtr(_z(after, left, goal.limits[left])) * good[left]
    score = (np.exp(after.mean) + goal.extra)[left] / np.maximum(meets, 1e-12)
    return int(left[score.argmin()])


Visit = Callable[[int], float]  # measures a candidate: seconds, inf where it failed


def explore(
    goal: Goal,
    times: dict[int, float],
    visit: Visit,
    good: Callable[[], np.ndarray],
    go_on: Callable[[int], bool] = lambda measured: True,
) -> Step:
    """Measure one candidate after the other into `times` until the step says stop.

    good: asked before each step. go_on: asked with how many are measured; False stops
    (a budget), and the step returned still names the candidate that would be next.
    """
    while True:
        step = next_step(goal, times, good())
        if step.index is None or not go_on(len(times)):
            return step
        times[step.index] = visit(step.index)


def finalists(
    goal: Goal, times: Mapping[int, float], good: np.ndarray, n: int = FINALISTS
) -> list[int]:
    """The best of the measured that are good, each a class of its own, best first."""
    able = [i for i, t in times.items() if np.isfinite(t) and good[i] == 1]
    seen = np.array(sorted(i for i, t in times.items() if np.isfinite(t)), int)
    if not able:
        return []
    after = goal.beliefs.after(seen, np.log([times[i] for i in seen]))
    scores = np.exp(after.mean) + goal.extra
    best: dict[int, int] = {}
    for i in sorted(able, key=lambda i: (scores[i], i)):
        best.setdefault(int(goal.beliefs.own[i]), i)
    return [*best.values()][:n]


def decided(visits: Mapping[int, Sequence[float]], extra: np.ndarray) -> list[int]:
    """The winner of the finalists, and after it those that the clock cannot tell apart.

    visits: seconds of each in the same rounds. A round's own speed is taken out; what
    is left between the visits of one candidate says how far two medians may differ by
    chance.
    """
    order = [*visits]
    logs = np.log(np.array([visits[i] for i in order]) + extra[order][:, None])
    middle = np.median(logs, axis=1)
    noise = logs - logs.mean(axis=0) - (logs - logs.mean(axis=0)).mean(axis=1)[:, None]
    free = max((logs.shape[0] - 1) * (logs.shape[1] - 1), 1)
    wide = SURE * np.sqrt((noise**2).sum() / free * 2 / max(logs.shape[1], 1))
    first = np.argsort(middle, kind="stable")
    return [order[k] for k in first if middle[k] <= middle[first[0]] + wide]

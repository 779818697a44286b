"""What is believed of all candidates once a few were measured: kriging on a guess.

log(true) = log(guess) + common + kind + way + smooth + own: an error that all share,
one of each kind (precision and phase), of each way (runtime, cache, ...), one that
changes smoothly with the sizes (Matern 3/2), and one of each class that the guess
cannot tell apart. How large they are is said beforehand; a scale of all of them is
found from what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

DOUBT, CAUTION = 3.0, 3.0  # as much as so many measured ones say: so much larger


class Spread(NamedTuple):
    """Standard deviations of the parts of an error in logs; noise: of one visit."""

    common: float
    kind: float
    way: float
    smooth: float
    own: float
    noise: float
    reach: float  # of the smooth part, in units of the places


# As the reference's rows show them; of losses as the trained model's rows do.
TIMES = Spread(0.18, 0.04, 0.07, 0.14, 0.11, 0.03, 1.1)
LOSSES = Spread(0.8, 0.7, 0.5, 0.7, 0.4, 0.01, 0.4)


class Posterior(NamedTuple):
    """Logs believed of all candidates: mean and sd [n].

    seen [m]: those that were measured; inverse [m, m]: of the covariance of what was;
    scale: of the sds said beforehand, 1 or more.
    """

    beliefs: Beliefs
    seen: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    inverse: np.ndarray
    scale: float

    def draws(self, some: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """[n, len(some)] logs of these candidates, drawn together.

        With a scale that few measurements say, it is drawn too: Student's t.
        """
        across = self.beliefs.covariance(some, self.seen)
        spread = self.beliefs.covariance(some, some) - across @ self.inverse @ across.T
        spread = self.scale**2 * spread + 1e-9 * np.eye(len(some))
        errors = rng.standard_normal((n, len(some))) @ np.linalg.cholesky(spread).T
        if len(self.seen):
            free = DOUBT + len(self.seen)
            errors *= np.sqrt(free / rng.chisquare(free, n))[:, None]
        return self.mean[some] + errors


@dataclass(frozen=True)
class Beliefs:
    """Of n candidates: log guess [n], kind, way and class [n] as whole numbers, places.

    places [n, d]: what the smooth part goes by, logs of sizes.
    """

    guess: np.ndarray
    kind: np.ndarray
    way: np.ndarray
    own: np.ndarray
    places: np.ndarray
    spread: Spread = TIMES

    def covariance(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Of the errors of some candidates with those of others, at scale 1."""
        apart, s = self.places[some][:, None] - self.places[others][None], self.spread
        distance = np.sqrt(3 * (apart**2).sum(axis=2)) / s.reach
        total = s.common**2 + s.smooth**2 * (1 + distance) * np.exp(-distance)
        labels = (self.kind, s.kind), (self.way, s.way), (self.own, s.own)
        for label, sd in labels:
            total += sd**2 * (label[some][:, None] == label[others][None])
        return total

    def after(self, seen: Sequence[int], logs: Sequence[float]) -> Posterior:
        """What is believed once the logs of seen candidates are known.

        The same for any order of them, but for rounding. The scale is that of the
        innovations, each what a measurement differs from what those before it let
        expect: the root of the mean of their squares and DOUBT times that of CAUTION,
        and not below 1. Of none it is 1: what is said beforehand.
        """
        tried, s = np.array(seen, int), self.spread
        known = self.covariance(tried, tried) + s.noise**2 * np.eye(len(tried))
        inverse, off = np.linalg.inv(known), np.array(logs, float) - self.guess[tried]
        squares, m = float(off @ inverse @ off) + DOUBT * CAUTION**2, len(tried)
        scale = max(1.0, squares / (DOUBT + m)) ** 0.5 if m else 1.0
        across = self.covariance(np.arange(len(self.guess)), tried)
        whole = s.common**2 + s.kind**2 + s.way**2 + s.smooth**2 + s.own**2
        left = whole - ((across @ inverse) * across).sum(axis=1)
        mean, sd = across @ (inverse @ off), np.sqrt(np.maximum(left, 1e-12))
        return Posterior(self, tried, self.guess + mean, scale * sd, inverse, scale)


def codes_of(labels: Sequence[Any]) -> np.ndarray:
    """Whole numbers that are equal where the labels are."""
    codes = {label: n for n, label in enumerate(dict.fromkeys(labels))}
    return np.array([codes[label] for label in labels], int)

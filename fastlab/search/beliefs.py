"""What is believed of all candidates once a few were measured: kriging on a guess.

log(true) = log(guess) + common + kind + way + smooth + own: an error that all share,
one of each kind (precision and phase), of each way (runtime, cache, ...), one that
changes smoothly with the sizes (Matern 3/2), and one of each class that the guess
cannot tell apart. How large they are is said beforehand; a scale of all of them is
found from what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DOUBT = 1.0  # measured candidates that the sizes said beforehand weigh as much as


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


@dataclass(frozen=True)
class Posterior:
    """Logs believed of all candidates: mean and sd [n], and joint draws of some."""

    beliefs: Beliefs
    seen: np.ndarray  # [m] the candidates that were measured
    mean: np.ndarray
    sd: np.ndarray
    scale: float  # of the sds said beforehand: 1, or more where errors were larger
    inverse: np.ndarray  # [m, m] of the covariance of what was measured

    def draws(self, some: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """[n, len(some)] logs of these candidates, drawn together."""
        across = self.beliefs.covariance(some, self.seen)
        spread = self.beliefs.covariance(some, some) - across @ self.inverse @ across.T
        spread = self.scale**2 * spread + 1e-9 * np.eye(len(some))
        normal = rng.standard_normal((n, len(some)))
        return self.mean[some] + normal @ np.linalg.cholesky(spread).T


@dataclass(frozen=True)
class Beliefs:
    """Of n candidates: log guess [n], kind, way and class [n] as whole numbers, places.

    places [n, d]: logs of the sizes that the smooth part goes by.
    """

    guess: np.ndarray
    kind: np.ndarray
    way: np.ndarray
    own: np.ndarray
    places: np.ndarray
    spread: Spread = TIMES

    def covariance(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Of the errors of some candidates with those of others, at scale 1."""
        apart = self.places[some][:, None] - self.places[others][None]
        distance = np.sqrt(3 * (apart**2).sum(axis=2)) / self.spread.reach
        total = self.spread.smooth**2 * (1 + distance) * np.exp(-distance)
        total += self.spread.common**2
        for name in ("kind", "way", "own"):
            label, sd = getattr(self, name), getattr(self.spread, name)
            total += sd**2 * (label[some][:, None] == label[others][None])
        return total

    def after(self, seen: np.ndarray, logs: np.ndarray) -> Posterior:
        """What is believed once logs [m] of the seen candidates [m] are known.

        The same for any order of them. The scale is that of the innovations, each what
        a measurement differs from what the ones before let expect:
        sqrt((DOUBT + their squares) / (DOUBT + m)), and not below 1.
        """
        seen = np.asarray(seen, int)
        everyone, s = np.arange(len(self.guess)), self.spread
        own = s.common**2 + s.kind**2 + s.way**2 + s.smooth**2 + s.own**2
        if not len(seen):
            sd = np.full(len(everyone), own**0.5)
            return Posterior(self, seen, self.guess, sd, 1.0, np.empty((0, 0)))
        known = self.covariance(seen, seen) + s.noise**2 * np.eye(len(seen))
        inverse = np.linalg.inv(known)
        off = logs - self.guess[seen]
        scale = max(1.0, (DOUBT + off @ inverse @ off) / (DOUBT + len(seen))) ** 0.5
        across = self.covariance(everyone, seen)
        mean = self.guess + across @ (inverse @ off)
        left = own - ((across @ inverse) * across).sum(axis=1)
        sd = scale * np.sqrt(np.maximum(left, 0.0))
        return Posterior(self, seen, mean, sd, float(scale), inverse)

"""What a formula leaves over: a smooth correction between the calibrated points.

Kriging: the correction of a place is a mean of the residuals measured around it, the
near ones weighing most. How far "near" reaches along each dimension is the most likely
value given the residuals and a weak prior. Far from every point the correction is 0 and
its standard deviation the largest, which is what intervals are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Weak priors, on the log of each: an influence that fades over a factor e^3 in a
# dimension, residuals of 17 % (variance 0.03), of which noise and steps 5 % (0.003).
# Chosen on held-out shapes of public kernels; halving or tripling them changes little.
REACH, REACH_SD = np.log(3.0), 0.5
VARIANCES, VARIANCE_SD = np.log([0.03, 0.003]), 1.0
FURTHEST = 8.0  # standard deviations from the prior: beyond, matrices are singular


@dataclass(frozen=True)
class Residual:
    """log(measured / formula) at points in log space, and how it is spread out."""

    points: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]
    reach: tuple[float, ...]  # per dimension, in log units
    variance: float
    noise: float

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Correction of log seconds, and its standard deviation, at places [n, d]."""
        nearness = self.variance * _matern(self._squares(places))[0]
        spread = ((nearness @ self._inverse) * nearness).sum(axis=1)
        left = np.maximum(self.variance + self.noise - spread, self.noise)
        return nearness @ self._weights, np.sqrt(left)

    def left_out(
        self, groups: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Error at each point as predicted from the others, and the sd said of it.

        groups: of each point; it is predicted from those of other groups only.
        """
        if groups is None or len(set(groups.tolist())) < 2:
            groups = np.arange(len(self.points))
        error, sd = np.empty((2, len(self.points)))
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group)
            spread = np.linalg.inv(self._inverse[np.ix_(mine, mine)])
            error[mine], sd[mine] = spread @ self._weights[mine], np.diag(spread) ** 0.5
        return error, sd

    def _squares(self, places: np.ndarray) -> np.ndarray:
        # |x/r|^2 + |y/r|^2 - 2 xy/r^2, since n x points x d differences need 5 times
        # the memory and the time.
        mine = np.array(self.points) / self.reach
        theirs = np.asarray(places) / self.reach
        square = (theirs**2).sum(axis=1)[:, None] + (mine**2).sum(axis=1)
        return np.maximum(square - 2 * theirs @ mine.T, 0.0)

    @cached_property
    def _inverse(self) -> np.ndarray:
        near = self.variance * _matern(self._squares(np.array(self.points)))[0]
        return np.linalg.inv(near + self.noise * np.eye(len(near)))

    @cached_property
    def _weights(self) -> np.ndarray:
        return self._inverse @ np.array(self.values)


def residual(points: np.ndarray, values: np.ndarray) -> Residual:
    """The most likely Residual through `values` [n] at `points` [n, d] in log space."""
    from scipy.optimize import minimize  # 0.2 s, and only fits need it

    dims = points.shape[1]
    start, sd = _prior(dims)
    ends = list(zip(start - FURTHEST * sd, start + FURTHEST * sd, strict=True))
    wanted = _unlikelihood(points, values)
    best = minimize(wanted, start, jac=True, method="L-BFGS-B", bounds=ends).x
    reach, (variance, noise) = np.exp(best[:dims]), np.exp(best[dims:])
    return Residual(
        tuple(map(tuple, points.tolist())),
        tuple(values.tolist()),
        tuple(reach.tolist()),
        float(variance),
        float(noise),
    )


def _prior(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the logs of the reaches and both variances."""
    mean = np.r_[np.full(dims, REACH), VARIANCES]
    return mean, np.r_[np.full(dims, REACH_SD), np.full(2, VARIANCE_SD)]


def _matern(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Matern 3/2 of the squared distance, and the factor of its derivative with respect
    # to the log of a reach (times that dimension's share of the squared distance).
    distance = np.sqrt(3 * square)
    fade = np.exp(-distance)
    return (1 + distance) * fade, 3 * fade


def _unlikelihood(
    points: np.ndarray, values: np.ndarray
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    # Rasmussen and Williams, Gaussian Processes, eq. 5.8 and 5.9, plus the priors.
    dims, count = points.shape[1], len(points)
    squares = (points[:, None] - points[None]) ** 2
    prior, sd = _prior(dims)

    def negative_log(theta: np.ndarray) -> tuple[float, np.ndarray]:
        shares = squares / np.exp(2 * theta[:dims])
        variance, noise = np.exp(theta[dims:])
        near, slope = _matern(shares.sum(axis=2))
        spread = variance * near + noise * np.eye(count)
        inverse = np.linalg.inv(spread)
        weights = inverse @ values
        lack = inverse - np.outer(weights, weights)
        z = (theta - prior) / sd
        value = values @ weights + np.linalg.slogdet(spread)[1] + z @ z
        reach = variance * np.einsum("ij,ijd->d", lack * slope, shares)
        sizes = [variance * (lack * near).sum(), noise * np.trace(lack)]
        return value / 2, np.r_[reach, sizes] / 2 + z / sd

    return negative_log

"""What other rows teach about a model: a correction for each way of running one.

And how far predictions are off, in the figures that all scores are given in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastlab.latency.fit import conformal
from fastlab.latency.residual import residual
from fastlab.record import Estimate
from fastlab.spec.point import Point

# Ways of running a model, the narrower first.
SAME = ("precision", "phase")
WAYS = ((*SAME, "cache", "runtime", "attention"), (*SAME, "compiled"), SAME)
FEWEST = 3  # rows from which the median of a way is worth more than a wider one's
ENOUGH = 8  # rows of a precision and phase from which a residual is worth fitting


@dataclass(frozen=True)
class Errors:
    """Absolute errors in % of the measured time, and their signed median (bias).

    Of ratios bias is NaN, and spearman their rank correlation with the measured ones.
    """

    name: str
    n: int
    median: float
    mean: float
    p90: float
    bias: float
    spearman: float = math.nan

    @classmethod
    def of(cls, name: str, predicted: np.ndarray, measured: np.ndarray) -> Errors:
        """The errors of predicted against measured; all NaN where there are none."""
        signed = 100 * (np.asarray(predicted) / np.asarray(measured) - 1)
        if not len(signed):
            return cls(name, 0, *(math.nan,) * 4)
        off = np.abs(signed)
        found = np.median(off), off.mean(), np.quantile(off, 0.9), np.median(signed)
        return cls(name, len(signed), *map(float, found))


@dataclass(frozen=True)
class Predicted:
    """Held-out seconds of every row with their interval, as arrays."""

    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def coverage(self, measured: np.ndarray) -> float:
        """% of the measured seconds that lie within their interval."""
        return 100 * float(((self.low <= measured) & (measured <= self.high)).mean())

    @property
    def half_width(self) -> float:
        """Median half of the intervals in %."""
        return 100 * float(np.median(np.sqrt(self.high / self.low) - 1))


def held_out(
    points: Sequence[Point],
    estimates: Sequence[Estimate],
    measured: np.ndarray,
    folds: np.ndarray,
) -> Predicted:
    """Estimates corrected by the rows of the other folds that run the same way.

    What their median leaves varies with the sizes, and is a residual over those. Where
    few run the same way it is shared by all of the same precision and phase, compiled
    or not; where few of these, by both.
    """
    raw = np.array([(e.seconds, e.low_s, e.high_s) for e in estimates])
    places, left = _places(points, estimates), np.log(measured / raw[:, 0])
    ways = np.array([[_way(point, names) for names in WAYS] for point in points])
    made = raw.copy()
    for way, fold in sorted(set(zip(ways[:, 0], folds, strict=True))):
        held = (ways[:, 0] == way) & (folds == fold)
        known = list(((ways == ways[held][0]) & (folds != fold)[:, None]).T)
        rest = next((rows for rows in known if rows.sum() >= ENOUGH), known[-1])
        own = _offsets(ways, left, rest)
        if rest.sum() >= ENOUGH:
            around = residual(places[rest], (left - own)[rest])
            shift, sd = around.at(places[held])
            # as wide as whole folds needed it that were left out of the rest
            half = conformal(np.divide(*around.left_out(folds[rest]))) * sd
            middle = raw[held, 0] * np.exp(own[held] + shift)
            ends = middle[:, None] * np.exp(np.stack([-half, half], 1))
            made[held] = np.column_stack([middle, ends])
        elif rest.any():
            made[held] = raw[held] * np.exp(own[held])[:, None]
    return Predicted(*made.T)


def _way(point: Point, names: Sequence[str]) -> str:
    recipe, compiled = point.recipe, point.recipe.engine.compiled
    known = {"phase": point.workload.phase, "compiled": compiled, **vars(recipe)}
    return " ".join(str(known[name]) for name in names)


def _offsets(ways: np.ndarray, left: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """[n] the median of what the rest leave that run the same way.

    The narrowest way that enough of them run; the widest in any case.
    """
    found, widest = np.zeros(len(left)), len(WAYS) - 1
    for level in range(widest, -1, -1):
        for way in np.unique(ways[rest, level]):
            mine = ways[:, level] == way
            known = left[mine & rest]
            if len(known) >= FEWEST or level == widest:
                found[mine] = np.median(known)
    return found


def _places(points: Sequence[Point], estimates: Sequence[Estimate]) -> np.ndarray:
    built = [p.built_shape for p in points]
    shapes = [(s.layers, s.hidden) for s in built]
    works = [(p.workload.batch, p.workload.prompt_len) for p in points]
    launches = [(e.launches,) for e in estimates]
    return np.log(np.hstack([shapes, works, launches]).astype(float))

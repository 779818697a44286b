"""What other rows teach about a model: a correction for each way of running one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    for way in np.unique(ways[:, 0]):
        mine = ways[:, 0] == way
        alike = [ways[:, level] == ways[mine, level][0] for level in range(len(WAYS))]
        for fold in np.unique(folds):
            held, others = mine & (folds == fold), [a & (folds != fold) for a in alike]
            rest = next((a for a in others if a.sum() >= ENOUGH), others[-1])
            if held.any() and rest.any():
                known = _offsets(ways[rest], left[rest])
                own = np.array([_offset(way, known) for way in ways])
                rows = raw, own, places, left, folds
                made[held] = _corrected(*rows, held, rest)
    return Predicted(*made.T)


def _way(point: Point, names: Sequence[str]) -> str:
    recipe, compiled = point.recipe, point.recipe.engine.compiled
    known = {"phase": point.workload.phase, "compiled": compiled, **vars(recipe)}
    return " ".join(str(known[name]) for name in names)


def _offsets(ways: np.ndarray, left: np.ndarray) -> dict[str, float]:
    """The median of each way that enough rows have; of the widest in any case."""
    found = {}
    for level in range(len(WAYS)):
        for way in np.unique(ways[:, level]):
            mine = left[ways[:, level] == way]
            if len(mine) >= FEWEST or level == len(WAYS) - 1:
                found[str(way)] = float(np.median(mine))
    return found


def _offset(ways: np.ndarray, known: Mapping[str, float]) -> float:
    # From the narrowest way that is known to the widest, which is.
    return next((known[way] for way in ways if way in known), 0.0)


def _corrected(
    raw: np.ndarray,
    own: np.ndarray,
    places: np.ndarray,
    left: np.ndarray,
    folds: np.ndarray,
    held: np.ndarray,
    rest: np.ndarray,
) -> np.ndarray:
    """[held, 3] seconds, low and high, from the rows that are at rest.

    The interval is as wide as whole folds needed it that were left out of those.
    """
    if rest.sum() < ENOUGH:
        return raw[held] * np.exp(own[held])[:, None]
    found = residual(places[rest], left[rest] - own[rest])
    shift, sd = found.at(places[held])
    middle = raw[held, 0] * np.exp(own[held] + shift)
    half = conformal(np.divide(*found.left_out(folds[rest]))) * sd
    ends = middle[:, None] * np.exp(np.stack([-half, half], 1))
    return np.column_stack([middle, ends])


def _places(points: Sequence[Point], estimates: Sequence[Estimate]) -> np.ndarray:
    built = [p.built_shape for p in points]
    shapes = [(s.layers, s.hidden) for s in built]
    works = [(p.workload.batch, p.workload.prompt_len) for p in points]
    launches = [(e.launches,) for e in estimates]
    return np.log(np.hstack([shapes, works, launches]).astype(float))

"""What other rows teach about a model: a correction per precision and phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastlab.cost.fit import conformal
from fastlab.cost.residual import residual
from fastlab.record import Estimate
from fastlab.spec.point import Point

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
    """Estimates corrected by the rows of the other folds, per precision and phase."""
    raw = np.array([(e.seconds, e.low_s, e.high_s) for e in estimates])
    kinds = np.array([f"{p.recipe.precision} {p.workload.phase}" for p in points])
    places = _places(points, estimates)
    left = np.log(measured / raw[:, 0])
    made = raw.copy()
    for kind in np.unique(kinds):
        for fold in np.unique(folds):
            held = (kinds == kind) & (folds == fold)
            rest = (kinds == kind) & (folds != fold)
            if held.any() and rest.any():
                shift, half = _correction(places[rest], left[rest], places[held])
                middle = raw[held, 0] * np.exp(shift)
                ends = raw[held, 1:] * np.exp(shift)[:, None]
                if half is not None:
                    ends = middle[:, None] * np.exp(np.stack([-half, half], 1))
                made[held] = np.column_stack([middle, ends])
    return Predicted(*made.T)


def _places(points: Sequence[Point], estimates: Sequence[Estimate]) -> np.ndarray:
    shapes = [(p.shape.layers, p.shape.hidden) for p in points]
    works = [(p.workload.batch, p.workload.prompt_len) for p in points]
    launches = [(e.launches,) for e in estimates]
    return np.log(np.hstack([shapes, works, launches]).astype(float))


def _correction(
    places: np.ndarray, left: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    middle = float(np.median(left))
    if len(left) < ENOUGH:
        return np.full(len(wanted), middle), None
    rest = residual(places, left - middle)
    shift, sd = rest.at(wanted)
    return middle + shift, conformal(np.divide(*rest.left_out())) * sd

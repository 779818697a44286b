"""How far predictions are off, in the figures that all scores are given in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Errors:
    """Absolute errors in % of the measured time, and their signed median (bias)."""

    name: str
    n: int
    median: float
    mean: float
    p90: float
    bias: float

    @classmethod
    def of(cls, name: str, predicted: np.ndarray, measured: np.ndarray) -> Errors:
        """The errors of predicted against measured; all NaN where there are none."""
        signed = 100 * (np.asarray(predicted) / np.asarray(measured) - 1)
        if not len(signed):
            return cls(name, 0, *(float("nan"),) * 4)
        off = np.abs(signed)
        found = np.median(off), off.mean(), np.quantile(off, 0.9), np.median(signed)
        return cls(name, len(signed), *map(float, found))

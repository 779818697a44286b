"""How medians stray: resampled from real samples, and simulated on drifting clocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastlab.clock.stats import median, median_interval, plain_interval
from fastlab.spec.checks import check_choice, check_count

TRUE_MEDIAN = 1.0
SPREAD, TARGET = 0.02, 0.01  # noise of the simulation; where a measurement stops
RUNS = (10, 10_000)  # simulated measurements, fewest and most
FIRST_LOOK, BLOCK, MOST = 50, 10, 2000  # samples: before the first look, then per look
SIDES = (16, 16_384)  # rows of a layer of traps.Layer
COMPILERS = ("inductor", "eager", "none")  # eager traces, and generates no code
INTERVALS = {"plain": plain_interval, "corrected": median_interval}


def check_parameters(matrix_side: int, compiler: str, drift_runs: int) -> None:
    """Raise ValueError for a parameter of notebook 02 that is off, before any work."""
    check_count("matrix_side", matrix_side, *SIDES)
    check_choice("compiler", compiler, COMPILERS)
    check_count("drift_runs", drift_runs, *RUNS)


def resampled(
    samples: ArrayLike, n: int, draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Medians of n samples drawn from `samples` (with replacement), over the full one.

    1.1 means 10 % too slow. ValueError for n or draws below 1.
    """
    check_count("n", n)
    check_count("draws", draws)
    values = np.asarray(samples, dtype=np.float64)
    picked = np.random.default_rng(seed).choice(values, size=(draws, n))
    return np.asarray(np.median(picked, axis=1) / median(values))


def noise(
    n: int, correlation: float, spread: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """n samples around 1 with AR(1) noise: neighbours correlate, the spread stays."""
    shocks = rng.standard_normal(n)
    steps = shocks * math.sqrt(1 - correlation**2)
    steps[0] = shocks[0]
    for i in range(1, n):
        steps[i] += correlation * steps[i - 1]
    return TRUE_MEDIAN + spread * steps


@dataclass(frozen=True)
class Simulated:
    """Measurements of a known median: each one's interval, and how long it took."""

    correlation: float
    interval: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    taken: NDArray[np.int64]

    @property
    def holds(self) -> NDArray[np.bool_]:
        """Which intervals hold the true median."""
        return (self.low <= TRUE_MEDIAN) & (self.high >= TRUE_MEDIAN)

    @property
    def coverage(self) -> float:
        """The share of intervals that hold the true median; 0.95 is promised."""
        return float(self.holds.mean())


def simulate(runs: int, correlation: float, interval: str, seed: int = 0) -> Simulated:
    """Measure known noise `runs` times, each until the interval is within 1 %.

    `interval` is "plain" or "corrected"; both see the same noise for the same seed.
    """
    check_count("drift_runs", runs, *RUNS)
    rng = np.random.default_rng(seed)
    rows = [noise(MOST, correlation, SPREAD, rng) for _ in range(runs)]
    each = [measured(row, INTERVALS[interval]) for row in rows]
    return Simulated(correlation, interval, *map(np.array, zip(*each, strict=True)))


def measured(
    row: ArrayLike, interval: Callable[[ArrayLike], tuple[float, float]]
) -> tuple[float, float, int]:
    """Interval and count of the first samples whose interval is narrow enough."""
    values = np.asarray(row)
    for n in range(FIRST_LOOK, len(values) + 1, BLOCK):
        low, high = interval(values[:n])
        middle = median(values[:n])
        if max(high - middle, middle - low) <= TARGET * middle:
            break
    return low, high, n

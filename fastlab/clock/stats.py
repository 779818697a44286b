"""Statistics of timing samples: pure functions that delete no sample.

The interval of the median follows measuring.md section 3: order statistics (no
assumption on the noise), widened where neighbouring samples resemble each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# On either side of a 95 % interval. Not 2.5 %: a rule that stops once the interval is
# narrow picks lucky narrow ones, which costs up to 2 points (test_stats simulates it).
TAIL = 0.02
SURE_FROM = 6  # 2 x 0.5^6 = 3 %; with fewer, even min..max is no 95 % interval
P90_FROM = 64  # MLPerf's binomial rule at 99 % confidence


@dataclass(frozen=True)
class Summary:
    """Statistics in the unit of the samples; low..high holds the median at 95 %.

    spread: interquartile range as a fraction of the median. p10, p90: None below 64
    samples.
    """

    n: int
    median: float
    low: float
    high: float
    spread: float
    p10: float | None
    p90: float | None


def _array(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"samples of shape {values.shape} must be a row of one or more"
        )
    return values


def median(samples: ArrayLike) -> float:
    """The middle sample, or the mean of the middle two; ValueError without samples."""
    return float(np.median(_array(samples)))


def plain_interval(samples: ArrayLike) -> tuple[float, float]:
    """95 % interval of the median as if neighbouring samples were independent.

    Below 6 samples no order statistic reaches 95 %: then it is min..max.
    """
    from scipy.special import bdtrik  # 0.3 s, and a sweep's planner needs none of it

    ordered = np.sort(_array(samples))
    # The largest k with P(Binomial(n, 1/2) <= k) <= TAIL: the median lies between the
    # k-th sample from below and from above (from 0) at 95 %.
    k = int(bdtrik(TAIL, ordered.size, 0.5))
    return float(ordered[k]), float(ordered[-1 - k])


def median_interval(samples: ArrayLike) -> tuple[float, float]:
    """95 % interval of the median, for independent or positively correlated samples.

    From 6 samples the plain one is widened: its upper end as a time, the lower one as a
    rate, so that it stays above 0 as times do.
    """
    values = _array(samples)
    middle, (low, high) = float(np.median(values)), plain_interval(values)
    wider = inflation(values) if values.size >= SURE_FROM else 1.0
    below, above = (middle - low) * wider, (high - middle) * wider
    return (middle / (1 + below / low) if low else 0.0), middle + above


def half_width(samples: ArrayLike) -> float:
    """The wider side of the interval as a fraction of the median."""
    middle, (low, high) = median(samples), median_interval(samples)
    return max(high - middle, middle - low) / middle if middle else math.inf


def inflation(samples: ArrayLike) -> float:
    """sqrt((1 + r) / (1 - r)): what correlation r of neighbours does to an interval."""
    # The mean of AR(1) noise has the variance of n (1 - r) / (1 + r) independent
    # samples; for the median it is close. r below 0 would narrow: not trusted.
    n, r = len(_array(samples)), rank_correlation(samples)
    # Few samples understate r by (1 + 4 r) / n (Kendall 1954): put it back.
    r = min(max(r + (1 + 4 * r) / n, 0.0), 0.98)
    return math.sqrt((1 + r) / (1 - r))


def rank_correlation(samples: ArrayLike) -> float:
    """Lag-1 autocorrelation of the ranks (ties share theirs); 0 where all are equal."""
    values = _array(samples)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    centred = ranks - ranks.mean()
    power = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / power if power else 0.0


def summary(samples: ArrayLike) -> Summary:
    """Every statistic of the samples, in their unit; ValueError without samples."""
    values, middle = _array(samples), median(samples)
    p10, q1, q3, p90 = np.quantile(values, (0.1, 0.25, 0.75, 0.9)).tolist()
    spread = (q3 - q1) / middle if middle else math.inf
    tails = (p10, p90) if values.size >= P90_FROM else (None, None)
    return Summary(values.size, middle, *median_interval(values), spread, *tails)

"""Medians of few samples, and intervals on noise whose true median is known."""

from __future__ import annotations

import numpy as np
import pytest

from fastlab.clock.drift import check_parameters, measured, noise, resampled, simulate
from fastlab.clock.stats import median_interval, rank_correlation


def test_medians_of_few_samples_are_told_relative_to_that_of_all():
    assert set(resampled([10, 10, 10], 2)) == {1.0}
    found = resampled([1, 2, 3], 1, draws=3000)
    assert set(np.round(found, 2)) == {0.5, 1.0, 1.5}
    assert np.mean(found == 1.0) == pytest.approx(1 / 3, abs=0.05)


def test_more_samples_stray_less_and_the_seed_repeats_them():
    samples = np.random.default_rng(1).lognormal(size=300)
    spreads = [resampled(samples, n).std() for n in (3, 30, 300)]
    assert spreads[0] > 2 * spreads[1] > 4 * spreads[2]
    np.testing.assert_array_equal(resampled(samples, 3), resampled(samples, 3))


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 3, "draws": 0}, {"n": 1.5}])
def test_no_samples_are_no_median(bad):
    with pytest.raises(ValueError, match="must be a whole number"):
        resampled([1.0, 2.0], **bad)


def test_the_noise_has_the_correlation_and_the_spread_asked_for():
    found = noise(20_000, 0.8, 0.02, np.random.default_rng(0))
    assert rank_correlation(found) == pytest.approx(0.8, abs=0.03)
    assert found.std() == pytest.approx(0.02, rel=0.1)
    assert np.median(found) == pytest.approx(1, abs=0.005)


def test_a_measurement_stops_once_its_interval_is_narrow():
    assert measured([1.0] * 2000, median_interval) == (1.0, 1.0, 50)
    wild = [0.5, 1.5] * 1000
    assert measured(wild, median_interval)[2] == 2000


def test_plain_intervals_lie_on_drifting_clocks_and_corrected_ones_hold():
    # facts/measuring.md: 56 to 60 % and, at about five times the samples, 87 to 90 %.
    plain, corrected = (simulate(300, 0.8, kind) for kind in ("plain", "corrected"))
    assert 0.5 < plain.coverage < 0.65
    assert corrected.coverage > 0.87
    assert 3 < np.median(corrected.taken) / np.median(plain.taken) < 6


def test_both_hold_on_independent_noise_at_the_same_price():
    plain, corrected = (simulate(300, 0.0, kind) for kind in ("plain", "corrected"))
    assert min(plain.coverage, corrected.coverage) > 0.92
    assert np.median(plain.taken) == np.median(corrected.taken)


@pytest.mark.parametrize("runs", [0, 9, 1e3])
def test_too_few_runs_are_refused(runs):
    with pytest.raises(ValueError, match="drift_runs="):
        simulate(runs, 0.8, "plain")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((8, "none", 10), "matrix_side=8 must be a whole number from 16 to 16384"),
        ((64, "induktor", 10), "did you mean inductor"),
        ((64, "none", 5), "drift_runs=5 must be a whole number from 10 to 10000"),
    ],
)
def test_parameters_are_checked_before_any_work(given, words):
    check_parameters(64, "eager", 10)
    with pytest.raises(ValueError, match=words):
        check_parameters(*given)

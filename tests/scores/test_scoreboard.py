"""Hold-outs, baselines and speed-ups on tables that were worked by hand."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from fastlab.cost.article import article_as_printed
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Measurement, Record
from fastlab.scores.correction import held_out
from fastlab.scores.scoreboard import Scoreboard, score
from fastlab.scores.speedups import spearman, speedups
from fastlab.spec import Point, grid, point_of
from tests.latency.fitting import calibrated

SIZES = {"layers": [2, 4], "hidden": [64, 128, 256], "prompt_len": [16, 64]}
POINTS = grid(family="gpt2", vocab=2000, **SIZES, batch=[1, 4])


@pytest.fixture(scope="module")
def known(profile: Device) -> Device:
    """The device with round numbers, calibrated."""
    return calibrated(profile, dispatch_s=3e-6)


def row(point: Point, seconds: float, **over: object) -> Record:
    """A record of `seconds`, its interval 4 % either way."""
    measured = Measurement(
        seconds, 0.96 * seconds, 1.04 * seconds, 20, True, "converged", "warm", 3, 0.1
    )
    made = Record(point, "round numbers", {}, "ok", measured=measured)
    return replace(made, **over)  # type: ignore[arg-type]


def rows(device: Device, factor: float = 1.0) -> list[Record]:
    """Rows that took `factor` times what the device's model says."""
    return [
        row(point, factor * e.seconds)
        for point, e in zip(POINTS, estimate(POINTS, device), strict=True)
    ]


def figures(board: Scoreboard) -> dict[str, float]:
    """Median error by method."""
    return {e.name: e.median for e in board.methods}


def test_a_perfect_model_scores_zero(known):
    board = score(rows(known), known)
    first = board.methods[0]
    assert (first.n, first.median) == (24, pytest.approx(0, abs=1e-6))
    assert board.coverage == 100
    assert board.alone_coverage == 100
    halves = [e.high_s / e.seconds - 1 for e in estimate(POINTS, known)]
    assert board.alone_half_width == pytest.approx(100 * np.median(halves))
    assert all(s.median == pytest.approx(0, abs=1e-6) for s in board.speedups)
    every = board.speedups[0]
    assert (every.name, every.spearman) == ("all", pytest.approx(1))


def test_the_rest_of_the_rows_teaches_a_constant(known):
    """Everything 30 % slower than estimated: the estimate is off by 1 - 1 / 1.3."""
    board = score(rows(known, 1.3), known)
    found = figures(board)
    assert found["fastlab, held out"] == pytest.approx(0, abs=0.01)
    assert found["fastlab, no row used"] == pytest.approx(100 * (1 - 1 / 1.3))
    assert board.methods[1].bias == pytest.approx(-100 * (1 - 1 / 1.3))
    figures_of_it = r"(\w+=-?\d+\.\d ){4}n=24 points=111 seconds=41 "
    assert re.fullmatch(figures_of_it + 'device="round numbers"', board.line)


def test_a_held_out_value_teaches_nothing_about_itself(known):
    """One hidden size twice as slow: the others cannot know, and stay right."""
    table = [
        replace(r, measured=replace(r.measured, seconds=2 * r.measured.seconds))
        if r.point.shape.hidden == 256
        else r
        for r in rows(known)
    ]
    points = [r.point for r in table]
    measured = np.array([r.measured.seconds for r in table])
    folds = np.array([p.shape.hidden for p in points])
    found = held_out(points, estimate(points, known), measured, folds)
    off = found.seconds / measured - 1
    assert np.abs(off[folds == 256]).min() > 0.2


def test_baselines_by_hand(profile):
    """Two rows, each the other's constant: the article is off by the ratio of both."""
    small, large = (
        point_of(family="gpt2", layers=2, hidden=h, prompt_len=16) for h in (64, 128)
    )
    board = score([row(small, 1.0), row(large, 2.0)], profile)
    ratio = article_as_printed(16, 2, 128) / article_as_printed(16, 2, 64)
    assert ratio == 4
    found = {e.name: (e.median, e.mean) for e in board.methods}
    # constant of the other row: 2 / 4 a unit for small (-50 %), 1 for large (+100 %).
    assert found["article x constant"] == (pytest.approx(75), pytest.approx(75))
    peak = [estimate([p], profile)[0].flops / 1e12 for p in (small, large)]
    off = [100 * (1 - peak[0] / 1.0), 100 * (1 - peak[1] / 2.0)]
    assert found["FLOPs / datasheet peak"][0] == pytest.approx(sum(off) / 2)
    assert found["repeat noise"] == (pytest.approx(4), pytest.approx(4))
    assert set(found) >= {"datasheet roofline", "efficiencies 0.7 / 0.9"}


@pytest.mark.parametrize("holdout", ["hidden", "seq", "batch", "layers"])
def test_every_field_can_be_held_out(known, holdout):
    board = score(rows(known, 1.1), known, holdout)
    assert board.methods[0].median < 0.01
    assert {e.name.split()[0] for e in board.groups} == {"regime", "precision", "phase"}
    for title in ("precision", "phase"):
        assert sum(e.n for e in board.groups if e.name.startswith(title)) == 24


def test_rows_that_cannot_be_scored_are_listed(known):
    good = rows(known)
    nan = replace(good[0].measured, seconds=math.nan)
    half = replace(POINTS[0], recipe=replace(POINTS[0].recipe, precision="tf32"))
    bad = [
        replace(good[0], status="oom", reason="6 GiB too many"),
        replace(good[0], measured=None),
        replace(good[0], measured=nan),
        row(half, 1.0),
    ]
    board = score([*good, *bad], known)
    assert board.methods[0].n == 24
    said = [reason.partition(": ")[2] for reason in board.skipped]
    assert said == [
        "status oom 6 GiB too many",
        "not measured",
        "seconds=nan must be finite and > 0",
        "no tf32 peak",
    ]


def test_what_cannot_be_scored_at_all(known):
    with pytest.raises(ValueError, match="two values of family or more; got 24 usable"):
        score(rows(known), known, "family")
    with pytest.raises(ValueError, match="two values of hidden or more; got 0 usable"):
        score([], known)
    with pytest.raises(ValueError, match="did you mean hidden"):
        score(rows(known), known, "hiden")
    with pytest.raises(ValueError, match="a row of another cannot be scored against"):
        score([row(POINTS[0], 1.0, device="another", key="")], known)


def test_intervals_hold_most_noisy_rows(known):
    draw = np.random.default_rng(2)
    table = [
        row(r.point, r.measured.seconds * math.exp(draw.normal(0, 0.1)))
        for r in rows(known)
    ]
    board = score(table, known)
    assert 75 <= board.coverage <= 100
    assert 5 < board.half_width < 60


def test_speedups_by_hand():
    """4 layers against 2: said 2x, took 1.6x (+25 %); batch 2: 1x and 2x (-50 %)."""
    base, deep, wide = (
        point_of(family="gpt2", layers=n, hidden=64, batch=b)
        for n, b in ((2, 1), (4, 1), (2, 2))
    )
    said, took = np.array([1.0, 2.0, 1.0]), np.array([1.0, 1.6, 2.0])
    found = {s.name: s for s in speedups([base, deep, wide], said, took)}
    assert set(found) == {"all", "layers", "batch"}
    assert (found["layers"].n, found["layers"].median) == (1, pytest.approx(25))
    assert found["batch"].median == pytest.approx(50)
    assert found["all"].n == 2
    assert math.isnan(found["all"].spearman)


def test_rows_that_differ_twice_or_not_at_all_are_no_pair():
    two = [point_of(model="tiny-gpt2", batch=b, prompt_len=8 * b) for b in (1, 2)]
    assert list(speedups([*two, two[0]], np.ones(3), np.ones(3))) == []


def test_spearman_by_hand():
    """1 - 6 x (1 + 1) / (3 x 8) = 0.5 for one swap among three."""
    assert spearman(np.array([1, 2, 3.0]), np.array([10, 30, 20.0])) == pytest.approx(
        0.5
    )
    assert spearman(np.arange(9.0), np.exp(np.arange(9.0))) == pytest.approx(1)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))
    rounded = 1 + 1e-15 * np.array([3, 1, 2.0, 0])  # no order, but that of rounding
    assert math.isnan(spearman(rounded, np.arange(4.0)))

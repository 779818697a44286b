"""Figures, explorer and cells of timing traps, from fixed samples."""

from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from fastlab.clock import stats
from fastlab.figures import timing
from fastlab.record import Measurement
from fastlab.words import digits, times
from tests.cells import run_cells
from tests.clock.test_timing import MS, FakeClock
from tests.pins import compare

NOTEBOOK = "02_time_it_properly"

NAIVE = [90, 20, *[10] * 98]
OURS = [9 + n % 3 for n in range(100)]
ON_GPU = Measurement(0.01, 0.009, 0.011, 3, False, "budget", "cold", 5, 0.5, ("noisy",))


def rows(**series):
    named = [pd.DataFrame({"series": name, "ms": ms}) for name, ms in series.items()]
    return pd.concat(named)


BOTH = rows(naive=NAIVE, ours=OURS)


def lines(table):
    return [list(row) for row in table.to_numpy()]


def by_hand(**names):
    return run_cells(NOTEBOOK, "by-hand-interval", "by-hand-loop", **names)


def test_the_interval_by_hand_is_the_plain_one():
    interval, rng = by_hand()["interval"], np.random.default_rng(0)
    for n in (1, 5, 6, 7, 20, 63, 64, 200, 1000, 5000):
        ns = rng.lognormal(size=n)
        assert tuple(interval(ns)) == stats.plain_interval(ns)


@pytest.mark.parametrize(
    ("n", "budget_s", "taken"), [(4, 9, 4), (99, 0.05, 5), (9, 0, 3)]
)
def test_the_loop_by_hand_warms_up_and_ends_with_its_budget(n, budget_s, taken):
    """Calls of 5 ms on a scripted clock."""
    clock = FakeClock(device_ns=[0], enqueue_ns=5 * MS)
    space = by_hand()
    space["now"] = lambda: int(clock.now_ns())
    ns = space["timed"](clock.run, n, budget_s)
    assert ns.tolist() == [5 * MS] * len(ns)
    assert len(ns) == taken


def test_first_calls_beside_the_median_of_the_others():
    late = {"model, prefill": (90, 10, ""), "one layer": (500, 10, "")}
    late["one layer, compiled"] = np.nan, np.nan, "no compiler"
    given = {"late": late, "guess_factor": 2.0, "pd": pd}
    table = run_cells(NOTEBOOK, "first-table", **given)["shown"]
    assert table["ratio"].tolist()[:2] == [9, 50] and table["ratio"].iloc[-1] == 2
    assert table["note"][2] == "no compiler"
    assert compare(f"{NOTEBOOK}_07", table) == []


def test_a_compiler_that_is_not_there_is_told_in_words():
    def fail(token):
        raise RuntimeError("no C++ compiler found\n" * 50)

    given = {"seconds": [1.0, 0.5], "layers_here": {"one": fail}, "token": None}
    given |= {"timed": None, "n_max": 3, "budget_s": 1, "np": np, "now": int}
    space = run_cells(NOTEBOOK, "first-calls", **given, partial=Mock())
    assert space["late"]["one"][2].startswith("RuntimeError: no C++ compiler found")
    assert space["late"]["model, prefill"] == (1000, 500, "")


def test_drift_in_a_table():
    steps = np.array([*[1 * MS] * 50, *[2 * MS] * 50])
    given = {"series": {"naive loop": steps, "careful loop": steps}, "stats": stats}
    given |= {"warm": steps, "cold": steps, "np": np, "pd": pd, "digits": digits}
    given |= {"times": times, "interval": stats.plain_interval}
    table = run_cells(NOTEBOOK, "drift", **given)["shown"]
    row = lines(table)[0]
    assert row[:3] == ["naive loop", 100, 1.5]
    assert row[3] > 0.9
    assert row[5] == "1.00 to 2.00 ms"
    assert row[6].startswith("0.251 to ")  # 1.5 / (1 + 0.5 x 9.95): wider, above 0
    assert compare(f"{NOTEBOOK}_10", table) == []


def test_plain_intervals_miss_the_truth_on_drifting_clocks_and_corrected_ones_hold():
    kinds = {"plain": stats.plain_interval, "corrected": stats.median_interval}
    given = {"kinds": kinds, "drift_runs": 300, "np": np, "pd": pd}
    space = run_cells(NOTEBOOK, "coverage", **given)
    told = space["run"].shown["intervals"].table.dropna(subset="coverage")
    coverage = told.set_index(["correlation", "interval"])["coverage"]
    assert 0.4 < coverage[0.8, "plain"] < 0.65
    assert min(coverage[0.8, "corrected"], coverage[0, "plain"]) > 0.9
    assert space["noisy"].std() == pytest.approx(0.02, rel=0.1)
    assert stats.rank_correlation(space["noisy"].ravel()) == pytest.approx(
        0.8, abs=0.03
    )


def test_the_strips_show_every_sample_and_ring_the_first():
    figure = timing.strips(BOTH, first=2)
    left, right = figure.draw().axes
    assert [len(dots.get_offsets()) for dots in left.collections] == [98, 2, 100]
    texts = [text.get_text() for text in left.texts]
    assert texts == ["first calls", "10.0 ms\nn = 100", "10.0 ms\nn = 100"]
    assert [line.get_ydata().max() for line in right.lines] == [90, 11]
    assert figure.title.startswith(
        "naive: median 10.0 ms, first call 90.0 ms; ours: median"
    )
    assert len(figure.table) == 200


def test_few_samples_have_no_p10_to_p90_bar():
    few = timing.strips(rows(few=OURS[:63], ours=OURS)).table
    assert few.groupby("series")["p10_ms"].count().to_dict() == {
        "few": 0,
        "ours": 100,
    }


def test_medians_of_few_samples_stray_and_the_axis_holds_all_tries():
    given = {"mine": np.array(NAIVE), "here": "here", "np": np, "pd": pd}
    space = run_cells(NOTEBOOK, "few", **given)
    figure = space["run"].shown["few"]
    (axes,) = figure.draw().axes
    low, high = axes.get_xlim()
    ratios = figure.table["ratio"].dropna()
    assert low < ratios.min() <= ratios.max() < high
    sizes = [f"{n} samples" for n in (3, 10, 30, 100)]
    assert [t.get_text() for t in axes.get_yticklabels()] == sizes
    spreads = space["few"].groupby("samples")["ratio"].std().tolist()
    assert spreads == sorted(spreads, reverse=True)
    assert compare(f"{NOTEBOOK}_few", figure.table) == []
    flat = timing.sample_size_effect(pd.DataFrame({"samples": 3, "ratio": [1.0] * 9}))
    assert flat.table.loc[0, ["low", "high", "off"]].tolist() == [1, 1, 0]


def test_intervals_that_miss_stand_out():
    ends = {"low": [0.9, 1.1, 0.8, 1.0], "high": [1.1, 1.2, 0.9, 1.3]}
    each = [
        pd.DataFrame({"correlation": r, "interval": kind, **ends})
        for r, kind in ((0.8, "plain"), (0.8, "corrected"), (0.0, "plain"))
    ]
    figure = timing.intervals(pd.concat(each))
    assert [panel.title for panel in figure.panels] == [
        "plain interval: 50 % hold the truth",
        "corrected interval: 50 % hold the truth",
    ]
    drawn = figure.panels[0].layers[0].rows
    assert drawn["holds"].tolist() == [True, False, False, True]  # 1.0 to 1.3 holds 1
    (intervals,) = figure.draw().axes[0].collections
    assert intervals.get_linewidth() == [1, 3, 3, 1]
    told = figure.table[figure.table["runs"].notna()]
    columns = ["correlation", "interval", "runs", "coverage"]
    assert lines(told[columns]) == [
        [0.8, "plain", 4, 0.5],
        [0.8, "corrected", 4, 0.5],
        [0.0, "plain", 4, 0.5],
    ]


@pytest.mark.parametrize(
    ("trap", "taken", "value"),
    [
        ("none: warm, median", 3, (9, 10, 11)),
        ("naive loop, median", 3, (10, 20, 90)),
        ("naive loop, median", 1, (90, 90, 90)),
        ("naive loop, mean", 2, (55 - 68.6, 55, 55 + 68.6)),
        ("naive loop, mean", 1, (90, 90, 90)),
        ("the fastest call", 7, (9, 9, 9)),
        ("interval ignores drift", 3, (9, 10, 11)),
    ],
)
def test_what_you_would_have_reported(trap, taken, value):
    answers = timing.compared(BOTH, trap, taken)[["low_ms", "ms", "high_ms"]]
    assert answers.iloc[0].tolist() == pytest.approx(value)
    assert answers["ms"][1] == 10
    assert answers["low_ms"][1] <= 10 <= answers["high_ms"][1]


def test_the_figure_marks_what_was_taken_and_its_axes_stay():
    figures = [timing.reported(BOTH, "naive loop, median", n) for n in (3, 80)]
    axes = [figure.draw().axes[0] for figure in figures]
    pale, used = axes[0].lines[:2]
    assert (len(pale.get_xdata()), len(used.get_xdata())) == (97, 3)
    assert axes[0].get_ylim() == axes[1].get_ylim()

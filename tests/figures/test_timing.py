"""Tables, figures and the explorer of timing traps, from fixed samples."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.clock.drift import Simulated
from fastlab.clock.traps import Series
from fastlab.figures import timing
from fastlab.record import Measurement, Record
from fastlab.spec import grid
from fastlab.sweeps import reference as stored
from fastlab.sweeps.store import Store
from fastlab.words import digits
from tests.cells import run_cells
from tests.pins import compare

NOTEBOOK = "02_time_it_properly"

MS = 1_000_000
NAIVE = Series("naive loop", (90 * MS, 20 * MS, *[10 * MS] * 98), first=2)
OURS = Series("our clock", tuple((9 + n % 3) * MS for n in range(100)))
ON_GPU = Measurement(0.01, 0.009, 0.011, 3, False, "budget", "cold", 5, 0.5, ("noisy",))
ON_GPU = replace(ON_GPU, device_ns=(9 * MS, 10 * MS, 11 * MS), e2e_ns=(12 * MS,))
ON_GPU = replace(ON_GPU, enqueue_ns=(2 * MS,))


def simulated(kind="plain"):
    low, high = np.array([0.9, 1.1, 0.8, 1.0]), np.array([1.1, 1.2, 0.9, 1.3])
    return Simulated(0.8, kind, low, high, np.array([50, 60, 70, 80]))


def lines(table):
    return [list(row) for row in table.to_numpy()]


def test_the_three_times_of_a_call_stand_apart_above_stored_ones(monkeypatch, tmp_path):
    mine, other = grid(family="llama", layers=[1, 2], hidden=64, vocab=512)
    folder = tmp_path / "box"
    with Store(folder) as store:
        store.begin({})
        for point in (mine, other):
            at = "2026-01-02T03:04:05.000+00:00"
            record = Record(point, "H200", {}, "ok", measured=ON_GPU, at_utc=at)
            store.append(record)
    (folder / "run.json").write_text("{}")
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    given = {"run": Mock(kind="cpu", points=[mine]), "device_name": str}
    table = run_cells(NOTEBOOK, "queue", "queueing", every=ON_GPU, **given)["shown"]
    assert lines(table) == [
        ["cpu", "this call", 10, 12, 2],
        ["H200, stored 2026-01-02", "prefill", 10, 12, 2],
    ]
    on_cpu = replace(ON_GPU, enqueue_ns=())
    table = run_cells(NOTEBOOK, "queue", "queueing", every=on_cpu, **given)["shown"]
    assert table["queueing_ms"][0] == "no queue"


def test_first_calls_beside_the_median_of_the_others():
    given = {"naive": NAIVE, "eager": ON_GPU, "np": np, "pd": pd}
    given |= {"compiled": "no compiler", "guess_factor": 2.0}
    table = run_cells(NOTEBOOK, "first-calls", **given)["shown"].set_index("call")
    assert table["ratio"].dropna().to_dict() == pytest.approx(
        {"model, prefill": 9, "one layer": 50, "your guess": 2}
    )
    assert table.loc["model, prefill", ["first_ms", "median_ms"]].tolist() == [90, 10]
    assert table.loc["one layer, compiled", "note"] == "no compiler"
    given |= {"compiled": ON_GPU, "guess_factor": None}
    table = run_cells(NOTEBOOK, "first-calls", **given)["shown"]
    assert compare(f"{NOTEBOOK}_07", table) == []


def test_drift_in_a_table():
    steps = Series("steps", (*[1 * MS] * 50, *[2 * MS] * 50))
    names = {"naive": "naive loop", "ours": "our clock, warm cache"}
    names |= {"warm": "warm", "cold": "cold"}
    given = {name: replace(steps, name=said) for name, said in names.items()}
    table = run_cells(NOTEBOOK, "drift", "intervals", np=np, pd=pd, **given)["shown"]
    row = lines(table)[0]
    assert row[:3] == ["naive loop", 100, 1.5]
    assert row[3] > 0.9
    assert row[5] == "1.00 to 2.00 ms"
    assert row[6].startswith("0.251 to ")  # 1.5 / (1 + 0.5 x 9.95): wider, above 0
    assert compare(f"{NOTEBOOK}_10", table) == []


def test_the_clocks_in_a_table():
    table = run_cells(NOTEBOOK, "time", pd=pd)["shown"]
    assert list(table["clock"]) == ["time.time", "time.perf_counter_ns"]
    assert list(table["can be set"]) == ["yes: it may even go back", "no"]


def test_the_report_says_every_field_and_why_it_stopped(monkeypatch):
    monkeypatch.setattr(fl, "time_call", lambda *_: ON_GPU)
    given = {"call": None, "clock": None, "run": Mock(), "digits": digits, "pd": pd}
    table = run_cells(NOTEBOOK, "report", "meaning", "said", **given)["shown"]
    table = table.set_index("field")
    assert table["value"].to_dict() == {
        **{"seconds": "10.0 ms", "low_s, high_s": "9.00 to 11.0 ms", "n": 3},
        **{"stopped": "budget", "converged": "no", "flags": "noisy"},
        **{"cache": "cold", "warmup_calls": 5, "first_call_s": "500 ms"},
    }
    assert table.loc["stopped", "meaning"] == "the time for sampling was spent"
    assert compare(f"{NOTEBOOK}_13", table.reset_index()) == []


def test_the_strips_show_every_sample_and_ring_the_first():
    figure = timing.strips([NAIVE, OURS])
    left, right = figure.draw().axes
    assert [len(dots.get_offsets()) for dots in left.collections] == [98, 2, 100]
    texts = [text.get_text() for text in left.texts]
    assert texts == ["first calls", "10.0 ms\nn = 100", "10.0 ms\nn = 100"]
    assert [line.get_ydata().max() for line in right.lines] == [90, 11]
    assert figure.title.startswith(
        "naive loop: median 10.0 ms, first call 90.0 ms; our"
    )
    assert len(figure.table) == 200


def test_few_samples_have_no_p10_to_p90_bar():
    few = timing.strips([Series("few", OURS.ns[:63]), OURS]).table
    assert few.groupby("series")["p10_ms"].count().to_dict() == {
        "few": 0,
        "our clock": 100,
    }


def test_medians_of_few_samples_stray_and_the_axis_holds_all_tries():
    figure = timing.sample_size_effect(NAIVE, [3, 10])
    (axes,) = figure.draw().axes
    low, high = axes.get_xlim()
    ratios = figure.table["ratio"].dropna()
    assert low < ratios.min() <= ratios.max() < high
    assert [t.get_text() for t in axes.get_yticklabels()] == ["3 samples", "10 samples"]
    flat = timing.sample_size_effect(Series("flat", (MS,) * 9), [3]).table.iloc[0]
    assert (flat["low"], flat["high"], flat["off"]) == (1, 1, 0)
    three, thirty = timing.sample_size_effect(OURS, [3, 31]).table["off"].dropna()
    assert three > thirty


def test_intervals_that_miss_stand_out():
    both = [simulated(), simulated("corrected")]
    figure = timing.intervals([*both, replace(simulated(), correlation=0.0)])
    assert [panel.title for panel in figure.panels] == [
        "plain interval: 50 % hold the truth",
        "corrected interval: 50 % hold the truth",
    ]
    drawn = figure.panels[0].layers[0].rows
    assert drawn["holds"].tolist() == [True, False, False, True]  # 1.0 to 1.3 holds 1
    (intervals,) = figure.draw().axes[0].collections
    assert intervals.get_linewidth() == [1, 3, 3, 1]
    told = figure.table[figure.table["runs"].notna()]
    columns = ["noise", "interval", "samples taken", "runs", "coverage"]
    assert lines(told[columns]) == [
        ["AR(0.8)", "plain", 65, 4, 0.5],
        ["AR(0.8)", "corrected", 65, 4, 0.5],
        ["independent", "plain", 65, 4, 0.5],
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
    answers = timing.compared(NAIVE, OURS, trap, taken)[["low_ms", "ms", "high_ms"]]
    assert answers.iloc[0].tolist() == pytest.approx(value)
    assert answers["ms"][1] == 10
    assert answers["low_ms"][1] <= 10 <= answers["high_ms"][1]


def test_the_figure_marks_what_was_taken_and_its_axes_stay():
    figures = [timing.reported(NAIVE, OURS, "naive loop, median", n) for n in (3, 80)]
    axes = [figure.draw().axes[0] for figure in figures]
    pale, used = axes[0].lines[:2]
    assert (len(pale.get_xdata()), len(used.get_xdata())) == (97, 3)
    assert axes[0].get_ylim() == axes[1].get_ylim()


def test_one_change_is_one_redraw_that_says_its_state():
    box = timing.samples_taken(NAIVE, OURS, "measured on a box").widget()
    assert (box.controls["samples"].value, len(box.controls["samples"].options)) == (
        *(3, 100),
    )
    pictures = []
    box.picture.observe(lambda change: pictures.append(change["new"]), names="value")
    box.controls["samples"].value = 2
    box.controls["trap"].value = "the fastest call"
    first, second = pictures
    assert "n = 2: you report 55.0 ms (20.0 to 90.0), dashed" in first
    assert "off by ×5.50, and your interval misses it" in first
    assert "you report 9.00 ms, no interval, dashed" in second
    assert "off by ÷1.11, and your interval misses it" in second
    assert "measured on a box</figcaption>" in second

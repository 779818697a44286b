"""Tables, figures, alt texts and the explorer of notebook 02, from fixed samples."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fastlab.clock.drift import Simulated
from fastlab.clock.traps import Series
from fastlab.record import Measurement, Record
from fastlab.spec import grid
from fastlab.sweeps import reference as stored
from fastlab.sweeps.store import Store
from fastlab.view.alt import timing as trap_alt
from fastlab.view.explore import timing as trap_explore
from fastlab.view.plots import timing as trap_plots
from fastlab.view.tables import timing as trap_tables

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


def test_the_three_times_of_a_call_stand_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    (row,) = lines(trap_tables.three_times("cpu", ON_GPU))
    assert row[1:] == ["this call", "10.0", "12.0", "2.00"]
    on_cpu = replace(ON_GPU, enqueue_ns=())
    assert lines(trap_tables.three_times("cpu", on_cpu))[0][-1] == "no queue"


def test_stored_rows_of_the_same_points_stand_below(monkeypatch, tmp_path):
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
    _, row = lines(trap_tables.three_times("cpu", ON_GPU, [mine]))
    assert row == ["H200, stored 2026-01-02", "prefill", "10.0", "12.0", "2.00"]


def test_first_calls_beside_the_median_of_the_others():
    calls = {"loop": NAIVE, "ours": ON_GPU, "compiled": "no compiler", "guess": "2.0"}
    assert lines(trap_tables.first_calls(calls)) == [
        ["loop", "90.0", "10.0", "×9.00"],
        ["ours", "500", "10.0", "×50.0"],
        ["compiled", "-", "-", "no compiler"],
        ["guess", "-", "-", "2.0"],
    ]
    alone = trap_tables.first_calls({"one": Series("one", (5.0 * MS,))})
    assert lines(alone)[0][-1] == "×1.00"


def test_medians_of_few_samples_in_a_table():
    assert lines(trap_tables.few(Series("flat", (MS,) * 9), [3])) == [
        [3, "×1.00", "×1.00", "0%"]
    ]
    three, thirty = lines(trap_tables.few(OURS, [3, 31]))
    assert (three[1], three[2]) == ("÷1.11", "×1.10")
    assert float(three[3][:-1]) > float(thirty[3][:-1])


def test_drift_in_a_table():
    series = Series("steps", (*[1 * MS] * 50, *[2 * MS] * 50))
    (row,) = lines(trap_tables.drift([series]))
    assert row[:3] == ["steps", 100, "1.50"]
    assert float(row[3]) > 0.9
    assert row[5] == "1.00 to 2.00 ms"
    assert row[6].startswith("0.251 to ")  # 1.5 / (1 + 0.5 x 9.95): wider, above 0


def test_coverage_in_a_table():
    calm = replace(simulated(), correlation=0.0)
    assert lines(trap_tables.simulated([simulated(), calm])) == [
        ["AR(0.8)", "plain", "65", "50% of 4"],
        ["independent", "plain", "65", "50% of 4"],
    ]


def test_the_clocks_in_a_table():
    table = trap_tables.clocks()
    assert list(table["clock"]) == ["time.time", "time.perf_counter_ns"]
    assert list(table["can be set"]) == ["yes: it may even go back", "no"]


def test_the_report_says_every_field_and_why_it_stopped():
    table = trap_tables.report(ON_GPU).set_index("field")
    assert table["value"].to_dict() == {
        "seconds": "10.0 ms",
        "low_s, high_s": "9.00 to 11.0 ms",
        "n": 3,
        "stopped": "budget",
        "converged": False,
        "flags": "noisy",
        "cache": "cold",
        "warmup_calls": 5,
        "first_call_s": "500 ms",
    }
    assert table.loc["stopped", "meaning"] == "the time for sampling was spent"
    clean = trap_tables.report(replace(ON_GPU, flags=())).set_index("field")
    assert clean.loc["flags", "value"] == "none"


def test_a_table_of_words_is_aligned_to_the_left():
    markup = trap_tables.left(trap_tables.report(ON_GPU)).to_html()
    assert "text-align: left" in markup


def test_the_strips_show_every_sample_and_ring_the_first():
    left, right = trap_plots.strips([NAIVE, OURS]).axes
    drawn = [len(dots.get_offsets()) for dots in left.collections]
    assert drawn == [98, 2, 100]
    texts = [text.get_text() for text in left.texts]
    assert texts == ["first calls", "10.0 ms\nn = 100", "10.0 ms\nn = 100"]
    assert left.get_yscale() == "log"
    assert [line.get_ydata().max() for line in right.lines] == [90, 11]


def test_few_samples_have_no_p10_to_p90_bar():
    few = Series("few", OURS.ns[:63])
    bars = [len(trap_plots.strips([s, OURS]).axes[0].lines) for s in (few, OURS)]
    assert bars == [3, 4]


def test_the_axis_of_few_holds_all_tries():
    axes = trap_plots.few(NAIVE, [3, 10]).axes[0]
    low, high = axes.get_xlim()
    dots = np.concatenate([d.get_offsets()[:, 0] for d in axes.collections])
    assert low < dots.min() <= dots.max() < high
    assert [t.get_text() for t in axes.get_yticklabels()] == ["3 samples", "10 samples"]


def test_intervals_that_miss_stand_out():
    figure = trap_plots.intervals([simulated(), simulated("corrected")])
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "plain interval: 50% hold the truth"
    colors = [line.get_color() for line in axes.lines]
    grey, trap = trap_plots.GREY, trap_plots.TRAP
    assert colors[:4] == [grey, trap, trap, grey]  # 1.0 to 1.3 holds 1
    assert figure.axes[1].get_title(loc="left").startswith("corrected")


def test_alt_texts_tell_the_numbers():
    strips = trap_alt.strips([NAIVE, OURS], "measured on a box")
    assert "naive loop: median 10.0 ms of 100 samples" in strips
    assert "first call 90.0 ms" in strips
    assert "measured on a box" in strips
    assert "3 samples: ÷1.11 to ×1.10" in trap_alt.few(OURS, "box")
    words = trap_alt.intervals([simulated()], "simulated")
    assert "plain interval: 50% of 4 hold the true median" in words
    assert trap_alt.here("cpu").startswith("measured on ")


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
    _, found, truth = trap_explore.compared(NAIVE, OURS, trap=trap, taken=taken)
    assert found == pytest.approx(value)
    assert truth[1] == 10
    assert truth[0] <= 10 <= truth[2]


def test_an_unknown_trap_is_refused():
    with pytest.raises(ValueError, match="trap='nap' is not one of"):
        trap_explore.compared(NAIVE, OURS, trap="nap", taken=3)


def test_the_figure_marks_what_was_taken_and_its_axes_stay():
    state = {"trap": "naive loop, median"}
    shown = [trap_explore.compared(NAIVE, OURS, taken=n, **state) for n in (3, 80)]
    limits = trap_explore.limits(NAIVE, OURS)
    figures = [
        trap_plots.reported(s[0], n, *s[1:], limits)
        for s, n in zip(shown, (3, 80), strict=True)
    ]
    pale, taken = figures[0].axes[0].collections[:2]
    assert (len(pale.get_offsets()), len(taken.get_offsets())) == (97, 3)
    assert figures[0].axes[0].get_ylim() == figures[1].axes[0].get_ylim()


@pytest.fixture
def box():
    return trap_explore.samples_taken(NAIVE, OURS, "measured on a box")


def test_one_change_is_one_redraw_that_says_its_state(box):
    controls, picture = box.children
    slider, menu = controls.children
    assert (slider.min, slider.max, slider.value) == (1, 100, 3)
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    slider.value = 2
    menu.value = "the fastest call"
    alts = [re.search('alt="([^"]+)"', markup)[1] for markup in seen]
    assert len(alts) == 2
    assert "From the first 2 samples you would report 55.0 ms (20.0 to 90.0)" in alts[0]
    assert "Off by ×5.50; your interval misses it" in alts[0]
    assert "you would report 9.00 ms (no interval)" in alts[1]
    assert "Off by ÷1.11; your interval misses it" in alts[1]
    assert "Samples measured on a box.</figcaption>" in seen[1]
    assert plt.get_fignums() == []

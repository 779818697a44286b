"""Tables, figures and the explorer of notebook 04, on numbers worked by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.latency.explain import STEPS, waterfall
from fastlab.scores.scoreboard import HOLDOUTS, ROWS, Errors
from fastlab.spec import grid
from fastlab.view.explore import score as explore
from fastlab.view.plots.score import totals
from fastlab.view.tables import score as tables
from tests.figures.made import record
from tests.latency.fitting import calibrated


@pytest.fixture(scope="module")
def reference():
    (found,) = [r for r in fl.references() if r.folder.name == "xeon-2-threads"]
    return found


@pytest.fixture(scope="module")
def known(profile):
    return calibrated(profile, dispatch_s=3e-6)


@pytest.fixture(scope="module")
def three(device):
    """Hidden 256, 512 and 1024, all at twice their estimate."""
    points = grid(family="llama", layers=2, hidden=[256, 512, 1024], vocab=512)
    return [record(point, device, 2.0) for point in points]


POINTS = grid(
    family="llama", layers=2, hidden=256, phase=["prefill", "decode"], vocab=512
)


def test_a_common_factor_is_learned_from_the_other_sizes(three, device):
    rows = fl.tables.held_out(three, device)
    np.testing.assert_allclose(rows["ratio"], 1.0)
    np.testing.assert_allclose(rows["estimated_ms"], rows["measured_ms"])
    assert list(rows["hidden"]) == [256, 512, 1024]


def test_a_size_twice_as_slow_as_the_others_is_predicted_at_half(three, device):
    last = three[2]
    slow = replace(last.measured, seconds=2 * last.measured.seconds)
    rows = fl.tables.held_out([*three[:2], replace(last, measured=slow)], device)
    # The others: factors 2 and 2 -> 2 for the last (4 in truth); it spoils the others,
    # whose rest is (2, 4): median 3 instead of 2.
    np.testing.assert_allclose(rows["ratio"], [np.exp(-np.log(2) / 2)] * 2 + [2.0])


@pytest.mark.parametrize("runtime", ["cpu", "cuda"])
@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.workload.phase)
def test_the_steps_of_a_waterfall_sum_to_the_estimate(known, point, runtime):
    device = replace(known, kind=runtime)
    found = waterfall(point, device)
    (estimate,) = fl.estimate([point], device)
    assert tuple(found) == STEPS
    assert sum(found.values()) == pytest.approx(estimate.seconds)
    either = ("+ nearby", "+ whole call")
    assert min(found[step] for step in STEPS if step not in either) >= 0


def test_whole_calls_are_a_step_of_their_own(known):
    """x 1.5 on a CPU: half of what the operations take, the host apart."""
    alone = replace(known, kind="cpu")
    whole = replace(known.fits, whole={"fp32": 1.5})
    before, after = (
        waterfall(POINTS[0], d) for d in (alone, replace(alone, fits=whole))
    )
    operations = sum(before[step] for step in STEPS[:4])
    assert before["+ whole call"] == 0
    assert after["+ whole call"] == pytest.approx(0.5 * operations)
    assert {k: after[k] for k in STEPS if k != "+ whole call"} == pytest.approx(
        {k: before[k] for k in STEPS if k != "+ whole call"}
    )


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.workload.phase)
def test_without_fits_they_sum_to_the_lower_roofline(device, profile, point):
    for one in (device, profile):
        found = waterfall(point, one)
        (estimate,) = fl.estimate([point], one)
        assert sum(found.values()) == pytest.approx(estimate.low_s)
        assert found["+ nearby"] == found["+ launches"] == 0


def test_a_host_that_queues_ahead_adds_only_what_work_does_not_hide(device):
    """Of 1 us a launch: all of it on a CPU; on a GPU what exceeds the work."""
    point = POINTS[0]
    gpu = waterfall(point, replace(device, launch_s=1e-6))
    cpu = waterfall(point, replace(device, launch_s=1e-6, kind="cpu"))
    busy = gpu["math"] + gpu["+ bytes"]
    assert cpu["+ host"] == pytest.approx(
        1e-6 * fl.estimate([point], device)[0].launches
    )
    assert gpu["+ host"] == pytest.approx(max(cpu["+ host"] - busy, 0))


def test_the_residual_is_what_no_step_explains(device):
    row = record(POINTS[0], device, 3.0)
    steps = fl.tables.waterfalls([row], device)
    explained = sum(waterfall(POINTS[0], device).values())
    left = steps[steps["step"] == "residual"].iloc[0]
    assert left["ms"] == pytest.approx(1e3 * (row.measured.seconds - explained))
    assert left["from_ms"] == pytest.approx(1e3 * explained)
    assert "+ nearby" not in set(steps["step"])  # adds nothing to any point
    sums = totals(steps).set_index("step")["ms"]
    assert sums["measured"] == pytest.approx(1e3 * row.measured.seconds)
    assert sums["= estimate"] == pytest.approx(1e3 * explained)


def test_steps_stay_in_one_order_where_one_point_lacks_a_step(device):
    wide = grid(family="llama", layers=2, hidden=8192, prompt_len=4096, vocab=512)
    rows = [record(p, device, 1.0) for p in (*wide, POINTS[1])]
    steps = fl.tables.waterfalls(rows, device)
    names = [list(own["step"]) for _, own in steps.groupby("point", sort=False)]
    assert names[0] == names[1] == ["math", "+ bytes", "+ host", "residual"]
    assert steps["ms"].iloc[2] == 0  # hidden behind the work of the large one


def test_nothing_measured_is_said(device):
    lost = replace(record(POINTS[0], device, 1.0), measured=None, status="oom")
    with pytest.raises(ValueError, match=r"nothing measured to explain: .* oom"):
        fl.tables.waterfalls([lost], device)
    with pytest.raises(ValueError, match="no rows"):
        fl.tables.waterfalls([], device)


def test_a_waterfall_is_drawn_hatched_for_the_residual(device):
    steps = fl.tables.waterfalls([record(p, device, 2.0) for p in POINTS], device)
    figure = fl.plots.waterfalls(steps)
    labels = figure.axes[0].get_yticklabels()  # the panels share them
    for axes in figure.axes:
        looks = {
            label.get_text(): bar.get_hatch()
            for label, bar in zip(labels, axes.patches, strict=True)
        }
        assert [name for name, hatch in looks.items() if hatch] == ["residual"]
    text = fl.alt.waterfalls(steps, "on a box")
    assert text.count("stay unexplained") == 2
    assert "on a box" in text


ABLATED = pd.DataFrame(
    {
        "class": ["linear", "linear", "decode", "norm"],
        "precision": ["fp32", "bf16", "fp32", "fp32"],
        "full model": [10.0, 10.0, 20.0, 30.0],
        "without nearby": [15.0, 10.4, 19.0, 20.0],
        "without depth": [10.1, 9.9, 20.0, np.nan],
    }
)


def test_a_term_pays_where_more_fits_get_worse_without_it():
    """nearby: +5, +0.4 (same), -1: one worse, one better -> it does not pay."""
    found = fl.tables.terms(ABLATED).set_index(["left out", "among"])
    first = found.loc["nearby", "products, attention"]
    assert list(first[["fits", "worse", "same", "better"]]) == [3, 1, 1, 1]
    assert first["median change"] == pytest.approx(0.4)
    assert first["pays"] == "no"
    assert found.loc["nearby", "bytes moved"]["better"] == 1
    assert list(found.loc["depth"]["same"]) == [3]  # no fit of bytes has a depth


def test_the_ablation_of_the_reference(reference):
    """Stored calibration points: every fit has a line, and overhead pays."""
    samples = reference.samples
    some = [s for s in samples if s.precision == "fp32"]
    ablated = fl.tables.ablation(samples, reference.profile, ["fp32", "tf32"])
    assert set(ablated["precision"]) == {"fp32"}
    assert set(ablated["class"]) >= {"linear", "prefill", "decode", "norm"}
    assert ablated["samples"].sum() == len(some)
    linear = ablated.set_index("class").loc["linear"]
    assert linear["full model"] < linear["without nearby"]
    assert linear["full model"] < linear["datasheet roofline"]
    assert "without rows" not in ablated  # a term of fp8 and int8 only


def test_what_held_out_estimates_know_is_said_in_words():
    for name in (ROWS, *HOLDOUTS):
        assert fl.tables.knowing(name).endswith(" known (held out)")
    assert fl.tables.knowing("hidden") == "other hidden sizes known (held out)"


def test_a_guess_is_in_the_caption_and_none_is_not():
    assert fl.tables.guessed({"ours": None, "FLOPs / peak": None}) == ""
    some = fl.tables.guessed({"ours": None, "FLOPs / peak": 50.0})
    assert some == "; you guessed 50 % for FLOPs / peak"


def test_the_samples_behind_a_waterfall_are_counted(device):
    rows = [record(point, device, 2.0) for point in POINTS]
    assert re.match(r"2 points, medians of \d+ samples", fl.tables.sampled(rows))


def test_methods_are_sorted_and_noise_has_no_direction(reference):
    board = fl.score(reference.records, reference.profile)
    found = fl.tables.methods(board)
    assert list(found["median"]) == sorted(found["median"])
    noise = found.set_index("method").loc["repeat noise"]
    assert np.isnan(noise["bias"])
    figure = fl.plots.methods(found)
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert "repeat noise" not in names  # it is the grey area
    assert names[-1] == "fastlab, held out"
    ours = found.set_index("method").loc["fastlab, held out"]
    said = f"fastlab, held out {ours['median']:.3g} (p90 {ours['p90']:.3g})"
    assert said in fl.alt.methods(found, "x")


def test_hold_outs_of_the_reference(reference):
    found = fl.tables.holdouts(reference.records, reference.profile)
    assert list(found["left out"]) == [
        *("rows", "hidden", "seq", "batch", "layers", "family")
    ]
    assert found["median"].iloc[0] == found["median"].min()
    assert found["inside"].between(70, 100).all()


def test_a_field_of_one_value_says_why_not(three, device):
    found = fl.tables.holdouts(three, device).set_index("left out")
    assert "two values of batch or more" in found.loc["batch", "why not"]
    assert found.loc["hidden", "times"] == 3


def test_errors_by_hand():
    made = fl.tables.errors([Errors.of("a", np.array([1.1, 0.8]), np.ones(2))])
    assert made.iloc[0].to_dict() == pytest.approx(
        {"method": "a", "n": 2, "median": 15, "mean": 15, "p90": 19, "bias": -5}
    )


def test_what_estimates_stand_on(device, known):
    plain, fitted = (fl.tables.calibration(d).iloc[0] for d in (device, known))
    assert "type" not in plain["estimates from"]
    assert "`fastlab calibrate`" in plain["estimates from"]
    assert (fitted["points"], fitted["seconds"]) == (111, 41.0)


def test_tables_of_errors_have_one_decimal_and_keep_zeros():
    table = pd.DataFrame({"n": [1000, 0], "bias": [-0.04, np.nan], "spearman": 0.978})
    html = fl.neat(table, decimals=1).to_html()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
    assert cells == ["1,000", "-0.0", "0.98", "0", "", "0.98"]


@pytest.fixture
def box(reference):
    return fl.explorers.held_out(reference.records, reference.profile, "on a box")


def parts(box):
    controls, picture = box.children
    return (*controls.children, picture)


def alt(picture):
    return re.search('alt="([^"]+)"', picture.value)[1]


def test_the_explorer_predicts_a_value_from_the_others(box, reference):
    field, value, picture = parts(box)
    rows = tables.held_out(reference.records, reference.profile)
    most = int(rows["hidden"].value_counts().max())
    assert field.value == "hidden"  # and the value that most rows have
    mine = rows[rows["hidden"] == value.value]
    assert len(mine) == most
    median = (100 * (1 / mine["ratio"] - 1)).abs().median()
    assert f"hidden {value.value} left out, {most} rows" in alt(picture)
    assert f"median error {median:.1f} %" in alt(picture)


def test_another_field_brings_its_own_values_and_one_redraw(box):
    field, value, picture = parts(box)
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    field.value = "family"
    assert value.options == ("bert", "gpt2", "llama", "qwen3")
    assert value.value == "llama"
    value.value = "bert"
    assert "family bert left out, 24 rows" in alt(picture)
    value.value = "gpt2"
    assert "family gpt2 left out, 72 rows" in alt(picture)
    assert len(seen) == 3


def test_only_fields_with_two_values_are_offered(three, device):
    assert explore.fields_of(three) == ["hidden"]
    field, _, _ = parts(fl.explorers.held_out(three, device))
    assert field.options == ("hidden",)


def test_a_redraw_predicts_nothing_anew(box, monkeypatch):
    def refuse(*_):
        raise AssertionError("predicted again")

    monkeypatch.setattr(explore, "left_out_of", refuse)
    value = parts(box)[1]
    for chosen in value.options[1:]:
        value.value = chosen

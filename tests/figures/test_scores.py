"""Held-out rows, methods, waterfalls, terms: by hand, and of the stored reference."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.figures import scores
from fastlab.latency.explain import waterfall
from fastlab.latency.samples import ATTENTION
from fastlab.scores.scoreboard import HOLDOUTS
from fastlab.spec import grid
from fastlab.words import digits
from tests.cells import run_cells
from tests.figures.checks import faults
from tests.figures.made import record
from tests.latency.fitting import calibrated
from tests.pins import compare

NOTEBOOK = "04_estimate_vs_measured"
POINTS = grid(
    family="llama", layers=2, hidden=256, phase=["prefill", "decode"], vocab=512
)
LOOKED = {"layers": 8, "hidden": 768, "vocab": 8192, "phase": ["prefill", "decode"]}


@pytest.fixture(scope="module")
def reference():
    (own,) = [r for r in fl.references() if r.folder.name == "xeon-2-threads"]
    return own


@pytest.fixture(scope="module")
def board(reference):
    return fl.score(reference.records, reference.profile)


@pytest.fixture(scope="module")
def ablated(reference):
    return ablation(reference, ["fp32", "bf16", "fp16"])


def ablation(reference, precisions, folds=1000):
    """What the cells of fits without a term leave behind; each sample left out."""
    given = {"run": Mock(reference=reference), "precisions": precisions, "pd": pd}
    given["folds"] = folds
    return run_cells(NOTEBOOK, "ablation", "ablated", "farthest", **given)


@pytest.fixture(scope="module")
def explorer(reference):
    run = Mock(profile=reference.profile, caption="on a box")
    given = {"records": reference.records, "run": run, "HOLDOUTS": HOLDOUTS}
    return run_cells(NOTEBOOK, "explorer", **given, holdout="hidden")["shown"]


@pytest.fixture(scope="module")
def three(device):
    """Hidden 256, 512 and 1024, all at twice their estimate."""
    points = grid(family="llama", layers=2, hidden=[256, 512, 1024], vocab=512)
    return [record(point, device, 2.0) for point in points]


def test_a_common_factor_is_learned_from_the_other_sizes(three, device):
    rows = scores.held_out(three, device)
    np.testing.assert_allclose(rows["ratio"], 1.0)
    np.testing.assert_allclose(rows["estimated_ms"], rows["measured_ms"])
    assert list(rows["hidden"]) == [256, 512, 1024]


def test_a_size_twice_as_slow_as_the_others_is_predicted_at_half(three, device):
    last = three[2]
    slow = replace(last.measured, seconds=2 * last.measured.seconds)
    rows = scores.held_out([*three[:2], replace(last, measured=slow)], device)
    # The others: factors 2 and 2 -> 2 for the last (4 in truth); it spoils the others,
    # whose rest is (2, 4): median 3 instead of 2.
    np.testing.assert_allclose(rows["ratio"], [np.exp(-np.log(2) / 2)] * 2 + [2.0])


def test_by_hand_a_constant_is_learned_from_other_values_only(reference):
    """The article's error by hand is the scoreboard's, which sees the same rows."""
    rows = scores.held_out(reference.records, reference.profile)
    run = Mock(profile=reference.profile)
    given = {"rows": rows, "records": reference.records, "run": run, "pd": pd}
    cells = "by-hand", "by-hand-check"
    found = run_cells(NOTEBOOK, *cells, **given, holdout="hidden")["errors"]
    errors = found.set_index("prediction")["median error, %"]
    by_hand = errors["by hand: article x constant"]
    assert by_hand == pytest.approx(errors["fl.score: article x constant"])
    assert errors["by hand: ours x constant"] < errors["fl.score: fastlab, no row used"]


def rows_of(device, factor):
    return fl.table([record(point, device, factor) for point in POINTS])


def test_the_residual_is_what_no_step_explains(device):
    row = record(POINTS[0], device, 3.0)
    figure = scores.waterfalls(fl.table([row]), device)
    steps, explained = figure.table, sum(waterfall(POINTS[0], device).values())
    left = steps[steps["step"] == "residual"].iloc[0]
    assert left["ms"] == pytest.approx(1e3 * (row.measured.seconds - explained))
    assert left["from_ms"] == pytest.approx(1e3 * explained)
    assert left["measured_ms"] == pytest.approx(1e3 * row.measured.seconds)
    assert left["estimated_ms"] == pytest.approx(1e3 * explained)
    assert "+ nearby" not in set(steps["step"])  # adds nothing to any point
    said = f"{digits(left['ms'])} of {digits(left['measured_ms'])} ms measured"
    assert figure.title.startswith(f"What no step explains: {said}")


def test_steps_stay_in_one_order_where_one_point_lacks_a_step(device):
    wide = grid(family="llama", layers=2, hidden=8192, prompt_len=4096, vocab=512)
    sheet = device.sheet  # launches hide behind the work of the large one
    rows = fl.table([record(p, sheet, 1.0) for p in (*wide, POINTS[1])])
    steps = scores.waterfalls(rows, sheet).table
    names = [list(own["step"]) for _, own in steps.groupby("point", sort=False)]
    assert names[0] == names[1] == ["math", "+ bytes", "+ host", "residual"]
    assert steps["ms"].iloc[2] == 0


def test_nothing_measured_is_said(device):
    lost = replace(record(POINTS[0], device, 1.0), measured=None, status="oom")
    assert (
        scores.waterfalls(fl.table([lost]), device).title == "nothing measured: 1 oom"
    )
    assert "nothing measured" in scores.waterfalls(fl.table([]), device).title


ABLATED = pd.DataFrame(
    {
        "class": ["linear", "linear", "decode", "norm"],
        "precision": ["fp32", "bf16", "fp32", "fp32"],
        "full model": [10.0, 10.0, 20.0, 30.0],
        "without nearby": [15.0, 10.4, 19.0, 20.0],
        "without depth": [10.1, 9.9, 20.0, np.nan],
    }
)


def terms(ablated):
    without = [name for name in ablated if name.startswith("without ")]
    given = {"ATTENTION": ATTENTION, "ablated": ablated, "without": without}
    return run_cells(NOTEBOOK, "terms", "pays", **given)["shown"]


def test_a_term_pays_where_more_fits_get_worse_without_it():
    """nearby: +5, +0.4 (same), -1: one worse, one better -> it does not pay."""
    found = terms(ABLATED).set_index(["left out", "among"])
    first = found.loc["nearby", "products, attention"]
    assert list(first[["fits", "worse", "same", "better"]]) == [3, 1, 1, 1]
    assert first["median change"] == pytest.approx(0.4)
    assert first["pays"] == "no"
    assert found.loc["nearby", "bytes moved"]["better"] == 1
    assert list(found.loc["depth"]["same"]) == [3]  # no fit of bytes has a depth


def test_the_ablation_of_the_reference(reference):
    """Stored calibration points: every fit has a line, and overhead pays."""
    some = [s for s in reference.samples if s.precision == "fp32"]
    found = ablation(reference, ["fp32", "tf32"])["ablated"]
    assert set(found["precision"]) == {"fp32"}
    assert set(found["class"]) >= {"linear", "prefill", "decode", "norm"}
    assert found["samples"].sum() == len(some)
    linear = found.set_index("class").loc["linear"]
    assert linear["full model"] < linear["without nearby"]
    assert linear["full model"] < linear["datasheet roofline"]
    assert "without rows" not in found  # a term of fp8 and int8 only


def test_the_table_has_a_line_a_class_and_tells_which_fit_is_farthest_off(ablated):
    """copy, bf16: 0.13, 8.4 and 268 MB, in cache and out, each from the others."""
    page, fits = ablated["shown"], ablated["ablated"]
    assert len(page) == fits["class"].nunique() == 15
    assert list(page["full model"]) == sorted(page["full model"])
    assert page["fits"].sum() == len(fits)
    assert len(page.columns) <= 9
    assert page["datasheet"].notna().all()
    last = page.iloc[-1]
    copies = fits[fits["class"] == "copy"]["full model"]  # in three formats
    assert (last["class"], last["full model"]) == ("copy", sorted(copies)[1])
    said = ablated["words"]
    assert "farthest off: copy in bf16, 293 %: of its 3 samples" in said
    assert "2,033 times the bytes" in said  # 268,500,992 / 132,096


def test_fewer_folds_tell_nearly_the_same_and_classes_of_few_keep_theirs(
    reference, ablated
):
    parts = ablation(reference, ["fp32"], 4)["ablated"].set_index("class")
    every = ablated["ablated"].query("precision == 'fp32'").set_index("class")
    few = every.index[every["samples"] <= 4]
    pd.testing.assert_frame_equal(every.loc[few, parts.columns], parts.loc[few])
    assert 0.8 < (parts["full model"] / every["full model"]).median() < 1.4


def test_methods_are_sorted_and_noise_has_no_direction(board):
    figure = scores.methods(board)
    rows, (panel,) = figure.table, figure.panels
    assert faults(figure) == []
    assert list(rows["median"]) == sorted(rows["median"])
    assert np.isnan(rows.set_index("method").loc["repeat noise"]["bias"])
    assert panel.y.names[0] == "fastlab, held out"
    assert figure.title.startswith("fastlab, held out: 6.1 % off in the median of 418")


def hold_outs(records, profile):
    given = {"run": Mock(profile=profile), "records": records, "pd": pd}
    return run_cells(NOTEBOOK, "holdouts", "hard", **given)["shown"]


def test_hold_outs_of_the_reference(reference):
    found = hold_outs(reference.records, reference.profile)
    assert list(found["left out"]) == [
        *("rows", "hidden", "seq", "batch", "layers", "family")
    ]
    assert found["median"].iloc[0] == found["median"].min()
    assert found["inside"].between(70, 100).all()
    assert compare(f"{NOTEBOOK}_08", found) == []


def test_a_field_of_one_value_says_why_not(three, device):
    found = hold_outs(three, device).set_index("left out")
    assert "two values of batch or more" in found.loc["batch", "why not"]
    assert found.loc["hidden", "times"] == 3


def stands_on(profile):
    return run_cells(NOTEBOOK, "calibration", run=Mock(profile=profile), pd=pd)["shown"]


def test_what_estimates_stand_on(device, profile):
    fits = calibrated(profile, dispatch_s=3e-6)
    plain, fitted = (stands_on(d).iloc[0] for d in (device, fits))
    assert "type" not in plain["estimates from"]
    assert "`fastlab calibrate`" in plain["estimates from"]
    assert (fitted["points"], fitted["seconds"]) == (111, 41.0)


def test_figures_and_tables_have_the_pinned_rows(reference, board, ablated):
    points = fl.grid(family="llama", precision="fp32", prompt_len=128, **LOOKED)
    looked = fl.rows.only(fl.table(reference.records), points)
    held = scores.held_out(reference.records, reference.profile)
    assert {
        name: problems
        for name, rows in {
            "scatter": fl.figures.sweep.scatter(held).table,
            "methods": scores.methods(board).table,
            "waterfalls": scores.waterfalls(looked, reference.profile).table,
            "04": stands_on(reference.profile),
            "07": run_cells(NOTEBOOK, "groups", board=board, pd=pd)["shown"],
            "09": run_cells(NOTEBOOK, "speedups", board=board, pd=pd)["shown"],
            "11": ablated["ablated"],
            "12": terms(ablated["ablated"]),
        }.items()
        if (problems := compare(f"{NOTEBOOK}_{name}", rows))
    } == {}


def test_the_explorer_predicts_a_value_from_the_others(explorer, reference):
    rows = scores.held_out(reference.records, reference.profile)
    counts = rows["hidden"].value_counts()
    assert explorer.state == {"field": "hidden", "left_out": 512}  # most rows have it
    assert counts.idxmax() == 512
    mine = rows[rows["hidden"] == 512]
    median = (100 * (1 / mine["ratio"] - 1)).abs().median()
    figure = explorer.make(**explorer.state)
    assert figure.title.startswith(f"hidden 512 left out, {len(mine)} rows:")
    assert f"median error {median:.1f} %" in figure.title
    assert len(figure.table) == len(rows)
    assert (figure.table["left_out"] == 512).sum() == len(mine)


def test_a_redraw_predicts_nothing_anew(explorer, monkeypatch):
    explorer.make(field="hidden", left_out=512)

    def refuse(*_):
        raise AssertionError("predicted again")

    monkeypatch.setattr(scores, "predictions", refuse)
    for value in explorer.options["left_out"]({"field": "hidden"}):
        explorer.make(field="hidden", left_out=value)

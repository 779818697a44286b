"""Figures and explorers of layers, widths and phases, by numbers worked out."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.figures import sweep
from fastlab.latency.costs import costs_of
from fastlab.spec import grid
from fastlab.words import digits
from tests.cells import run_cells
from tests.figures.checks import faults
from tests.figures.made import measurement, record, texts


def test_the_cells_of_the_heatmaps_hold_the_rows_numbers(rows):
    figure = sweep.heatmaps(rows, "prefill", "fp32")
    chosen = rows[(rows.phase == "prefill") & (rows.precision == "fp32")]
    assert texts(figure, 0) == [digits(v) for v in chosen["measured_ms"]]
    assert texts(figure, 1) == [digits(v) for v in chosen["estimated_ms"]]
    assert texts(figure, 2) == ["×1.20"] * 4
    assert texts(sweep.heatmaps(rows, "decode", "bf16"), 2) == ["÷2.00"] * 4
    assert faults(figure) == []


def test_cells_without_a_value_say_why(changed):
    gone = changed(0, status="oom", measured=None)
    assert texts(sweep.heatmaps(gone, "prefill", "fp32"), 0)[0] == "oom"
    refused = changed(0, status="unsupported", measured=None, estimate=None)
    assert texts(sweep.heatmaps(refused, "prefill", "fp32"), 2)[0] == "unsupported"


@pytest.mark.parametrize(("n", "spread"), [(3, 0.02), (50, 0.4)])
def test_an_unsettled_cell_is_marked_and_leaves_the_scale_alone(changed, n, spread):
    wild = changed(0, measured=measurement(9.0, n, spread))
    figure = sweep.heatmaps(wild, "prefill", "fp32")
    assert texts(figure, 0)[0] == "~9,000"
    assert "~ few samples" in figure.title
    faces = [patch.get_facecolor() for patch in figure.draw().axes[0].patches]
    calm = sweep.heatmaps(changed(0, measured=None), "prefill", "fp32").draw()
    rest = [patch.get_facecolor() for patch in calm.axes[0].patches]
    assert faces[1:] == rest[1:]


def test_heatmaps_refuse_what_they_cannot_show(rows):
    with pytest.raises(ValueError, match="no rows for fp16 prefill; there are bf16 de"):
        sweep.heatmaps(rows, "prefill", "fp16")
    with pytest.raises(ValueError, match="several rows for 2 layers x 256"):
        sweep.heatmaps(pd.concat([rows, rows]), "prefill", "fp32")


def test_the_scatter_draws_every_point_and_says_how_good_they_are(rows):
    figure = sweep.scatter(rows)
    # ratios: eight times 1.2, eight times 0.5
    how, found, worst = figure.title.split("\n")
    assert how == "Estimates, no row used"
    assert found == "measured / estimated: median ÷1.18, 8 of 16 within ×1.25"
    assert worst.startswith("farthest llama 2x256 bf16") and "÷2.00" in worst
    (panel,) = figure.panels
    ring, *layers = panel.layers  # around the farthest
    assert len(ring.rows) == 1
    assert sum(len(layer.rows) for layer in layers) == 16
    assert [layer.name for layer in layers] == [
        *("fp32 prefill", "fp32 decode", "bf16 prefill", "bf16 decode"),
    ]
    assert faults(figure) == []


def test_formats_of_one_colour_have_different_marks(rows):
    alike = ("fp16", "int4-g32", "int4-g64", "int4-g128")
    every = pd.concat([rows, *(rows.assign(precision=name) for name in alike)])
    lines = sweep.scatter(every).draw().axes[0].lines
    fills = {line.get_label(): line.get_fillstyle() for line in lines}
    assert fills["bf16 prefill"] == "full"
    assert fills["fp16 prefill"] == "left"
    assert len({fills[f"{name} decode"] for name in alike[1:]}) == 3


def test_a_scatter_of_nothing_says_what_there_is(changed):
    none = changed(0, status="oom", measured=None).head(1)
    assert sweep.scatter(none).tell() == "nothing measured: 1 oom."
    assert sweep.pairs(none).tell() == "nothing measured: 1 oom."


def test_a_line_for_every_point_with_its_ratio(rows):
    figure = sweep.pairs(rows)
    assert texts(figure, 0).count("×1.20") == texts(figure, 0).count("÷2.00") == 8
    assert "ratio" in texts(figure, 0)
    assert figure.title == "measured / estimated: 8 of 16 within ×1.25"
    assert faults(figure) == []


def test_by_hand_depth_is_a_straight_line_and_a_layer_has_the_counted_flops(rows):
    """Time is made 3 + 2 x layers: both come out, whatever the width."""
    first = rows[(rows.phase == "prefill") & (rows.precision == "fp32")]
    first = first.assign(measured_ms=3.0 + 2.0 * first.layers)
    given = {"family": "llama", "prompt_len": 128, "batch": 1, "phases": ["prefill"]}
    cells = "by-hand", "by-hand-widths", "by-hand-check"
    found = run_cells("05_layers", *cells, **given, first=first, pd=pd)["shown"]
    assert found["once ms"].tolist() == pytest.approx([3.0, 3.0])
    assert found["ms a layer"].tolist() == pytest.approx([2.0, 2.0])
    assert 3 < found["× FLOPs"].iloc[-1] < 4  # twice as wide; attention grows less


def operations(point, device):
    given = {"run": Mock(points=[point], profile=device)}
    return run_cells("05_layers_by_hidden", "operations", "costliest", **given, pd=pd)[
        "ops"
    ]


def test_the_operations_table_adds_up(points, device):
    found = operations(points[0], device)
    flops, *_, launches = costs_of(points[0]).totals
    assert found["GFLOP"].sum() == pytest.approx(flops / 1e9)
    assert found["launches"].sum() == launches
    assert found["share"].sum() == pytest.approx(1)
    (estimate,) = fl.estimate(points[:1], device)
    assert found["ms"].sum() == pytest.approx(1e3 * estimate.seconds)
    assert found["ms"].is_monotonic_decreasing


def test_without_a_device_operations_are_ordered_by_their_flops(points, device):
    lacking = replace(device, peak_flops={"fp16": 1e12})
    for unable in (None, lacking):
        found = operations(points[0], unable)
        assert "ms" not in found
        assert found["GFLOP"].is_monotonic_decreasing
        assert found["share"].sum() == pytest.approx(1)


def test_the_rows_that_exercise_4_names_are_estimates():
    from fastlab.notebook.exercises import EXERCISES

    known = [EXERCISES["05_4"].answer, *(w["answer"] for w in EXERCISES["05_4"].wrong)]
    for row in known:
        shape = {"layers": row["layers"], "hidden": row["hidden"]}
        (found,) = fl.estimate(
            grid(family="llama", vocab=8192, **shape), fl.device("t4")
        )
        assert (found.parameters, found.launches) == (
            row["parameters"],
            row["launches"],
        )


@pytest.fixture
def chosen(rows):
    return sweep.choose(rows, "prefill", "fp32")


def test_the_curve_is_the_estimate_for_layers_that_nobody_measured(chosen, device):
    found = sweep.curve(chosen, device, 20)
    point = grid(family="llama", layers=20, hidden=[256, 320, 512], vocab=512)
    wanted = [e.seconds * 1e3 for e in fl.estimate(point, device)]
    by_hidden = found.set_index("hidden")["estimated_ms"]
    np.testing.assert_allclose(by_hidden[[256, 320, 512]], wanted)
    assert list(found["hidden"]) == [256, 320, 384, 448, 512]


def test_the_curve_agrees_with_the_rows_where_there_are_rows(chosen, device):
    found, stored = (
        sweep.curve(chosen, profile, 4).set_index("hidden")
        for profile in (device, None)
    )
    np.testing.assert_allclose(found.loc[[256, 512]], stored.loc[[256, 512]])


def test_without_a_profile_only_measured_depths_have_a_curve(chosen):
    assert sweep.curve(chosen, None, 3).empty
    figure = sweep.by_hidden(chosen, None, 3, "fp32", "prefill")
    assert "estimated only" in figure.title


def test_unusual_heads_are_kept_and_nothing_is_put_in_between(device):
    odd = grid(family="llama", layers=2, hidden=[256, 512], heads=2, vocab=512)
    rows = fl.table(record(p, device, 1.0) for p in odd)
    assert list(sweep.curve(rows, device, 4)["hidden"]) == [256, 512]


def test_the_axes_stay_while_the_slider_moves(rows, device):
    given = {"rows": rows, "layers": [2, 4], "phases": ["prefill", "decode"]}
    run = Mock(profile=device, caption="made by hand")
    given |= {"precisions": ["fp32", "bf16"], "run": run}
    explorer = run_cells("05_layers_by_hidden", "explorer", **given)["shown"]
    assert explorer.state == {"layers": 4, "precision": "fp32", "phase": "prefill"}
    limits = [
        explorer.make(**(explorer.state | {"layers": n})).panels[0].y.limits
        for n in (1, 8)
    ]
    assert limits[0] == limits[1]


def test_every_device_is_estimated(points, device):
    here = replace(device.sheet, name="box", kind="cpu", bandwidth=1e10).stamped()
    devices = [here, fl.device("t4"), device]
    deep = replace(points[0], shape=replace(points[0].shape, layers=20))
    (estimate,) = fl.estimate([deep], fl.device("t4"))
    figure = sweep.on_devices(points[0], devices, 20)
    said = f"{digits(1e3 * estimate.seconds)} at Tesla T4 (prior of other GPUs)"
    assert said in figure.tell()
    assert "20 layers x 256, prefill, 128 tokens" in figure.title
    for count in (1, 64):
        figure = sweep.on_devices(points[0], devices, count)
        low, high = figure.panels[0].x.limits
        assert low < figure.table["estimated_low_ms"].min()
        assert figure.table["estimated_high_ms"].max() < high

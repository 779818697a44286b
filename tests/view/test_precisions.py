"""Speed-ups of precisions: worked numbers, what the figures say, and the explorer."""

from __future__ import annotations

import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab import machine
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.notebook.exercises import EXERCISES
from fastlab.record import Effective, Quality
from fastlab.spec.precision import PRECISIONS
from fastlab.view.plots.precisions import known
from fastlab.view.style import COLORS
from fastlab.view.words import times
from tests.figures.made import record

explore = sys.modules[fl.explorers.paying.__module__]
tables = sys.modules[fl.tables.gains.__module__]
SMALL = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512, "prompt_len": 64}
NAMES = ["fp32", "bf16", "int8", "int4-g128"]
FACTORS = {"fp32": 1.0, "bf16": 1.0, "int8": 1.5, "int4-g128": 2.0}


def made(device, **lists):
    """Records whose clock says so many times the estimate; int8 lost 0.01 nats."""
    quality = Quality("dense fp32", "", 0.01, 0.875, 0.5)
    found = []
    for point in fl.grid(**SMALL, precision=NAMES, **lists):
        name = point.recipe.precision
        stored = Effective("bfloat16", "sdpa", 100, 2_000_000)
        lost = quality if name == "int8" else None
        over = {"effective": stored, "quality": lost}
        found.append(record(point, device, FACTORS[name], **over))
    return found


@pytest.fixture(scope="module")
def device():
    return fl.device("h200")


@pytest.fixture(scope="module")
def records(device):
    return made(device, phase=["prefill", "decode"])


@pytest.fixture(scope="module")
def table(records, device):
    return fl.tables.gains_of(records, device)


def line(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_precision_has_a_colour():
    assert set(PRECISIONS) <= set(COLORS)


def test_a_gain_is_the_baselines_time_over_ones_own(table):
    for phase in ("prefill", "decode"):
        base, own = (line(table, precision=p, phase=phase) for p in ("bf16", "int8"))
        gain = base["estimated_ms"] / own["estimated_ms"]
        assert own["estimated_gain"] == pytest.approx(gain)
        assert own["measured_gain"] == pytest.approx(gain / 1.5)
        assert base["measured_gain"] == base["estimated_gain"] == 1.0


def test_rows_are_the_tokens_that_a_call_computes(device):
    points = fl.grid(**SMALL, batch=4, phase=["prefill", "decode"])
    assert [tables.rows_of(point) for point in points] == [256, 4]


def test_fp32_is_the_reference_and_unjudged_precisions_have_no_quality(table):
    reference = line(table, precision="fp32", phase="decode")
    assert (reference["kl_nats"], reference["top1"], reference["max_abs"]) == (0, 1, 0)
    assert line(table, precision="int8", phase="prefill")["kl_nats"] == 0.01
    assert not known(line(table, precision="bf16", phase="prefill")["kl_nats"])


def test_quality_comes_from_any_row_of_the_same_model(device):
    plain = [replace(r, quality=None) for r in made(device, phase="decode")]
    assert not fl.tables.gains_of(plain, device)["kl_nats"].map(known).iloc[2]
    other = made(device, phase="decode", batch=4)
    found = fl.tables.gains_of(plain, device, known=other)
    assert line(found, precision="int8")["kl_nats"] == 0.01
    packed = made(device, phase="decode", cache="static-int8")
    found = fl.tables.gains_of(plain, device, known=packed)
    assert not known(line(found, precision="int8")["kl_nats"])


def test_estimates_are_of_one_profile_and_stored_ones_only_without_it(records):
    slow = replace(fl.device("h200"), bandwidth=1e9)
    fresh, kept = (fl.tables.gains_of(records, d) for d in (slow, None))
    assert (fresh["estimated_ms"] > kept["estimated_ms"]).all()
    expected = [r.estimate.seconds * 1e3 for r in records]
    assert kept["estimated_ms"].tolist() == pytest.approx(expected)


def test_what_was_not_measured_or_has_no_baseline_has_no_gain(records, device):
    reason = "needs a matrix unit"
    absent = replace(records[0], status="unsupported", measured=None, reason=reason)
    found = fl.tables.gains_of([absent, *records[1:]], device, "fp32")
    assert line(found, precision="fp32", phase="decode")["measured_gain"] == 1.0
    prefill = found[found["phase"] == "prefill"]
    assert prefill["measured_gain"].isna().all()
    assert found["reason"].iloc[0] == reason
    figure = fl.plots.trade(found, "fp32")
    assert any(text.startswith("unsupported") for text in texts(figure.axes[0]))
    assert "fp32: prefill unsupported" in fl.alt.trade(found, "by hand", "fp32")


def test_a_precision_that_the_device_lacks_is_not_estimated(device):
    (point,) = fl.grid(**SMALL, precision="fp8")
    stored = record(point, device, 1.0)
    t4 = fl.device("t4")
    assert fl.tables.gains_of([stored], t4)["estimated_ms"].isna().all()
    assert not tables.runs(t4, "fp8")
    assert not tables.runs(t4, "bf16")
    assert tables.runs(device, "fp8-dynamic")


def test_bytes_alone_and_arithmetic_alone_by_hand(device):
    rates = {"fp32": 1e12, "bf16": 1e12, "int8": 2e12}
    simple = replace(device, peak_flops=rates, bandwidth=1e9, launch_s=0.0)
    points = fl.grid(**SMALL, precision=["bf16", "int8", "int8-dynamic"])
    found = fl.tables.reasons(points, simple).set_index("precision")
    gflop, mb = found["GFLOP"], found["MB moved"]
    assert found["memory ms"].tolist() == pytest.approx(mb.tolist())  # MB / (1 GB/s)
    assert found["arithmetic ms"]["bf16"] == pytest.approx(gflop["bf16"])
    assert found["arithmetic ms"]["int8"] == pytest.approx(gflop["bf16"])
    # the layers at twice the rate; attention and the dense head as before
    dynamic = found["arithmetic ms"]["int8-dynamic"]
    assert gflop["bf16"] / 2 < dynamic < gflop["bf16"]
    assert mb["int8"] > mb["bf16"]  # 64 rows: weights are written out in 16 bit first


def test_at_decode_int8_moves_fewer_bytes(device):
    points = fl.grid(**SMALL, precision=["bf16", "int8", "int4-g128"], phase="decode")
    moved = fl.tables.reasons(points, device)["MB moved"].tolist()
    assert moved == sorted(moved, reverse=True)


def test_a_curve_is_a_ratio_of_estimates(device):
    (point,) = fl.grid(**SMALL, phase="decode")
    curves = fl.tables.gain_curves(point, device, ["int8", "bf16"], 64)
    assert list(curves) == ["bf16", "int8"]
    a, b = fl.grid(**SMALL, phase="decode", batch=64, precision=["bf16", "int8"])
    wanted = fl.estimate([a], device)[0].seconds / fl.estimate([b], device)[0].seconds
    assert curves["int8"]["gain"].tolist()[-1] == pytest.approx(wanted)
    with pytest.raises(ValueError, match="no bf16"):
        fl.tables.gain_curves(point, fl.device("t4"), ["int8"], 1)


def test_groups_that_do_not_divide_have_no_curve(device):
    (point,) = fl.grid(family="llama", layers=1, hidden=192, vocab=512, phase="decode")
    curves = fl.tables.gain_curves(point, device, ["int4-g64", "int4-g128"], 2)
    assert list(curves) == ["bf16", "int4-g64"]


@pytest.mark.parametrize(
    ("gain", "wanted"),
    [([2, 2, 0.5], 8.0), ([2, 1.5, 1.2], np.inf), ([0.9, 0.8, 0.5], 1.0)],
)
def test_the_crossing_lies_between_batches(gain, wanted):
    # from x2 at batch 4 to /2 at 16, log-log: x1 half way, at 8
    curve = pd.DataFrame({"batch": [1, 4, 16], "gain": gain})
    assert tables.crossing(curve) == pytest.approx(wanted)


def test_calls_of_several_tables_stand_once(table, device):
    more = fl.tables.gains_of(made(device, phase="decode", batch=[1, 4]), device)
    joined = fl.tables.together(table, more)
    assert len(joined) == len(table) + len(NAMES)
    assert len(fl.tables.together(table.iloc[:0], more)) == len(more)


def test_the_spread_is_told_in_words(table):
    words = "n 20 to 20, 95 % intervals ±2.0 % in the median, ±2 % at most"
    assert fl.tables.spread(table) == words
    assert fl.tables.spread(table.assign(n=None)) == "nothing measured"


def test_the_figure_shows_time_bytes_and_quality(table):
    figure = fl.plots.trade(table)
    prefill, decode, stored, lost = figure.axes
    assert prefill.get_title(loc="left") == "prefill: 64 rows in each product"
    assert decode.get_title(loc="left") == "decode: 1 row in each product"
    filled = [n for n in prefill.lines if n.get_markerfacecolor() == COLORS["int8"]]
    hollow = [n for n in prefill.lines if n.get_markerfacecolor() == "white"]
    assert filled
    assert len(hollow) == len(NAMES)
    assert texts(stored) == ["2.00"] * len(NAMES)
    assert {"the reference", "87.5%, 0.5"} <= set(texts(lost))
    text = fl.alt.trade(table, "by hand")
    assert "KL 0.01, top-1 87.5%" in text
    assert text.endswith("by hand.")


def test_the_reasons_have_a_panel_for_each_call(device, table):
    points = fl.grid(**SMALL, precision=NAMES, phase=["prefill", "decode"])
    found = fl.tables.reasons(points, device)
    figure = fl.plots.reasons(found, device.name, table)
    diamonds = [n for n in figure.axes[0].lines if n.get_marker() == "D"]
    assert len(diamonds) == len(NAMES) + 1  # and the legend's
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["decode, 1 row", "prefill, 64 rows"]
    assert "decode, rows 1, int8: arithmetic" in fl.alt.reasons(found, device.name)


def test_the_batch_figure_has_lines_marks_and_names(device):
    (point,) = fl.grid(**SMALL, phase="decode")
    curves = fl.tables.gain_curves(point, device, NAMES, 16)
    rows = fl.tables.gains_of(made(device, phase="decode", batch=[1, 4]), device)
    figure = fl.plots.by_batch(curves, "title", "bf16", rows)
    (axes,) = figure.axes
    marks = [n for n in axes.lines if n.get_marker() == "^"]
    assert len(marks) == 2 * (len(NAMES) - 1)
    assert {"fp32", "bf16", "int8, KL 0.01"} <= set(texts(axes))
    text = fl.alt.by_batch(curves, "by hand", "bf16", rows)
    gain = line(rows, precision="int8", batch=4)["measured_gain"]
    assert f"int8 batch 4 {times(gain)}" in text


def test_promises_are_scored_by_their_side_of_one(table):
    figure = fl.plots.promised(table)
    title = figure.axes[0].get_title(loc="left")
    both = table[table["precision"] != "bf16"]
    made_gain, found = both["estimated_gain"], both["measured_gain"]
    side = int((np.log(made_gain) * np.log(found) > 0).sum())
    assert title.startswith(f"{side} of {len(both)} on the right side of ×1")
    # int8 takes 1.5 times its estimate, int4 twice, fp32 no more: the middle is 1.5
    assert title.endswith("median off by a factor of 1.50")
    assert title in fl.alt.promised(table, "by hand")


def test_nothing_to_compare_is_said(table):
    alone = table[table["precision"] == "bf16"]
    title = fl.plots.promised(alone).axes[0].get_title(loc="left")
    assert title == "no precision beside bf16 was measured"
    assert "An empty figure" in fl.alt.promised(alone, "by hand")


def test_eager_and_compiled_stand_on_one_line(device):
    eager = fl.tables.gains_of(made(device, phase="decode"), device)
    compiled = fl.tables.gains_of(
        made(device, phase="decode", runtime="decoder"), device
    ).assign(compile_s=12.0)
    both = fl.tables.together(eager, compiled)
    (axes,) = fl.plots.engines(both).axes
    ratio = eager["measured_ms"][2] / compiled["measured_ms"][2]
    assert texts(axes).count("12.0") == len(NAMES)
    assert times(ratio) in texts(axes)
    (axes,) = fl.plots.engines(eager).axes
    assert texts(axes).count("eager only") == len(NAMES)
    assert "decoder" in fl.alt.engines(both, "by hand")


def controls(box):
    first, second, picture = box.children
    return {c.description: c for c in (*first.children, *second.children)}, picture


def test_every_state_of_the_explorer_draws_or_says_why_not(device, table):
    (point,) = fl.grid(**SMALL, phase="decode")
    sliders, picture = controls(fl.explorers.paying(point, device, rows=table))
    assert set(sliders) == {"hidden", "cached", "runtime", "device"}
    assert "marks measured" in picture.value
    for slider in sliders.values():
        for value in (slider.options[0], slider.options[-1]):
            slider.value = value
            assert "<figure>" in picture.value
    sliders["device"].value = "Tesla T4"
    assert "Tesla T4 has no bf16" in picture.value
    assert "marks measured" not in picture.value
    assert plt.get_fignums() == []


def test_one_change_is_one_redraw(device):
    (point,) = fl.grid(**SMALL, phase="decode")
    sliders, picture = controls(fl.explorers.paying(point, device))
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    for value in (512, 2048, 4096):
        sliders["hidden"].value = value
    assert len(seen) == 3


def test_what_the_explorer_says_of_a_crossing():
    faster = pd.DataFrame({"batch": [1, 4, 16], "gain": [2, 2, 0.5]})
    never = pd.DataFrame({"batch": [1, 4, 16], "gain": [0.9, 0.8, 0.5]})
    words = explore.said({"bf16": never, "int8": faster, "fp32": never})
    assert words == (
        "int8 ×2.00 at batch 1, slower from batch 8 on; "
        "fp32 ÷1.11 at batch 1, never faster"
    )


def test_stored_bits_are_those_of_the_format():
    from fastlab.spec.precision import FORMATS, stored_bytes

    stored = stored_bytes(FORMATS["int4-g128"], 256, 1024)
    assert EXERCISES["06_1"].answer == 8 * stored / (256 * 1024)


@pytest.mark.skipif(
    bool(machine.unsupported_reason("cpu", "int8")),
    reason=machine.unsupported_reason("cpu", "int8"),
)
def test_measured_here_it_holds_quality_and_bytes():
    settings = Settings.for_device("cpu", budget_s=0.05, n_min=3)
    bench = Bench.for_device("cpu", settings, fl.device("h200"))
    points = fl.grid(**SMALL, precision=["bf16", "int8"], phase="decode")
    found = fl.tables.gains_of([bench.measure(p) for p in points])
    assert found["status"].tolist() == ["ok", "ok"]
    assert found["weights_mb"].iloc[1] < 0.75 * found["weights_mb"].iloc[0]
    assert (found["kl_nats"] > 0).all()
    assert found["top1"].between(0.5, 1).all()

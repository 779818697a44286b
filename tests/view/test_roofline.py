"""Roofs and batches: worked numbers, what the figures say, and the explorer."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

import fastlab as fl
from fastlab.cost.ops import PRODUCTS
from fastlab.latency.devices import Device
from fastlab.latency.samples import Sample
from fastlab.sweeps.reference import references
from fastlab.view.tables import batch as batches
from fastlab.view.tables import roofline as tables

explore = sys.modules[fl.explorers.roofs.__module__]  # the figure has the module's name


@pytest.fixture(scope="module")
def device() -> Device:
    """1 TFLOP/s, 10 GB/s: a ridge at 100; launches cost nothing."""
    h200 = fl.device("h200")
    rates = {"fp32": 1e12, "bf16": 4e12}
    return replace(h200, peak_flops=rates, bandwidth=10e9, launch_s=0.0)


@pytest.fixture(scope="module")
def calls():
    work = {"phase": ["prefill", "decode"], "prompt_len": 1024}
    return fl.grid(model="llama-3.1-8b", precision=["fp32", "bf16"], **work)


@pytest.fixture(scope="module")
def products(calls, device):
    return tables.on_the_roof(calls, device)


def pick(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def test_the_output_projection_stands_where_arithmetic_puts_it(products):
    # 4096 x 4096 on 1024 rows: 2 m / (4 (1 + 2 m / 4096)) = 341.3 FLOP per byte
    row = pick(products, operation="out", phase="prefill", precision="fp32")
    assert row["FLOP per byte"] == pytest.approx(1024 * 4096 / (2 * (4096 + 2 * 1024)))
    assert row["high"] == pytest.approx(1e12)  # under the flat roof: all hidden
    # nothing hidden: 1 / (1 / 1e12 + 1 / (341.3 x 10e9))
    assert row["low"] == pytest.approx(1 / (1e-12 + 1 / (row["FLOP per byte"] * 1e10)))
    assert row["FLOP/s"] == pytest.approx((row["low"] * row["high"]) ** 0.5)
    assert row["bound"] == "compute"


def test_decode_does_one_flop_per_byte_in_bf16_and_gqa_four(products):
    out = pick(products, operation="out", phase="decode", precision="bf16")
    assert out["FLOP per byte"] == pytest.approx(1.0, rel=1e-3)
    attention = pick(products, operation="attention", phase="decode", precision="bf16")
    assert attention["FLOP per byte"] == pytest.approx(32 / 8, rel=1e-2)
    assert out["high"] == pytest.approx(out["FLOP per byte"] * 10e9)
    assert out["bound"] == attention["bound"] == "memory"


def test_shares_of_a_call_add_up_and_what_does_no_flops_has_one(products):
    for _, group in products.groupby(["phase", "precision"]):
        assert group["share"].sum() == pytest.approx(1.0)
        assert (group["operation"] == tables.NO_FLOPS).sum() == 1


def test_the_products_of_every_family_are_all_named():
    for model in ("gpt2", "bert", "qwen3-0.6b", "tiny-llama"):
        point = fl.grid(model=model)[0]
        names = {tables.product_of(op) for op in fl.operations(point)}
        assert names - {"QKV", "attention", "out", "MLP", "head"} == {tables.NO_FLOPS}


def test_a_precision_that_the_device_lacks_is_left_out(calls):
    table = tables.on_the_roof(calls, fl.device("t4"))
    assert set(table["precision"]) == {"fp32"}
    with pytest.raises(ValueError, match="has no bf16 peak"):
        tables.on_the_roof(calls[2:], fl.device("t4"))


def test_bounds_of_decode_are_memory_and_launches(calls):
    row = pick(
        tables.bounds(calls, fl.device("h200")), phase="decode", precision="bf16"
    )
    # 8 us x 1,301 launches; 16 GB of weights and cache at 4.8 TB/s
    assert row["launches ms"] == pytest.approx(10.408)
    assert row["memory ms"] == pytest.approx(3.216, abs=1e-3)
    assert row["bound"] == "launch"
    flops_ms = row["arithmetic ms"]
    assert row["MFU %"] == pytest.approx(100 * flops_ms / row["estimated ms"])
    assert row["MFU %"] == pytest.approx(0.132, abs=1e-3)


def test_the_knee_of_a_square_layer_by_hand(device):
    # all linears are at the ridge there: intensity at the knee equals the ridge
    point = fl.grid(model="llama-3.1-8b", phase="decode", precision="bf16")[0]
    h200 = fl.device("h200")
    at = batches.batched(point, round(batches.knee(point, h200)))
    linears = [op for op in fl.operations(at) if op.kind in PRODUCTS]
    flops = sum(op.times * op.flops for op in linears)
    moved = sum(op.times * op.bytes for op in linears)
    assert round(batches.knee(point, h200)) == 223
    assert flops / moved == pytest.approx(h200.ridge("bf16"), rel=5e-3)


def test_a_knee_beyond_what_activations_allow_is_never(device):
    point = fl.grid(model="tiny-llama", phase="decode", precision="fp32")[0]
    assert batches.knee(point, device) == float("inf")


def test_a_batch_curve_is_the_estimate_and_says_when_memory_is_full():
    h200, (point,) = (
        fl.device("h200"),
        fl.grid(
            model="llama-3.1-8b", phase="decode", precision="bf16", prompt_len=2048
        ),
    )
    curve = batches.batch_curve(point, h200, [1, 256, 1024])
    (made,) = fl.estimate([batches.batched(point, 256)], h200)
    row = pick(curve, batch=256)
    assert row["ms"] == pytest.approx(made.seconds * 1e3)
    assert row["tokens_per_s"] == pytest.approx(256 / made.seconds)
    assert curve["fits"].tolist() == [True, True, False]
    free = batches.batch_curve(point, h200, [1], launches=False)
    assert free["ms"].item() < 4 < curve["ms"].iloc[0]
    assert batches.batches_to(12) == [1, 2, 3, 4, 6, 8, 12]


def test_the_roofline_has_dashed_roofs_hollow_marks_and_an_arrow_each(products, device):
    axes = fl.plots.roofline(products, device).axes[0]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [np.max(line.get_ydata()) for line in dashed] == [1e12, 4e12]
    marks = [
        b.lines[0] for b in axes.containers if b.lines[0].get_marker() in ("o", "^")
    ]
    assert {mark.get_markerfacecolor() for mark in marks} == {"white"}
    arrows = [t for t in axes.texts if t.get_text() == ""]
    assert len(arrows) == 10
    texts = [t.get_text() for t in axes.texts]
    assert {"ridge 100", "ridge 400", "10 GB/s", "bf16: 4 TFLOP/s"} <= set(texts)
    assert "not calibrated" in axes.get_title(loc="left")


def test_names_stand_where_no_arrow_arrives(products, device):
    """Prefill climbs from roof to roof: named at fp32. Decode moves along: at bf16."""
    axes = fl.plots.roofline(products, device).axes[0]
    heads = products[products["operation"] == "head"].set_index(["phase", "precision"])
    named = [t.xy[0] for t in axes.texts if t.get_text() == "head"]
    wanted = [("prefill", "fp32"), ("decode", "bf16")]
    assert sorted(named) == sorted(heads.loc[key, "FLOP per byte"] for key in wanted)


def test_a_calibrated_roof_is_solid(products, device):
    measured = replace(device, profile="calibrated:00000000")
    axes = fl.plots.roofline(products, measured).axes[0]
    assert [line for line in axes.lines if line.get_linestyle() == "--"] == []


def test_the_alt_text_tells_roofs_and_marks(products, device):
    text = fl.alt.roofline(products, device)
    assert "The fp32 roof is flat at 1 TFLOP/s from 100 FLOP per byte" in text
    assert "decode bf16: QKV 0.999 FLOP per byte" in text


@pytest.fixture(scope="module")
def run():
    return fl.start(
        "03_roofline",
        source="replay",
        family="llama",
        layers=4,
        hidden=512,
        kv_heads=2,
        vocab=8192,
        phase="decode",
        batch=[1, 4, 16],
        prompt_len=32,
        precision=["fp32", "bf16"],
    )


@pytest.fixture(scope="module")
def timed(run):
    return tables.microbenchmarks(run, ["fp32", "bf16"], 4)


def test_replayed_benchmarks_are_those_of_the_reference(run, timed):
    samples = run.reference.samples
    assert 0 < len(timed) < len(samples)
    first = next(s for s in samples if (s.kind, s.precision) == ("linear", "fp32"))
    row = timed.iloc[0]
    assert row["FLOP/s"] == pytest.approx(first.flops / first.seconds)
    assert row["FLOP per byte"] == pytest.approx(first.flops / first.bytes)
    assert set(timed["device"]) == {run.device}


@pytest.mark.parametrize("folder", references(), ids=lambda r: r.folder.name)
def test_no_product_beats_the_measured_peak(folder):
    profile = folder.profile
    if profile is None or not profile.calibrated:
        pytest.skip("no calibrated profile")
    for one in folder.samples:
        if one.kind in PRODUCTS and one.precision in profile.peak_flops:
            assert one.flops / one.seconds <= 1.05 * profile.peak(one.precision)


def test_the_measured_roof_is_solid_and_filled_and_titled(run, timed):
    figure = fl.plots.measured_roof(timed, run.profile, 2048)
    assert len(figure.axes) == 2
    share = (timed["FLOP/s"] / timed["roof"])[timed["precision"] == "fp32"]
    title = figure.axes[0].get_title(loc="left")
    assert title.startswith(f"fp32: the median of {len(share)} reaches")
    assert f"{share.median():.0%}" in title
    named = [line.get_label() for line in figure.axes[0].lines]
    assert {"linear", "attention, prefill", "attention, decode"} <= set(named)
    assert {"estimate: a 2,048 x 2,048 layer", "at 1, 64 and 1,024 rows"} <= set(named)
    assert f"{len(share)} the median" in fl.alt.measured_roof(timed, run.profile, "x")


def test_a_datasheet_is_found_for_a_gpu_and_not_for_a_cpu(run):
    assert tables.datasheet(run.profile) is None
    assert tables.datasheet(None) is None
    gpu = replace(fl.device("h200"), profile="calibrated:00000000")
    assert tables.datasheet(gpu) == fl.device("h200")


def test_both_roofs_are_drawn_where_there_is_a_datasheet(timed, device):
    measured = replace(device, profile="calibrated:00000000", fits=None)
    axes = fl.plots.measured_roof(timed, measured, 512, sheet=device).axes[0]
    roofs = [n.get_linestyle() for n in axes.lines if n.get_linewidth() == 1.8]
    assert sorted(roofs) == ["-", "--"]


def test_benchmarks_that_cannot_be_are_refused(run):
    with pytest.raises(ValueError, match="has no profile for tf32"):
        tables.microbenchmarks(run, ["tf32"], 4)


def test_benchmarks_are_timed_here_where_nothing_is_replayed(run, monkeypatch, device):
    sample = Sample("linear", (1, 2, 3), 12.0, 24.0, 1e-6, "fp32")
    monkeypatch.setattr(tables, "_timed", lambda *_: [sample])
    live = replace(run, reference=None)
    monkeypatch.setattr(type(live), "profile", property(lambda _: device))
    row = tables.microbenchmarks(live, ["fp32"], 1).iloc[0]
    assert (row["FLOP/s"], row["FLOP per byte"]) == (pytest.approx(12e6), 0.5)
    assert row["roof"] == pytest.approx(0.5 * 10e9)


def test_the_walk_climbs_and_stays_below_the_flat_roof(run, device):
    for one in (run.profile, device):
        path = tables.walk(one, "fp32", 2048)
        assert path["FLOP per byte"].is_monotonic_increasing
        assert path["FLOP/s"].max() <= one.peak("fp32")


def test_the_batch_figure_has_two_panels_marks_and_knees(run):
    rows = run.rows()
    curves = batches.batch_curves(run.points, run.profile, 256)
    assert list(curves) == ["fp32: 32 cached, eager", "bf16: 32 cached, eager"]
    turns = batches.knees(run.points, run.profile)
    figure = fl.plots.batch_knee(curves, turns, "title", rows)
    upper, lower = figure.axes
    marks = [line for line in upper.lines if line.get_marker() == "^"]
    drawn = sorted(y for line in marks for y in line.get_ydata())
    assert drawn == pytest.approx(sorted(rows["measured_ms"]))
    ridge = f"fp32 ridge\nat batch {turns['fp32']:.3g}"
    assert any(t.get_text() == ridge for t in lower.texts)
    text = fl.alt.batch_knee(curves, turns, "replayed", rows)
    assert f"fp32 {turns['fp32']:.0f}, bf16 {turns['bf16']:.0f}" in text
    assert f"fp32 batch 1 {rows['measured_ms'].iloc[0]:.2f} ms" in text


def test_lines_end_where_memory_is_full():
    grid = {"model": "llama-3.1-8b", "phase": "decode", "precision": "bf16"}
    points = fl.grid(**grid, prompt_len=[128, 2048])
    curves = batches.batch_curves(points, fl.device("h200"))
    assert len(curves) == 4
    upper, lower = fl.plots.batch_knee(curves, {"bf16": 223.0}, "title").axes
    for axes in (upper, lower):  # two lines end at one batch: two crosses, one name
        assert [t.get_text() for t in axes.texts].count("memory full") == 1
        assert [line.get_marker() for line in axes.lines].count("x") == 2
    assert "then memory is full" in fl.alt.batch_knee(curves, {"bf16": 223.0}, "x")


def test_lines_that_run_together_have_one_name_for_what_bounds_them():
    grid = {"model": "llama-3.1-8b", "phase": "decode", "precision": "bf16"}
    points = fl.grid(**grid, prompt_len=[128, 2048])
    curves = batches.batch_curves(points, fl.device("h200"))
    upper, _ = fl.plots.batch_knee(curves, {"bf16": 223.0}, "title").axes
    names = [t.get_text() for t in upper.texts if t.get_text() != "memory full"]
    assert sorted(filter(None, names)) == ["compute", "launch", "memory", "memory"]


def controls(box):
    first, second, picture = box.children
    return {c.description: c for c in (*first.children, *second.children)}, picture


def test_every_state_of_the_explorer_draws_or_says_why_not(calls, run):
    sliders, picture = controls(fl.explorers.roofs(calls[-1], None, run.profile))
    assert set(sliders) == {"batch", "prompt", "precision", "device"}
    assert sliders["device"].value == f"{run.device} (calibrated)"
    for slider in sliders.values():
        for value in (slider.options[0], slider.options[-1]):
            slider.value = value
            assert "<figure>" in picture.value or "choose another" in picture.value
    assert plt.get_fignums() == []


def test_the_explorer_tells_what_bounds_each_call(calls):
    state = {"prompt_len": 1024, "precision": "bf16", "device": fl.device("h200")}
    words = explore.shown(calls[-1], batch=1, **state)
    assert "decode 11.9 ms, bound by launch, MFU 0.13 %" in words
    assert "does not fit in memory" in explore.shown(calls[-1], batch=1024, **state)
    lacking = explore.shown(
        calls[-1],
        batch=1,
        prompt_len=32,
        precision="bf16",
        device=fl.device("t4"),
    )
    assert "Tesla T4 has no bf16" in lacking


def test_one_change_is_one_redraw(calls):
    sliders, picture = controls(fl.explorers.roofs(calls[-1], fl.device("h200")))
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    for value in (4, 64, 256):
        sliders["batch"].value = value
    assert len(seen) == 3
    assert "batch 256" in re.search('alt="([^"]+)"', seen[-1])[1]


def test_exercise_answers_follow_from_the_operations():
    from fastlab.cost import ops
    from fastlab.notebook.exercises import EXERCISES

    op = ops.linear("up", 64, 4 * 256, 256, 4, 4)
    assert EXERCISES["03_1"].answer(64, 256, 4) == pytest.approx(op.flops / op.bytes)
    ridge = fl.device("a100").ridge("bf16")
    assert EXERCISES["03_2"].answer == pytest.approx(ridge)
    bf16 = fl.device("h200").ridge("bf16")
    assert EXERCISES["03_3"].answer == pytest.approx(bf16 / 2, rel=1e-3)

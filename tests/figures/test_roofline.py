"""Roofs and batches: worked numbers, what the figures say, and the explorer."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.clock import fitting
from fastlab.cost.ops import PRODUCTS
from fastlab.figures import batches
from fastlab.figures import roofline as roofs
from fastlab.latency.devices import Device
from fastlab.latency.samples import Sample
from fastlab.latency.whatif import knee
from fastlab.sweeps.reference import references
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.figures.made import one
from tests.pins import compare

PAIR = ("fp32", "bf16")
CALIBRATED = {"profile": "calibrated:00000000", "fits": None}


@pytest.fixture(scope="module")
def device() -> Device:
    """1 TFLOP/s, 10 GB/s: a ridge at 100; launches cost nothing."""
    rates = {"fp32": 1e12, "bf16": 4e12}
    h200 = fl.device("h200").sheet
    return replace(h200, peak_flops=rates, bandwidth=10e9, launch_s=0.0)


@pytest.fixture(scope="module")
def calls():
    work = {"phase": ["prefill", "decode"], "prompt_len": 1024}
    return fl.grid(model="llama-3.1-8b", precision=["fp32", "bf16"], **work)


@pytest.fixture(scope="module")
def products(calls, device):
    return roofs.on_the_roof(calls, device)


@pytest.fixture(scope="module")
def run():
    model = {"family": "llama", "layers": 6, "hidden": 1024, "vocab": 8192}
    work = {"phase": "decode", "batch": [1, 4, 16, 64], "prompt_len": 64}
    pair = {"precision": ["fp32", "bf16"]}
    return fl.start("03_roofline", source="replay", **model, **work, **pair)


@pytest.fixture(scope="module")
def benchmarked(run):
    return benchmarks(run, list(PAIR))


@pytest.fixture(scope="module")
def timed(benchmarked):
    return benchmarked["timed"]


def benchmarks(run, precisions):
    """What the lesson's cells make of timed products and attentions."""
    given = {"run": run, "precisions": precisions, "microbenchmarks": 1}
    names = ("measured-roof", "benchmarks")
    return run_cells("03_roofline", *names, **given, pd=pd, np=np)


@pytest.fixture(scope="module")
def path(benchmarked):
    """Estimated FLOP/s of one layer, as the lesson's cell makes it."""
    given = {name: benchmarked[name] for name in ("able", "device", "timed", "run")}
    shelf = Shows()
    run_cells("03_roofline", "under-its-roof", **given | {"run": shelf}, pd=pd, np=np)
    return shelf.shown["measured_roof"]


@pytest.fixture(scope="module")
def steps():
    """A decode step of a large model, on a host and as if launches were free."""
    given = {"model": "llama-3.1-8b", "cached_lens": [128, 2048], "usable": ["bf16"]}
    given |= {"sheet": fl.device("h200").sheet, "replace": replace}
    given |= {"basis": "", "bars": ""}
    return run_cells("03_roofline", "knee", **given, pd=pd)["figure"]


def explorer_of(calls):
    given = {"calls": calls, "run": Mock(profile=None)}
    given |= {
        "sheet": fl.device("h200").sheet,
        "model": "llama-3.1-8b",
        "phases": ["prefill", "decode"],
    }
    return run_cells("03_roofline", "explorer", **given, context_len=1024)["shown"]


def test_the_output_projection_stands_where_arithmetic_puts_it(products):
    # 4096 x 4096 on 1024 rows: 2 m / (4 (1 + 2 m / 4096)) = 341.3 FLOP per byte
    row = one(products, operation="out", phase="prefill", precision="fp32")
    assert row["FLOP per byte"] == pytest.approx(1024 * 4096 / (2 * (4096 + 2 * 1024)))
    assert row["high"] == pytest.approx(1e12)  # under the flat roof: all hidden
    # nothing hidden: 1 / (1 / 1e12 + 1 / (341.3 x 10e9))
    assert row["low"] == pytest.approx(1 / (1e-12 + 1 / (row["FLOP per byte"] * 1e10)))
    assert row["FLOP/s"] == pytest.approx((row["low"] * row["high"]) ** 0.5)
    assert row["bound"] == "compute"


def test_decode_does_one_flop_per_byte_in_bf16_and_gqa_four(products):
    out = one(products, operation="out", phase="decode", precision="bf16")
    assert out["FLOP per byte"] == pytest.approx(1.0, rel=1e-3)
    attention = one(products, operation="attention", phase="decode", precision="bf16")
    assert attention["FLOP per byte"] == pytest.approx(32 / 8, rel=1e-2)
    assert out["high"] == pytest.approx(out["FLOP per byte"] * 10e9)
    assert out["bound"] == attention["bound"] == "memory"


def test_shares_of_a_call_add_up_and_what_does_no_flops_has_one(products):
    for _, group in products.groupby(["phase", "precision"]):
        assert group["share"].sum() == pytest.approx(1.0)
        assert (group["operation"] == roofs.NO_FLOPS).sum() == 1


def test_the_products_of_every_family_are_all_named():
    for model in ("gpt2", "bert", "qwen3-0.6b", "tiny-llama"):
        names = {roofs.product_of(op) for op in fl.operations(fl.grid(model=model)[0])}
        assert names - {*roofs.GROUPS.values()} == {roofs.NO_FLOPS}


def test_a_precision_that_the_device_lacks_is_left_out(calls):
    table = roofs.on_the_roof(calls, fl.device("t4"))
    assert set(table["precision"]) == {"fp32"}
    with pytest.raises(ValueError, match="has no bf16 peak"):
        roofs.on_the_roof(calls[2:], fl.device("t4"))


def test_bounds_of_decode_are_memory_and_launches(calls):
    given = {"calls": calls, "sheet": fl.device("h200").sheet}
    table = run_cells("03_roofline", "bounds", "three-clocks", **given, pd=pd)["shown"]
    row = one(table, phase="decode", precision="bf16")
    # 8 us x 1,301 launches; 16 GB of weights and cache at 4.8 TB/s
    assert row["launches ms"] == pytest.approx(10.408)
    assert row["memory ms"] == pytest.approx(3.216, abs=1e-3)
    assert row["bound"] == "launch"
    assert row["MFU %"] == pytest.approx(
        100 * row["arithmetic ms"] / row["estimated ms"]
    )
    assert row["MFU %"] == pytest.approx(0.132, abs=1e-3)
    assert compare("03_roofline_04", table) == []


def test_by_hand_the_roofline_is_the_smaller_of_peak_and_intensity_times_bandwidth():
    """128 FLOP per byte: 128 x 4.8 TB/s = 614 TFLOP/s, below the peak of 989."""
    found = run_cells("03_roofline", "by-hand", "by-hand-check")
    assert found["bound"].tolist() == ["memory"] * 4 + ["compute"] * 3
    rows = found["shown"]
    np.testing.assert_allclose(rows["TFLOP/s"], rows["fastlab TFLOP/s"])
    np.testing.assert_allclose(rows["TFLOP/s"][:4] / rows["FLOP per byte"][:4], 4.8)


def test_the_roofline_has_a_corner_for_each_roof_and_a_line_for_each_product(
    products, device
):
    figure = roofs.roofline(products, device)
    assert faults(figure) == []
    axes = figure.draw().axes[0]
    texts = {text.get_text() for text in axes.texts}
    corners = {"fp32: 1 TFLOP/s\nridge at 100", "bf16: 4 TFLOP/s\nridge at 400"}
    assert corners | {*roofs.GROUPS.values()} <= texts
    assert "1 T at 100, 1 T at 30,000" in figure.tell()
    assert sum(line.get_linewidth() == 0.8 for line in axes.lines) >= 10 + 2
    roof = {line.get_linestyle() for line in axes.lines if line.get_linewidth() == 1.8}
    assert roof == {"--"}  # of a datasheet
    measured = roofs.roofline(products, replace(device, **CALIBRATED)).draw().axes[0]
    assert "--" not in {line.get_linestyle() for line in measured.lines}


@pytest.mark.parametrize("state", [{}, {"batch": 64}, {"batch": 1024}])
def test_no_name_covers_a_mark_or_another_name(calls, state):
    explorer = explorer_of(calls)
    picture = explorer.make(**(explorer.state | state)).draw()
    picture.draw_without_rendering()
    (axes,) = picture.axes
    texts = [text for text in axes.texts if text.get_text() in roofs.GROUPS.values()]
    boxes = [text.get_window_extent() for text in texts]
    marks = [line for line in axes.lines if line.get_marker() in ("o", "^")]
    places = np.concatenate(
        [axes.transData.transform(line.get_xydata()) for line in marks]
    )
    assert len(boxes) == 10
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:n])
        assert not any(box.contains(*place) for place in places)


def test_the_default_figure_has_the_pinned_rows(calls):
    sheet = fl.device("h200")
    figure = roofs.roofline(roofs.on_the_roof(calls, sheet), sheet)
    assert faults(figure) == []
    assert compare("03_roofline_roofline", figure.table) == []


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
    for each in folder.samples:
        if each.kind in PRODUCTS and each.precision in profile.peak_flops:
            assert each.flops / each.seconds <= 1.05 * profile.peak(each.precision)


def test_the_measured_roof_is_filled_and_tells_what_is_reached(path, timed):
    figure = path
    share = (timed["FLOP/s"] / timed["roof"])[timed["precision"] == "fp32"]
    assert f"reaches {100 * share.median():.0f} % in fp32" in figure.title
    assert (
        figure.panels[0].title == f"fp32: {(share > 1.05).sum()} of 47 above the roof"
    )
    names = {layer.name for layer in figure.panels[0].layers}
    assert {*roofs.SHAPES, "estimate: a 2,048 x 2,048 layer"} <= names
    assert faults(figure) == []
    measured = figure.table[figure.table["dims"].notna()]
    assert compare("03_roofline_measured_roof", measured) == []


def test_a_layers_path_climbs_and_stays_below_the_flat_roof(path, run):
    rows = path.table[path.table["operation"].str.startswith("estimate", na=False)]
    for precision, own in rows.groupby("precision"):
        assert own["FLOP per byte"].is_monotonic_increasing
        assert own["FLOP/s"].max() <= run.profile.peak(precision)
        assert own["FLOP/s"].iloc[-1] > 10 * own["FLOP/s"].iloc[0]


def test_benchmarks_that_cannot_be_are_refused(run):
    with pytest.raises(ValueError, match="has no profile for tf32"):
        benchmarks(run, ["tf32"])


def test_benchmarks_are_timed_here_where_none_are_stored(monkeypatch, device):
    sample = Sample("linear", (1, 2, 3), 12.0, 24.0, 1e-6, "fp32")
    monkeypatch.setattr(fitting, "chosen", lambda *_: [None])
    monkeypatch.setattr(fitting, "timed", lambda *_: sample)
    here = Mock(profile=device, is_replay=False, kind="cpu")
    row = benchmarks(here, ["fp32"])["timed"].iloc[0]
    assert (row["FLOP/s"], row["FLOP per byte"]) == (pytest.approx(12e6), 0.5)
    assert row["roof"] == pytest.approx(0.5 * 10e9)


def test_the_knee_of_a_square_layer_by_hand():
    # all linears are at the ridge there: intensity at the knee equals the ridge
    point = fl.grid(model="llama-3.1-8b", phase="decode", precision="bf16")[0]
    h200 = fl.device("h200")
    work = replace(point.workload, batch=round(knee(point, h200)))
    at = replace(point, workload=work)
    linears = [op for op in fl.operations(at) if op.kind in PRODUCTS]
    flops = sum(op.times * op.flops for op in linears)
    moved = sum(op.times * op.bytes for op in linears)
    assert work.batch == 223
    assert flops / moved == pytest.approx(h200.ridge("bf16"), rel=5e-3)


def test_a_knee_beyond_what_activations_allow_is_never(device):
    point = fl.grid(model="tiny-llama", phase="decode", precision="fp32")[0]
    assert knee(point, device) == float("inf")


def test_lines_of_batches_are_estimates_and_end_where_memory_is_full(steps):
    """With 2,048 cached the H200 is full before batch 512; eager takes launches."""
    lines, work = steps.table, {"phase": "decode", "precision": "bf16"}
    assert lines["series"].nunique() == 4
    grid = fl.grid(model="llama-3.1-8b", **work, prompt_len=2048, batch=256)
    (estimate,) = fl.estimate(grid, fl.device("h200").sheet)
    row = one(lines, batch=256, series="bf16: 2,048 cached, eager")
    assert row["estimated_ms"] == pytest.approx(estimate.seconds * 1e3)
    assert row["tokens_per_s"] == pytest.approx(256 / estimate.seconds)
    full = lines[~lines["fits"]]
    assert full["batch"].min() == 512
    assert full["series"].str.startswith("bf16: 2,048 cached").all()
    first = lines[lines["batch"] == 1].set_index("series")["estimated_ms"]
    assert first["bf16: 128 cached, no launches"] < 4 < first["bf16: 128 cached, eager"]
    assert roofs.batches_to(12) == [1, 2, 3, 4, 6, 8, 12]
    assert faults(steps) == []
    for axes in steps.draw().axes:
        # two lines end at one batch: two crosses, one name
        assert [t.get_text() for t in axes.texts].count("memory full") == 1
        crosses = [n for n in axes.lines if n.get_marker() == "x"]
        assert sum(len(n.get_xdata()) for n in crosses) == 2


def test_the_batch_figure_has_two_panels_marks_and_knees(run):
    many = [replace(p.workload, batch=256) for p in run.points]
    wide = [replace(p, workload=w) for p, w in zip(run.points, many, strict=True)]
    curves = fl.estimated([*run.points, *dict.fromkeys(wide)], run.profile)
    figure = batches.batch_knee(curves, run.profile, run.rows())
    assert faults(figure) == []
    knees = figure.table.groupby("precision")["knee"].first()
    _, lower = figure.draw().axes
    ridge = f"fp32 ridge\nat batch {knees['fp32']:.3g}"
    assert ridge in [text.get_text() for text in lower.texts]
    turns = f"fp32 at batch {knees['fp32']:.3g}, bf16 at batch {knees['bf16']:.0f}"
    assert turns in figure.tell()
    measured = figure.table[figure.table["series"] == "measured"]
    assert compare("03_roofline_measured_knee", measured) == []
    assert compare("03_roofline_08", measured) == []


def test_the_explorer_tells_what_bounds_each_call(calls):
    explorer = explorer_of(calls)
    words = explorer.make(**explorer.state).note
    assert "decode 11.9 ms, bound by launch, MFU 0.13 %" in words
    full = explorer.make(**(explorer.state | {"batch": 1024}))
    assert faults(full) == []
    assert "does not fit in memory" in full.note


def test_exercise_answers_follow_from_the_operations():
    from fastlab.cost import ops
    from fastlab.notebook.exercises import EXERCISES

    op = ops.linear("up", (64, 4 * 256, 256), 4)
    assert EXERCISES["03_1"].answer(64, 256, 4) == pytest.approx(op.flops / op.bytes)
    ridge = fl.device("a100").ridge("bf16")
    assert EXERCISES["03_2"].answer == pytest.approx(ridge)
    asked = {"model": "llama-3.1-8b", "phase": "decode", "precision": "bf16"}
    sheet = fl.device("h200").sheet
    rows = fl.estimated(fl.grid(**asked, batch=[1, 256, 384, 1024]), sheet)
    known = [*EXERCISES["03_3"].wrong, {"answer": EXERCISES["03_3"].answer}]
    told = {one["answer"]["batch"]: one["answer"]["estimated_ms"] for one in known}
    assert dict(zip(rows.batch, rows.estimated_ms, strict=True)) == pytest.approx(
        told, rel=2e-3
    )

"""Cuts and zeros: points, worked numbers, figures, the explorer, and the live part."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab import machine, models
from fastlab.learning.checkpoint import export_model
from fastlab.learning.tokens import make_tokenizer
from fastlab.notebook.exercises import EXERCISES
from fastlab.record import Effective, Quality
from fastlab.spec.pruning import pruned_shape
from fastlab.spec.sparsity import sparse_bytes
from fastlab.view.explore.pruning import shown
from fastlab.view.plots.cuts import kept_word
from fastlab.view.plots.pruning import CUTS, evens
from fastlab.view.tables.pruned import HEALED
from tests.figures.made import record

tables = sys.modules[fl.tables.cut_points.__module__]
LARGE = {"family": "llama", "layers": 8, "hidden": 768, "kv_heads": 4, "vocab": 512}
SQUARE = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512}


def quality(bits):
    ends = {"low": bits - 0.1, "high": bits + 0.1, "dense_bits_per_byte": 1.5}
    return Quality("dense fp32", "", 0.1, 0.9, 1.0, bits, **ends)


def made(points, device, factor=1.2):
    """Records at so many times their estimate, a quality that worsens with the cut."""
    found = []
    for point in points:
        bits = 1.5 * tables.paper_flops(tables.dense_of(point)) ** 0.1
        bits /= tables.paper_flops(point) ** 0.1
        stored = Effective("float32", "sdpa", 100, 2_000_000)
        over = {"effective": stored, "quality": quality(bits)}
        found.append(record(point, device, factor, **over))
    return found


@pytest.fixture(scope="module")
def device():
    return fl.device("h200")


@pytest.fixture(scope="module")
def cuts(device):
    points = fl.tables.cut_points([0.25, 0.5], 64, **LARGE)
    return fl.tables.savings_of(made(points, device), device)


@pytest.fixture(scope="module")
def zeroed(device):
    phases = {"phase": ["prefill", "decode"]}
    points = fl.tables.zero_points([0.5, 0.9], ["dense", "csr"], **SQUARE, **phases)
    return fl.tables.savings_of(made(points, device), device)


def test_each_share_is_cut_from_each_axis_once():
    points = fl.tables.cut_points([0.25, 0.5], 64, **LARGE)
    cut = [(tables.kind_of(p.recipe), p.built_shape) for p in points]
    assert cut[0][0] == "dense"
    # 9 of 12 heads do not divide 768: no 25 % of heads
    kinds = ["layers", "layers", "heads", "ffn", "ffn", "hidden", "hidden"]
    assert [kind for kind, _ in cut[1:]] == kinds
    assert [s.layers for k, s in cut if k == "layers"] == [6, 4]
    assert [s.hidden for k, s in cut if k == "hidden"] == [576, 384]
    with pytest.raises(ValueError, match="shares=2"):
        fl.tables.cut_points([2], **LARGE)


def test_cuts_that_build_the_same_stand_once():
    small = {"family": "llama", "layers": 2, "hidden": 64, "heads": 2, "kv_heads": 2}
    points = fl.tables.cut_points([0.5, 0.75], **small, vocab=64)
    shapes = [point.built_shape for point in points]
    assert len(set(shapes)) == len(shapes)
    assert sum(bool(p.recipe.pruning.layers) for p in points) == 1


def test_each_way_chooses_what_it_can():
    points = fl.tables.choice_points([0.5], ["loss", "taylor", "random"], **LARGE)
    found = [
        (tables.kind_of(p.recipe), tables.described(p)["choice"], p.recipe.pruning.seed)
        for p in points
    ]
    assert ("layers", "loss", 0) in found
    assert ("ffn", "taylor", 0) in found
    assert [f[2] for f in found if f[:2] == ("hidden", "random")] == [0, 1, 2]
    assert not [f for f in found if f[:2] == ("layers", "random")]
    assert not [f for f in found if f[:2] == ("ffn", "loss")]
    with pytest.raises(ValueError, match="ways"):
        fl.tables.choice_points([0.5], ["best"], **LARGE)
    assert len(fl.tables.choice_points([0.5], ["all"], **LARGE)) == 6 + 3 * (3 + 3)


def test_zeros_come_in_each_storage_and_as_a_pattern():
    points = fl.tables.zero_points([0.5], ["dense", "csr"], **SQUARE)
    kinds = [tables.kind_of(point.recipe) for point in points]
    assert kinds == ["dense", "zeros", "csr", "pattern"]
    if machine.torch_device() == "cpu":
        assert fl.tables.zero_points([0.5], **SQUARE) == points
    packed = fl.tables.zero_points([0.5], ["2:4"], **SQUARE, precision="bf16")
    assert [tables.kind_of(p.recipe) for p in packed] == ["dense", "2:4"]


def test_half_the_layers_promise_nearly_two(cuts):
    half = cuts[(cuts["kind"] == "layers") & (cuts["share"] == 0.5)].iloc[0]
    dense, cut = (fl.grid(**LARGE, prune_layers=share)[0] for share in (0, 0.5))
    flops = [sum(op.times * op.flops for op in fl.operations(p)) for p in (dense, cut)]
    assert half["promised"] == pytest.approx(flops[0] / flops[1])
    assert 1.9 < half["promised"] < 2
    assert half["left"] == fl.parameters(cut.built_shape) / fl.parameters(dense.shape)


def test_zeros_promise_what_their_products_would_save():
    dense, half = fl.grid(**SQUARE, sparse_ratio=[0, 0.5])
    ops = fl.operations(dense)
    inner = sum(
        op.times * op.flops for op in ops if op.kind == "linear" and op.name != "head"
    )
    whole = sum(op.times * op.flops for op in ops)
    assert tables.paper_flops(dense) == whole
    assert tables.paper_flops(half) == pytest.approx(whole - inner / 2)
    csr = fl.grid(**SQUARE, sparse_ratio=0.5, sparse_storage="csr")[0]
    assert tables.paper_flops(csr) == tables.paper_flops(half)


def test_zeros_stored_dense_are_estimated_to_gain_nothing(zeroed):
    gains = zeroed[zeroed["kind"].isin(["zeros", "pattern"])]["estimated_gain"]
    assert len(gains) == 6
    assert gains.tolist() == [1.0] * 6


def test_a_gain_is_over_the_dense_row_of_the_same_call(device):
    points = fl.tables.cut_points([0.5], **SQUARE)
    dense, *rest = made(points, device)
    slow = record(points[0], device, 12.0)
    alone = fl.tables.savings_of(rest, device)
    assert alone["measured_gain"].isna().all()
    known = fl.tables.savings_of(rest, device, known=[slow])
    near = fl.tables.savings_of([dense, *rest], device).iloc[1:]
    assert known["measured_gain"].to_numpy() == pytest.approx(
        10 * near["measured_gain"].to_numpy()
    )


def test_what_is_smaller_in_two_ways_is_told_apart_or_left_out(device):
    two, zeros, palette = (
        *fl.grid(**SQUARE, prune_layers=0.5, prune_ffn=0.5),
        *fl.grid(**SQUARE, prune_layers=0.5, sparse_ratio=0.5),
        *fl.grid(**SQUARE, share_bits=4),
    )
    kinds = [tables.kind_of(p.recipe) for p in (two, zeros, palette)]
    assert kinds == ["several", "", ""]
    records = [record(p, device, 1.0) for p in (two, palette)]
    assert fl.tables.savings_of(records)["kind"].tolist() == ["several"]


def test_the_first_figure_names_shares_and_draws_measured_and_estimated(cuts, zeroed):
    both = pd.concat([cuts, zeroed], ignore_index=True)
    figure = fl.plots.zeros_are_not_speed(both, cuts)
    left, right = figure.axes
    colors = {line.get_color() for line in left.lines}
    assert {CUTS[kind][0] for kind in ("layers", "zeros", "csr")} <= colors
    ticks = [left.xaxis.get_major_formatter()(v) for v in (1, 2, 10)]
    assert ticks == ["0%", "50%", "90%"]
    assert right.get_ylabel() == "bits per byte of held-out text: lower is better"
    text = fl.alt.zeros_are_not_speed(both, cuts, "by hand")
    assert "zeros, stored dense: " in text
    assert "FFN width: " in text
    assert text.endswith("by hand.")


def test_compressed_rows_take_the_bytes_of_dense_ones_at_half(zeroed):
    figure = fl.plots.break_even(zeroed, 1024, 1024)
    assert any("same bytes at 50%" in t.get_text() for t in figure.axes[0].texts)
    assert "dense over compressed rows" in fl.alt.break_even(zeroed, "by hand")


def test_the_break_even_lies_between_two_rows():
    rows = {"kind": "csr", "phase": "decode", "share": [0.5, 0.8, 0.9]}
    table = pd.DataFrame(rows | {"measured_gain": [0.5, 0.5, 2.0]})
    # from /2 at 80 % to x2 at 90 %: x1 half way
    assert evens(table) == {"decode": pytest.approx(0.85)}
    assert evens(table.assign(measured_gain=0.5)) == {}


def test_depth_and_width_with_students(cuts):
    half = cuts[(cuts["kind"] == "layers") & (cuts["share"] == 0.5)]
    again = half.assign(bits_per_byte=1.52, low=1.5, high=1.54, distill_steps=900)
    figure = fl.plots.depth_or_width(cuts, cuts, again)
    assert "layers, 900 steps" in [t.get_text() for t in figure.axes[1].texts]
    text = fl.alt.depth_or_width(cuts, cuts, again, "by hand")
    assert "layers 50% after 900 steps 1.52" in text
    again["before"] = 1.8
    figure = fl.plots.depth_or_width(cuts, cuts, again)
    assert "from 1.80 to 1.52" in fl.alt.depth_or_width(cuts, cuts, again, "by hand")
    fl.plots.depth_or_width(cuts[:0], cuts[:0], again[list(HEALED)])
    assert "Distilled: none" in fl.alt.depth_or_width(cuts, cuts, again[:0], "by hand")


def test_choices_have_a_panel_for_each_axis(device):
    points = fl.tables.choice_points([0.25, 0.5], ["all"], **LARGE)
    dense = fl.grid(**LARGE)
    table = fl.tables.savings_of(made([*dense, *points], device), device)
    figure = fl.plots.choices(table)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["layers", "heads", "FFN width", "hidden width"]
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.texts]
    assert words[0] == "influence / activation"
    assert "25% of ffn by taylor" in fl.alt.choices(table, "by hand")


def test_figures_of_nothing_say_so(cuts):
    empty = cuts[:0]
    fl.plots.choices(empty)
    fl.plots.foretold(fl.tables.foretold(empty))
    assert kept_word(fl.tables.foretold(empty)).startswith("nothing was both")
    fl.plots.zeros_are_not_speed(cuts[:1], empty)
    fl.plots.break_even(empty, 64, 64)
    fl.plots.depth_or_width(cuts, empty, empty)


def test_what_was_foretold_is_counted(cuts):
    inside = fl.tables.foretold(cuts.assign(measured_ms=cuts["estimated_ms"]))
    assert inside["inside"].all()
    assert kept_word(inside).startswith(f"{len(cuts)} of {len(cuts)} within")
    below = fl.tables.foretold(cuts.assign(measured_ms=0.5 * cuts["estimated_ms"]))
    assert kept_word(below).endswith("÷2.00 to ÷2.00 of the estimate, all below it")
    far = fl.tables.foretold(cuts.assign(measured_ms=100 * cuts["estimated_ms"]))
    assert not far["inside"].any()
    figure = fl.plots.foretold(far)
    assert all("outside" in t.get_text() for t in figure.axes[0].texts)
    assert "50% of layers: 4 x 768" in fl.alt.foretold(far, "by hand")


def state(**over):
    plain = {"layers": 0.0, "heads": 0.0, "ffn": 0.0, "hidden": 0.0, "multiple": 64}
    return plain | {"layer_choice": "influence", "importance": "magnitude"} | over


def test_the_explorer_tells_the_built_shape_and_the_stored_row(device):
    (dense,) = fl.grid(**LARGE)
    point = fl.grid(**LARGE, prune_ffn=0.5, prune_multiple=64)[0]
    stored = {point: made([point], device)[0]}
    text = shown(dense, device, stored, **state(ffn=0.5))
    assert "ffn 2,048 → 1,024" in text
    assert "Measured: " in text
    assert "bits per byte, dense 1.50" in text
    other = shown(dense, device, stored, **state(ffn=0.5, importance="taylor"))
    assert "No row is stored" in other


def test_the_explorer_says_why_there_is_no_such_model(device):
    (dense,) = fl.grid(**LARGE)
    text = shown(dense, device, {}, **state(heads=0.25))
    assert "heads=9 must divide hidden=768" in text


def test_the_explorer_redraws_within_seconds_of_work(device):
    (dense,) = fl.grid(**LARGE)
    shown(dense, device, {}, **state(layers=0.5))
    began = time.process_time()
    shown(dense, device, {}, **state(layers=0.25, ffn=0.5))
    assert time.process_time() - began < 30  # 0.1 s wanted


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint with random weights, and a text of its own."""
    folder = tmp_path_factory.mktemp("model")
    file = folder / "text.txt"
    lines = (f"def f{n}(x{n}):\n    return x{n} + {n * 7 % 13}\n" for n in range(900))
    file.write_text("".join(lines))
    tokenizer = make_tokenizer(file.read_text(), 300)
    small = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 64}
    shape = fl.ModelShape("llama", **small, vocab=300, max_positions=128, tied=True)
    export_model(models.build(fl.Point(shape), "cpu"), tokenizer, folder)
    return fl.Trained(str(folder), text=(str(file),))


def test_a_pruned_model_is_reloaded_bit_for_bit(trained, tmp_path):
    model, _ = fl.load(trained.folder)
    shape = fl.ModelShape.from_config(model.config)
    cut = fl.Pruning(layers=0.5, layer_choice="influence", ffn=0.5)
    fl.prune(model, cut, trained.seen(64))
    (line,) = fl.tables.reloaded(model, trained, tmp_path / "p").to_dict("records")
    assert line["equal, bit for bit"] == "yes"
    assert line["largest difference of logits"] == "0"
    assert line["config says"] == "2 x 32, 4/2 heads, ffn 32"
    assert pruned_shape(shape, cut).layers == 2


def test_models_stand_side_by_side(trained):
    dense, smaller = (fl.load(trained.folder)[0] for _ in range(2))
    fl.prune(smaller, fl.Pruning(layers=0.5))
    pair = {"dense": dense, "half": smaller}
    table = fl.tables.side_by_side(pair, trained, "def f1(", 8, budget_s=0.05)
    assert table["model"].tolist() == ["dense", "half"]
    assert table["flags"].map(type).eq(str).all()
    assert table["parameters"].tolist() == [
        sum(p.numel() for p in m.parameters()) for m in (dense, smaller)
    ]
    assert np.isfinite(table[["measured_ms", "bits_per_byte"]].to_numpy()).all()


def test_the_text_is_compared_with_the_one_of_the_stored_rows(trained):
    path = trained.folder / "run.json"
    assert "nothing is stored" in fl.tables.text_words(trained)
    held = trained.corpus.held_out_sha256
    for sha, words in ((held, "the same, to the byte"), ("0" * 64, "bits per byte")):
        path.write_text(json.dumps({"held_out": {"text_sha256": sha}}))
        assert words in fl.tables.text_words(trained)
    path.unlink()


def test_students_of_these_weights_are_found(trained, tmp_path):
    judged = {"bits_per_byte": 1.6, "low": 1.5, "high": 1.7}
    pruning = {"layers": 0.5, "layer_choice": "influence"}
    recipe = {"precision": "fp32", "pruning": pruning, "distill_steps": 100}
    run = {"teacher": trained.weights, "recipe": recipe, "parameters": 20_000}
    for name, teacher in (("a", trained.weights), ("b", "trained:other")):
        (tmp_path / name).mkdir()
        kept = run | {"held_out": judged, "teacher": teacher}
        (tmp_path / name / "run.json").write_text(json.dumps(kept))
    (line,) = fl.tables.healed([], trained, tmp_path).to_dict("records")
    assert (line["kind"], line["share"], line["distill_steps"]) == ("layers", 0.5, 100)
    assert (line["choice"], line["bits_per_byte"]) == ("influence", 1.6)
    assert 0 < line["left"] < 1


def test_a_student_stands_beside_its_cut_before(trained, device, tmp_path):
    own = {"model": str(trained.folder), "weights": "trained", "prompt_len": 8}
    both = fl.grid(**own, prune_layers=0.5, distill_steps=[0, 100])
    judged = [Quality("dense fp32", "", 0.1, 0.9, 1.0, bits) for bits in (2.0, 1.6)]
    records = [
        record(replace(point, weights=trained.weights), device, 1.0, quality=quality)
        for point, quality in zip(both, judged, strict=True)
    ]
    (line,) = fl.tables.healed(records, trained, tmp_path).to_dict("records")
    assert (line["before"], line["bits_per_byte"]) == (2.0, 1.6)
    (alone,) = fl.tables.healed(records[1:], trained, tmp_path).to_dict("records")
    assert np.isnan(alone["before"])


def test_a_guess_is_told_only_where_there_is_one():
    assert fl.tables.your_guess(2.0) == "; you guessed 2.0"
    assert fl.tables.your_guess(None) == ""


def test_a_model_is_found_by_name_or_folder(trained):
    assert fl.tables.trained_model(str(trained.folder)).folder == trained.folder
    with pytest.raises(OSError):
        _ = fl.tables.trained_model("no/such-folder-here").folder


def test_worked_answers_agree_with_the_code():
    size = EXERCISES["07_4"].answer
    for ffn, share, multiple in ((2048, 0.3, 64), (512, 0.3, 64), (2816, 0.25, 64)):
        shape = fl.ModelShape("llama", 2, 768, ffn=ffn, vocab=64)
        cut = fl.Pruning(ffn=share, multiple=multiple)
        assert pruned_shape(shape, cut).ffn == size(ffn, share, multiple)
    n = k = 1024
    stored = fl.Sparsity(EXERCISES["07_2"].answer / 100, storage="csr")
    assert sparse_bytes(stored, n, k) == pytest.approx(2 * n * k, rel=0.01)
    points = fl.tables.cut_points([0.25, 0.5, 0.75], **LARGE)
    left = [p.built_shape.heads for p in points if p.recipe.pruning.heads]
    assert left == [6, 3]
    assert len(left) == EXERCISES["07_3"].answer

"""Palettes beside integers: bytes and dB by hand, times over their dense rows."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

import fastlab as fl
from fastlab.record import Effective
from fastlab.shrink import parts
from fastlab.spec.sharing import Sharing
from fastlab.view.explore import sharing as explore
from fastlab.view.plots.beside import name_marks
from tests.figures.made import record
from tests.view.explorers import tiny_llama

tables = sys.modules[fl.tables.looked_up.__module__]
SIZE = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512, "prompt_len": 64}
BITS = [2, 3]


def normal(n=64, k=192, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=source)


def test_evenly_spaced_values_by_hand():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.4, 2.4, 3.0]])
    assert tables.uniform(weight, 2).tolist() == [[0, 1, 2, 3], [0, 0, 2, 3]]
    halves = tables.uniform(torch.tensor([[0.0, 3.0, 5.0, 8.0]]), 2, 2)
    assert halves.tolist() == [[0, 3, 5, 8]]


def test_sqnr_by_hand():
    weight = torch.tensor([[3.0, 4.0]])
    assert tables.sqnr(weight, torch.tensor([[3.0, 3.5]])) == pytest.approx(20)
    assert tables.sqnr(weight, weight) == math.inf


def test_bytes_by_hand():
    sizes = {(s.kind, s.bits): s.size(512, 192) for s in tables.schemes([2, 3, 4, 6])}
    assert sizes[tables.ONE, 3] == 36_864 + 16
    assert sizes[tables.EACH, 3] == 36_864 + 512 * 16
    # 98,304 weights in 1,536 groups with a scale and a zero point of 2 bytes each.
    assert sizes[tables.UNIFORM, 3] == 36_864 + 1536 * 4
    assert sizes["int4-g64", 4] == 49_152 + 1536 * 4
    assert sizes["int8", 8] == 98_304 + 512 * 2


@pytest.mark.parametrize("scheme", tables.schemes([2, 3]), ids=lambda s: s.kind)
def test_bytes_are_those_of_the_modules_that_store_weights(scheme):
    model = tiny_llama().to(torch.bfloat16)
    names = parts.linear_names(model, "layers")
    shapes = [parts.dense_weight(model.get_submodule(n)).shape for n in names]
    wanted = sum(scheme.size(n, k) for n, k in shapes)
    if scheme.kind == tables.UNIFORM:
        return  # no module stores these
    if "palette" in scheme.kind:
        rows = 0 if scheme.kind == tables.ONE else 1
        model = fl.share(model, Sharing(scheme.bits, rows))
    else:
        model = fl.quantize(model, scheme.kind)
    modules = [model.get_submodule(n) for n in names]
    stored = sum(p.numel() * p.element_size() for m in modules for p in own(m))
    assert stored == wanted


def own(module):
    return [*module.parameters(), *module.buffers()]


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_rounding_is_what_the_modules_give_back(bits):
    linear = torch.nn.Linear(192, 64, bias=False)
    linear.weight.data = normal()
    given = {s.kind: s.to(linear.weight) for s in tables.schemes([bits])}
    from fastlab.shrink.share import lut_linear

    for kind, rows in ((tables.ONE, 0), (tables.EACH, 1)):
        if kind in given:
            made = lut_linear(linear.weight, None, Sharing(bits, rows)).dense()
            torch.testing.assert_close(given[kind], made)


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("rows", [0, 1, 16])
def test_few_bits_are_better_spent_where_the_weights_are(bits, rows):
    weight = normal()
    shared, values = tables.palette(weight, bits, rows)
    even = tables.uniform(weight, bits, rows * weight.shape[1])
    assert tables.sqnr(weight, shared) > tables.sqnr(weight, even)
    assert values.shape == ((len(weight) // rows if rows else 1), 2**bits)


def run_of(points, device, factor):
    stored = Effective("x", "sdpa", 1, 2_000_000)
    found = []
    for point in points:
        shared = point.recipe.sharing is not None
        found.append(record(point, device, factor if shared else 1.0, effective=stored))
    reference = SimpleNamespace(rows=lambda asked: found)
    return SimpleNamespace(points=points, reference=reference, caption="by hand")


@pytest.fixture(scope="module")
def times():
    device = fl.device("h200")
    both = fl.grid(**SIZE, phase=["prefill", "decode"])
    shared = run_of(fl.tables.stored_points(both, ["fp32"], BITS), device, 3.0)
    packed = run_of(fl.tables.stored_points(both, ["bf16", "int8"]), device, 1.0)
    return fl.tables.looked_up(shared, packed)


def test_each_time_stands_over_the_dense_row_of_its_precision(times):
    assert list(dict.fromkeys(times["storage"])) == [
        *("dense fp32", "2-bit palette", "3-bit palette", "dense bf16", "int8")
    ]
    dense = times[times["storage"].str.startswith("dense")]
    assert list(dense["measured_gain"]) == [1] * 4
    palettes = times[times["storage"].str.contains("palette")]
    ratio = palettes["measured_gain"] / palettes["estimated_gain"]
    assert list(ratio) == pytest.approx([1 / 3] * 4)  # measured at 3 times the estimate
    assert set(times["weights_mb"]) == {2.0}


def test_the_figure_of_times_tells_factors_and_megabytes(times):
    figure = fl.plots.lookups(times)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        *("prefill", "decode", "all weights")
    ]
    said = fl.alt.lookups(times, "by hand")
    assert "2-bit palette decode" in said
    assert "speed-up ÷" in said
    assert "by hand" in said
    plt.close(figure)


def test_words_beside_marks_cover_neither_lines_nor_each_other():
    figure = Figure(figsize=(4, 4))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, 2, 2], "o-")
    axes.set(xlim=(-1, 3), ylim=(-1, 3))
    marks = [(0.0, 0.0), (1.0, 2.0), (1.05, 2.0), (2.0, 2.0)]
    name_marks(axes, marks, list("abcd"), ["black"] * 4)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    (line,) = axes.lines
    for n, box in enumerate(boxes):
        path = line.get_path().transformed(axes.transData)
        assert not path.intersects_bbox(box, filled=False)
        assert not box.count_overlaps(boxes[:n])


def test_rows_alike_are_told_apart_by_what_differs(device):
    both = fl.grid(**SIZE, phase=["prefill", "decode"])
    points = fl.tables.stored_points(both, ["fp32"], BITS)
    rows = fl.table([record(point, device, 1.0) for point in points])
    short = fl.tables.short(rows)
    assert list(short)[:5] == ["layers", "hidden", "precision", "phase", "share_bits"]
    assert not short.iloc[:, :5].duplicated().any()
    assert "new_tokens" not in short  # the phase tells it already
    assert "share_bits" not in fl.tables.short(rows[:2])


def test_points_have_palettes_only_in_fp32():
    both = fl.grid(**SIZE, phase=["prefill", "decode"])
    points = fl.tables.stored_points(both, ["fp32", "int8"], BITS)
    assert len(points) == 2 * (2 + len(BITS))
    shared = [p for p in points if p.recipe.sharing]
    assert {p.recipe.precision for p in shared} == {"fp32"}


@pytest.mark.parametrize("rows", explore.ROWS)
def test_the_explorer_tells_bytes_and_refuses_what_does_not_divide(rows):
    weight = normal(96, 32)
    markup = explore.shown("layer 0: q", weight, 3, rows)
    if rows == 64:
        assert "64 rows do not divide the 96" in markup
        return
    count = 96 // rows if rows else 1
    stored = 96 * 32 * 3 // 8 + 16 * count
    assert f"{stored:,} bytes" in markup
    assert f"{count} table" in markup


def test_the_explorer_offers_every_linear_of_the_layers():
    names = list(explore.layers_of(tiny_llama()))
    assert names[0] == "layer 0: self_attn.q_proj"
    assert names[-1] == "layer 1: mlp.down_proj"
    assert len(names) == 14

"""Palettes beside integers: bytes and dB by hand, times over their dense rows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

import fastlab as fl
from fastlab.figures import sharing
from fastlab.figures.labels import name_marks
from fastlab.models import build
from fastlab.record import Effective
from fastlab.shrink import parts
from fastlab.shrink.share import lut_linear, share
from fastlab.spec import Point
from fastlab.spec.storage import Sharing
from tests.cells import run_cells
from tests.figures.made import record
from tests.pins import compare

SIZE = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512, "prompt_len": 64}
SIZE |= {"phase": ["prefill", "decode"]}


def tiny_llama():
    """A model of two layers whose rows groups of 16 divide, and groups of 64 do not."""
    shape = fl.grid(model="tiny-llama", heads=4, kv_heads=2, head_dim=16)[0].shape
    return build(Point(shape))


def normal(n=64, k=192):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0))


def test_evenly_spaced_values_by_hand():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.4, 2.4, 3.0]])
    assert sharing.uniform(weight, 2).tolist() == [[0, 1, 2, 3], [0, 0, 2, 3]]
    halves = sharing.uniform(torch.tensor([[0.0, 3.0, 5.0, 8.0]]), 2, 2)
    assert halves.tolist() == [[0, 3, 5, 8]]


def sqnr(weight, rounded):
    return sharing.decibels([weight], [rounded])


def test_sqnr_by_hand():
    weight = torch.tensor([[3.0, 4.0]])
    assert sqnr(weight, torch.tensor([[3.0, 3.5]])) == pytest.approx(20)
    assert sqnr(weight, weight) == math.inf


def test_bytes_by_hand():
    sizes = {(s.kind, s.bits): s.size(512, 192) for s in sharing.schemes([2, 3, 4, 6])}
    assert sizes[sharing.ONE, 3] == 36_864 + 16
    assert sizes[sharing.EACH, 3] == 36_864 + 512 * 16
    # 98,304 weights in 1,536 groups with a scale and a zero point of 2 bytes each.
    assert sizes[sharing.UNIFORM, 3] == 36_864 + 1536 * 4
    assert sizes["int4-g64", 4] == 49_152 + 1536 * 4
    assert sizes["int8", 8] == 98_304 + 512 * 2


STORED = [s for s in sharing.schemes([2, 3]) if s.kind != sharing.UNIFORM]


@pytest.mark.parametrize("way", STORED, ids=str)
def test_bytes_are_those_of_the_modules_that_store_weights(way):
    model = tiny_llama().to(torch.bfloat16)
    names = parts.linear_names(model, "layers")
    shapes = [parts.dense_weight(model.get_submodule(n)).shape for n in names]
    if way.kind in sharing.SHARED:
        model = share(model, Sharing(way.bits, sharing.SHARED[way.kind]))
    else:
        model = fl.quantize(model, way.kind)
    modules = [model.get_submodule(n) for n in names]
    held = [p for m in modules for p in (*m.parameters(), *m.buffers())]
    stored = sum(p.numel() * p.element_size() for p in held)
    assert stored == sum(way.size(*shape) for shape in shapes)


@pytest.mark.parametrize("way", sharing.schemes([2, 3, 4, 6])[:7], ids=str)
def test_rounding_is_what_the_modules_give_back(way):
    rows = sharing.SHARED[way.kind]
    dense = lut_linear(normal(), None, Sharing(way.bits, rows)).dense()
    torch.testing.assert_close(way.rounded(normal()), dense)


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("rows", [0, 1, 16])
def test_few_bits_are_better_spent_where_the_weights_are(bits, rows):
    weight = normal()
    shared, values = sharing.clustered(weight, bits, rows)
    even = sharing.uniform(weight, bits, rows * weight.shape[1])
    assert sqnr(weight, shared) > sqnr(weight, even)
    assert values.shape == ((len(weight) // rows if rows else 1), 2**bits)


@pytest.fixture(scope="module")
def times():
    device, stored = fl.device("h200"), Effective("x", "sdpa", 1, 2_000_000)
    grids = {"share_bits": [0, 2, 3]}, {"precision": ["bf16", "int8"]}
    tables = []
    for points in (fl.grid(**own, **SIZE) for own in grids):
        slow = [3.0 if point.recipe.sharing else 1.0 for point in points]
        pairs = zip(points, slow, strict=True)
        records = [record(point, device, by, effective=stored) for point, by in pairs]
        tables.append(fl.table(records))
    return speed_ups(*tables)


def speed_ups(palettes, integers):
    """The rows of both as the notebook's cell puts them beside their dense ones."""
    packed = SimpleNamespace(rows=lambda: integers)
    found = run_cells("09", "speed-ups", fl=fl, rows=palettes, packed=packed)
    return found["times"][found["columns"]]


def test_each_time_stands_over_the_dense_row_of_its_precision(times):
    assert list(dict.fromkeys(times["storage"])) == [
        *("dense fp32", "2-bit palette", "3-bit palette", "dense bf16", "int8")
    ]
    assert list(times["bits"][::2]) == [32, 2, 3, 16, 8]
    dense = times[times["storage"].str.startswith("dense")]
    assert list(dense["measured_gain"]) == [1] * 4
    palettes = times[times["storage"].str.contains("palette")]
    ratio = palettes["measured_gain"] / palettes["estimated_gain"]
    assert list(ratio) == pytest.approx([1 / 3] * 4)  # measured at 3 times the estimate
    assert set(times["weights_mb"]) == {2.0}


def test_the_figure_of_times_tells_factors_and_megabytes(times):
    figure = sharing.lookups(times)
    assert [panel.title for panel in figure.panels] == [
        *("prefill", "decode", "all weights")
    ]
    ((_, gains),) = figure.panels[1].notes
    assert gains[0] == "1"
    assert gains[1].startswith("÷")
    assert figure.panels[2].notes[0][1] == ["2 MB"] * 5
    assert "nothing measured" in sharing.lookups(times[:0]).tell()


def test_stored_times_give_the_speedups_of_the_committed_rows():
    large = SIZE | {"layers": 4, "hidden": 1024, "vocab": 2048, "prompt_len": 128}
    shared = fl.grid(share_bits=[0, 2, 3, 4, 6], **large)
    packed = fl.grid(precision=["bf16", "int8", "int4-g64"], **large)
    runs = [fl.start("09", "replay", points).rows() for points in (shared, packed)]
    times = speed_ups(*runs)
    figure = sharing.lookups(times)
    found = compare("09_distill_and_share_lookups", figure.table)
    assert found == ["column 'run' is missing"]  # the caption tells it
    table = times.set_index(["storage", "phase"])
    gains = table["measured_gain"]
    assert len(gains) == 16
    # 61.81 ms dense, 229.79 ms with 2 bits; 10.41 ms dense bf16, 4.90 ms int8.
    assert gains["2-bit palette", "prefill"] == pytest.approx(0.26898791200354344)
    assert gains["int8", "decode"] == pytest.approx(2.13, abs=0.005)


def test_words_beside_marks_cover_neither_lines_nor_each_other():
    figure = Figure(figsize=(4, 4))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, 2, 2], "o-")
    axes.set(xlim=(-1, 3), ylim=(-1, 3))
    marks = [(0.0, 0.0), (1.0, 2.0), (1.05, 2.0), (2.0, 2.0)]
    name_marks(axes, marks, list("abcd"), ["black"] * 4)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    line, *leads = axes.lines  # a word far from its mark stands at a thin line's end
    assert len(leads) < len(marks)
    for n, box in enumerate(boxes):
        path = line.get_path().transformed(axes.transData)
        assert not path.intersects_bbox(box, filled=False)
        assert not box.count_overlaps(boxes[:n])


def test_rows_alike_are_told_apart_by_what_differs():
    points = fl.grid(share_bits=[0, 2, 3], **SIZE)
    rows = fl.table([record(point, fl.device("h200"), 1.0) for point in points])
    short = fl.short(rows)
    first = ["family", "layers", "hidden", "precision", "phase", "share_bits"]
    assert list(short)[:6] == first
    assert not short.iloc[:, :6].duplicated().any()
    assert "new_tokens" not in short  # the phase tells it already
    assert "share_bits" not in fl.short(rows[:2])


@pytest.mark.parametrize(("rows", "count"), [(0, 1), (1, 96), (16, 6)])
def test_a_weight_taken_apart_tells_its_bytes(rows, count):
    figure = sharing.apart("layer 0: q", normal(96, 32), 3, rows)
    assert f"{96 * 32 * 3 // 8 + 16 * count:,} bytes" in figure.title
    assert f"{count} table" in figure.title


def test_the_explorer_offers_every_linear_and_rows_that_divide_it():
    explorer = sharing.palettes(tiny_llama())
    names = explorer.options["weight"]
    assert names[0] == "layer 0: self_attn.q_proj"
    assert names[-1] == "layer 1: mlp.down_proj"
    assert len(names) == 14
    kept = {n: explorer.options["rows"]({"weight": n}) for n in names}
    assert kept["layer 0: self_attn.k_proj"] == {"1": 1, "4": 4, "16": 16, "all": 0}
    assert "values of the table" in explorer.picture(rows=16)

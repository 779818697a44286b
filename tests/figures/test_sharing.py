"""Palettes beside integers: bytes and dB by hand, times over their dense rows."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import fastlab as fl
from fastlab.figures import sharing
from fastlab.figures.labels import name_marks
from fastlab.record import Effective
from fastlab.shrink.share import lut_linear
from fastlab.spec.storage import Sharing
from tests.cells import Shows, run_cells
from tests.figures.made import record
from tests.pins import compare
from tests.small import checkpoint, normal

SIZE = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512, "prompt_len": 64}
SIZE |= {"phase": ["prefill", "decode"]}


BY_HAND = run_cells("09", "by-hand-loss", "by-hand-palette", "by-hand-uniform")


def test_the_palette_by_hand_is_that_of_the_package():
    weight = normal(64, 192)
    for bits in (2, 3):
        ours = lut_linear(weight, None, Sharing(bits)).dense()
        by_hand = BY_HAND["palette"](weight, bits)
        errors = [float((weight - w).norm()) for w in (by_hand, ours)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3)
        assert errors[1] < (weight - BY_HAND["uniform"](weight, bits)).norm()


def test_evenly_spaced_values_by_hand():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.4, 2.4, 3.0]])
    found = BY_HAND["uniform"](weight, 2, group=8)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1, 2, 3], [0, 0, 2, 3]]))
    halves = BY_HAND["uniform"](torch.tensor([[0.0, 3.0, 5.0, 8.0]]), 2, 2)
    torch.testing.assert_close(halves, torch.tensor([[0.0, 3, 5, 8]]))


def test_every_way_is_judged_at_the_bytes_it_takes(tmp_path):
    """Of 64 x 32 weights and the like: 3 bits and a table, 3 bits and a scale a 64."""
    text = "".join(f"{n} cats and {n * n} dogs\n" for n in range(4000))
    sizes = {"layers": 1, "hidden": 64, "heads": 2, "ffn": 64, "max_positions": 64}
    own = checkpoint(tmp_path, text, family="llama", tied=True, **sizes)
    names = {"model": "own", "bits": [3, 6], "blocks": 1, "text": own.text[0]}
    names |= {"base": {"model": str(tmp_path), "weights": "trained", "prompt_len": 1}}
    names |= {"pd": pd, "math": math, "steps": 1, **BY_HAND}
    names["home"] = Path(fl.__file__).parents[1] / "data" / "checkpoints"
    names["packed"] = SimpleNamespace(rows=pd.DataFrame)
    cells = ("teacher", "ways", "stored-rows", "rounding", "bytes")
    found = run_cells("09", *cells, **names)
    lost = found["lost"].set_index(["kind", "bits"])
    assert len(lost) == 7
    each = 64 * 64  # weights of each of the 7 linears
    taken = lost["bits_per_weight"].to_dict()
    assert taken["palette, one table", 3] == pytest.approx(3 + 8 * 16 / each)
    assert taken["palette, a table a row", 3] == pytest.approx(3 + 8 * 16 / 64)
    assert taken["uniform, groups of 64", 3] == pytest.approx(3.5)
    assert taken["int8", 8] == pytest.approx(8 + 16 / 64)
    assert taken["int4-g64", 4] == pytest.approx(4.5)
    assert lost["sqnr_db"]["palette, one table"].between(10, 35).all()
    assert (lost["kl_nats"] > 0).all()
    assert found["run"].shown["stored"].title.startswith("What a bit buys: 3 bits cost")


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
    run = Shows()
    run.rows = lambda: palettes
    names = {
        "run": run,
        "hidden": 64,
        "packed": Shows(),
        "integers": integers.assign(dense="bf16"),
    }
    found = run_cells("09", "rows", "times", **names)
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


def test_stored_times_give_the_speedups_of_the_committed_rows():
    large = SIZE | {"layers": 4, "hidden": 1024, "vocab": 2048, "prompt_len": 128}
    shared = fl.grid(share_bits=[0, 2, 3, 4, 6], **large)
    packed = fl.grid(precision=["bf16", "int8", "int4-g64"], **large)
    runs = [fl.start("09", "replay", points).rows() for points in (shared, packed)]
    times = speed_ups(*runs)
    figure = sharing.lookups(times)
    assert compare("09_distill_and_share_lookups", figure.table) == []
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


@pytest.mark.parametrize(("rows", "count"), [(0, 1), (1, 96), (16, 6)])
def test_a_weight_taken_apart_tells_its_bytes(rows, count):
    figure = sharing.apart("layer 0: q", normal(96, 32), 3, rows)
    assert f"{96 * 32 * 3 // 8 + 16 * count:,} bytes" in figure.title
    assert f"{count} table" in figure.title


def test_the_explorer_offers_rows_that_divide_a_weight():
    given = {"originals": {"model.q": normal(64, 192), "k": normal(32, 192)}}
    explorer = run_cells("09_distill", "explorer", **given)["shown"]
    kept = {n: explorer.options["rows"]({"weight": n}) for n in ("model.q", "k")}
    assert kept["model.q"] == {"1": 1, "4": 4, "16": 16, "64": 64, "all": 0}
    assert kept["k"] == {"1": 1, "4": 4, "16": 16, "all": 0}
    assert "values of the table" in explorer.picture(rows=16)

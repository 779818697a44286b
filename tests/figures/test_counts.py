"""Counts: sums, torch's agreement, the cache, the article, and their figures."""

from __future__ import annotations

from unittest.mock import Mock

import pandas as pd
import pytest

import fastlab as fl
from fastlab.cost import operations
from fastlab.cost.operations import PARTS, total
from fastlab.figures import counts
from fastlab.figures.style import STACKED
from fastlab.spec.shape import GROUPED
from fastlab.words import factor
from tests.cells import run_cells
from tests.pins import compare

NOTEBOOK = "01_count"

NAMES = ("BYTES", "bytes_by_kind", "flops_by_part", "part_of")
STATE = {"layers": 16, "hidden": 2048, "prompt_len": 512, "batch": 1}
STATE |= {"queries_per_kv": 4, "phase": "prefill"}


@pytest.fixture(scope="module")
def point():
    return fl.grid(model="llama-3.2-1b", prompt_len=512, precision="bf16")[0]


@pytest.fixture(scope="module")
def cells(point):
    """What the lesson's cells of counts leave behind."""
    work = {"precision": "bf16", "prompt_len": 512}
    decode = fl.grid(model="llama-3.2-1b", phase="decode", **work)[0]
    given = {"prefill": point, "decode": decode, "work": work, "batch": 64}
    given |= {"prompt_len": 512, "prompt_lens": [128, 512, 2048, 8192, 32768]}
    given |= {
        "pd": pd,
        "hiddens": [256, 512, 1024, 2048, 4096],
        "model": "llama-3.2-1b",
    }
    names = ("operations", "shares", "bytes", "cache", "cache-sizes", "article")
    given |= {name: getattr(operations, name) for name in NAMES}
    return run_cells(NOTEBOOK, *names, "audit", **given, run=Mock())


@pytest.fixture(scope="module")
def tables(cells):
    return cells["lengths"], cells["widths"]


def test_the_pinned_rows_are_still_there(cells, tables):
    lengths, widths = tables
    figure = counts.flop_shares(lengths, widths)
    assert compare("01_count_flop_shares", figure.table[: len(lengths)]) == []
    moved = counts.bytes_moved(cells["moved"])
    assert compare("01_count_bytes_moved", moved.table) == []
    assert compare("01_count_04", cells["ops"]) == []
    assert compare("01_count_09", cells["shown"]) == []
    assert compare("01_count_12", cells["cache"]) == []


def test_the_operations_add_up_in_the_last_line(cells, point):
    table = cells["ops"]
    last, rest = table.iloc[-1], table.iloc[:-1]
    assert last["operation"] == "all"
    assert last["GFLOP"] == pytest.approx(total(point, "flops") / 1e9)
    assert last["share"] == pytest.approx(1)
    assert rest["weights MB"].sum() == pytest.approx(last["weights MB"])
    assert set(rest["part"]) == {"", *PARTS}


@pytest.mark.parametrize("model", ["llama-3.2-1b", "gpt2", "qwen3-0.6b", "bert"])
def test_a_layer_by_hand_costs_what_the_operations_say(model):
    """The check's assertions hold: FLOPs and bytes to the last, with biases or not."""
    point = fl.grid(model=model, prompt_len=64, precision="bf16")[0]
    given = {"prefill": point, "prompt_len": 64, "precision": "bf16"}
    names = ("by-hand-layer", "by-hand-cost", "by-hand-check")
    table = run_cells(NOTEBOOK, *names, **given)["shown"]
    assert table["product"].iloc[-1] == "attention"


def test_torch_agrees_on_every_point(cells):
    points = fl.grid(model=["tiny-gpt2", "tiny-llama"], phase=["prefill", "decode"])
    given = {name: cells[name] for name in ("pd", "flops_by_part")}
    table = run_cells(NOTEBOOK, "families", run=Mock(points=points), **given)["rows"]
    assert list(table["ratio"]) == [1.0] * 4
    assert list(table["parameters"]) == list(table["torch_parameters"])
    assert list(table["phase"]) == ["prefill", "decode"] * 2


def test_the_counters_are_one_line_each(monkeypatch):
    from fastlab.clock import counters

    kept = [one for one in counters.COUNTERS if one[1] == "torch"]
    strange = ("theirs", "no_such_package_at_all", kept[0][2])
    monkeypatch.setattr(counters, "COUNTERS", [*kept, strange])
    given = {"counter_len": 16, "pd": pd, "counted": counters.counted}
    rows = run_cells(NOTEBOOK, "counters", **given)["shown"]
    assert list(rows) == ["counter", "sdpa (the default)", "eager"]
    rows = rows.set_index("counter")
    assert rows.loc["torch on meta"].tolist() == ["1.0000", "1.0000"]
    assert rows.loc["theirs"].tolist() == ["not installed"] * 2


def test_the_cache_by_hand(cells, point):
    """16 layers, keys and values, 64 numbers a head, 2 bytes: 4,096 B a KV head."""
    table = cells["cache"].set_index("KV heads")
    assert list(table.index) == [32, 8, 1]
    assert table.loc[8, "KB a position"] == 8 * 4.096
    assert table.loc[1, "MB at 1,024"] == pytest.approx(1.024 * 4.096)
    weights = 2 * fl.parameters(point.shape)
    assert table.loc[8, "outweighs"] == round(weights / (8 * 4096))
    given = {"prefill": fl.grid(model="gpt2")[0], "vary": cells["vary"]}
    gpt2 = run_cells(NOTEBOOK, "cache", **given)
    assert gpt2["kv_heads"] == [12]


def test_attention_grows_with_the_prompt(tables):
    table = tables[0]
    assert table[list(PARTS)].sum(axis=1).tolist() == pytest.approx([1] * 5)
    short, _, _, long, _ = table["attention"] * table["GFLOP"]
    assert long / short == pytest.approx((8192 / 128) ** 2)


def test_a_decode_step_does_about_one_flop_for_each_byte(cells):
    moved = cells["moved"]
    assert moved["FLOP per byte"][1] == pytest.approx(1.0, abs=0.05)
    assert moved["FLOP per byte"][0] > 50
    assert moved["weights"][0] == pytest.approx(2.473, abs=1e-3)


def test_the_article_is_wrong_in_every_line(cells):
    rows = cells["shown"][["it prints", "that gives", "right"]]
    assert rows.to_numpy().tolist() == [
        ["1.25·10⁹", "1.45·10¹⁰", "2.92·10¹¹"],
        ["2.50·10⁹", "2.90·10¹⁰", "2.92·10¹¹"],
        ["1.50·10⁹", "1.61·10⁹", "7.85·10¹⁰"],
        ["1.88·10⁷", "2.01·10⁸", "7.85·10¹⁰"],
        ["thousands", "×143", "×3.72"],
        ["n³", "×8", "×4"],
    ]


def test_the_titles_say_where_the_parts_meet(tables):
    figure = counts.flop_shares(*tables)
    # attention 4 n² H = MLP 6 n H F at n = 1.5 F = 12,288
    titles = [panel.title for panel in figure.panels]
    assert titles[0] == "attention equals the MLP at 12,288 tokens"
    assert titles[1] == "the head: 63 % to 12 % of the FLOPs"
    assert len(set(STACKED)) == len(figure.panels[0].layers) == 4


@pytest.mark.parametrize(
    ("change", "count", "told"),
    [
        ({}, "all FLOPs", "same"),
        ({"prompt_len": 1024}, "FLOPs of projections", "×2"),
        ({"prompt_len": 1024}, "FLOPs of attention", "×4"),
        ({"hidden": 4096}, "FLOPs of MLP", "×4"),
        ({"hidden": 4096}, "FLOPs of attention", "×2"),
        ({"queries_per_kv": 1}, "KV cache held", "×4"),
        ({"queries_per_kv": 1}, "FLOPs of attention", "same"),
        ({"layers": 32}, "FLOPs of MLP", "×2"),
        ({"batch": 8}, "weights moved", "×1.01"),
        ({"phase": "decode"}, "FLOPs of MLP", "÷512"),
        ({"phase": "decode"}, "weights moved", "same"),
    ],
)
def test_the_explorer_has_the_factor_of_each_count(point, change, count, told):
    figure = counts.factors(point, counts.changed(point, **(STATE | change)))
    table = figure.table.set_index("count")
    assert factor(table.loc[count, "factor"]) == told


@pytest.mark.parametrize("model", ["gpt2", "qwen3-0.6b"])
def test_every_family_has_an_explorer(model):
    point = fl.grid(model=model)[0]
    given = {"prefill": point, "prompt_len": 128}
    explorer = run_cells(NOTEBOOK, "explorer", **given)["shown"]
    assert "<figure" in explorer.picture()
    grouped = len(explorer.offered["queries_per_kv"]) > 1
    assert grouped == (point.shape.family in GROUPED)

"""The ladder, KV caches, prefixes and unrolled steps: numbers worked out by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import fastlab as fl
from fastlab.figures import decode
from fastlab.learning.tokens import make_tokenizer
from fastlab.notebook import generation
from fastlab.record import Effective, Quality
from fastlab.rows import with_missing
from fastlab.spec.grids import flat
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.figures.made import measurement, record
from tests.pins import compare

ROOT = Path(__file__).parents[2]
TINY = {"family": "llama", "layers": 1, "hidden": 64, "vocab": 512, "kv_heads": 1}
NAMES = ["dynamic", "static", "our decoder", "our graph"]
QUALITY = Quality("fp32", "0" * 64, 0.002, 0.9, 0.1)
PRECISIONS = ["bf16", "fp32", "int8", "int4-g64"]
LARGE = fl.PRESETS["llama-3.1-8b"]


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "decode_ladder.py"
    spec = importlib.util.spec_from_file_location("decode_ladder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def points():
    return decode.ladder_points(TINY, ["bf16", "fp32", "int4-g64"], NAMES)


@pytest.fixture(scope="module")
def rows(points):
    """10 ms eager, 5 static and ours, 2.5 in int4; graphs refused."""
    device = fl.device("h200")
    ms = {"dynamic": 10, "static": 5, "our decoder": 5}
    records = []
    for point in points:
        one, rung = record(point, device, 1.0), rung_of(point)
        if rung == "our graph":
            over = {"status": "unsupported", "reason": "runtime graph needs X: so"}
            records.append(replace(one, measured=None, estimate=None, **over))
            continue
        share = 0.5 if point.recipe.precision == "int4-g64" else 1.0
        found = replace(measurement(ms[rung] * share / 1e3), compile_s=7.0)
        records.append(replace(one, measured=found, quality=QUALITY))
    return fl.table(records)


@pytest.fixture(scope="module")
def table(rows):
    return decode.rungs(rows)


def rung_of(point):
    return decode.rung_of(flat(point))


def texts(figure):
    return [text.get_text() for axes in figure.draw().axes for text in axes.texts]


def test_the_notebook_and_the_benchmark_climb_the_same_rungs(benchmark):
    here = decode.ladder_points("24x896", PRECISIONS)
    assert set(here) == set(benchmark.points("cpu").values())
    assert len(set(here)) == len(here) == 19


def test_the_benchmark_prints_the_rows_of_the_ladder(benchmark, rows):
    found = benchmark.ladder(rows).set_index("rung")
    assert found.loc["our decoder", "x eager"] == 2
    assert found.loc["int4-g64, our decoder", "x fastest"] == 2
    assert found.loc["our graph", "status"] == "unsupported"


@pytest.mark.parametrize("name", decode._ladder()["rungs"])
def test_each_rung_is_known_by_its_point(name):
    (point,) = decode.ladder_points(TINY, ["bf16"], [name])
    assert rung_of(point) == name


def test_a_point_that_is_no_rung_has_no_name():
    (point,) = fl.grid(model="tiny-llama", phase="prefill")
    assert rung_of(point) == ""


def test_eager_and_compiled_stand_together_for_every_further_precision(points):
    found = [(p.recipe.precision, rung_of(p)) for p in points]
    assert found[4:6] == [("fp32", "dynamic"), ("fp32", "our decoder")]
    assert [n for p, n in found if p == "int4-g64"] == NAMES[1:]
    assert {p.recipe.scope for p in points[6:]} == {"head"}


def test_an_unknown_rung_is_refused():
    with pytest.raises(ValueError, match="rung='ours'"):
        decode.ladder_points(TINY, ["bf16"], ["ours"])


def test_rates_and_ratios_by_hand(table):
    found = table.set_index(["precision", "rung"])
    eager, four = found.loc[("bf16", "dynamic")], found.loc[("int4-g64", "our decoder")]
    assert eager["tokens_per_s"] == pytest.approx(100)
    assert eager["measured_high_per_s"] == pytest.approx(100 / 0.98)
    assert found.loc[("bf16", "our decoder"), "speedup"] == pytest.approx(2)
    assert four["tokens_per_s"] == pytest.approx(400)
    assert (four["speedup"], four["over_dense"]) == pytest.approx((4, 2))
    assert four["estimated_per_s"] == pytest.approx(1e3 / four["estimated_ms"])
    assert (four["kl_nats"], four["top1"]) == (0.002, 0.9)


def test_fp32_is_its_own_reference_and_what_did_not_run_has_no_quality(points):
    device = fl.device("h200")
    plain = [record(p, device, 1.0) for p in points if p.recipe.precision == "fp32"]
    assert list(decode.rungs(fl.table(plain))["kl_nats"]) == [0.0, 0.0]
    failed = replace(plain[0], measured=None, status="oom")
    assert decode.rungs(fl.table([failed]))["kl_nats"].isna().all()


def test_without_an_eager_row_there_is_no_ratio_over_it(rows):
    assert decode.rungs(rows.iloc[1:2])["speedup"].isna().all()
    assert decode.rungs(rows.iloc[:0]).empty
    figure = decode.ladder(decode.rungs(rows.iloc[1:2]), "title")
    assert figure.title == "title\nfastest: bf16, static, 200/s"


def test_mbu_is_of_the_datasheet_and_of_the_copy(points):
    device = fl.device("h200")
    one = replace(record(points[0], device, 1.0), env="e")
    effective = Effective("bfloat16", "sdpa", one.estimate.parameters, 10**6)
    copied = {"e": {"copy_bytes_per_s": device.bandwidth / 2}}
    found = decode.rungs(fl.table([replace(one, effective=effective)], copied))
    assert found["mbu_copy"].item() == pytest.approx(2 * found["mbu"].item())
    assert "MBU of\nsheet" in texts(decode.ladder(found, "title"))


def test_what_is_not_stored_is_missing_and_what_cannot_run_says_why(rows, points):
    profile = replace(fl.device("m4-max"), kind="cpu")
    found = with_missing(rows.iloc[:1], points[:4], "cpu", profile)
    found = decode.rungs(found, profile)
    assert list(found["status"]) == ["ok", "missing", "missing", "unsupported"]
    assert "needs an NVIDIA GPU" in found["reason"].iloc[3]
    assert list(found["estimated_per_s"].notna()) == [True, True, True, False]


def test_the_default_ladder_has_stored_rows():
    points = decode.ladder_points("24x896", PRECISIONS)
    run = fl.start("08_decode_and_cache", "replay", points)
    found = decode.rungs(run.rows(), run.profile)
    assert set(found["status"]) == {"ok", "unsupported"}
    assert found[found["status"] != "ok"]["rung"].str.contains("graph").all()
    figure = decode.ladder(found, "24x896")
    assert compare("08_decode_and_cache_ladder", figure.table) == []
    assert faults(figure) == []


def test_groups_stand_apart_and_generations_last(table):
    whole = table.iloc[:1].assign(phase="generate", rung="generate, our decoder")
    both = pd.concat([whole, table], ignore_index=True)
    names = decode.ladder(both, "title").panels[0].y.names
    assert list(names)[:2] == ["bf16", "dynamic, bf16"]
    assert list(names.values())[-2:] == ["", "our decoder"]


def test_the_ladder_writes_ratios_refusals_and_compile_times(table):
    figure = decode.ladder(table, "title")
    said = texts(figure)
    assert {"unsupported: needs X", "×4", "7.00", "×2"} <= set(said)
    assert not any("sheet" in text for text in said)
    assert figure.size[0] <= 11
    told = figure.tell()
    assert "fastest: int4-g64, static, 400/s, ×4.00 over eager" in told


def test_a_ladder_of_nothing_measured_still_draws(table):
    refused = table[table["status"] != "ok"]
    assert "unsupported: needs X" in texts(decode.ladder(refused, "title"))


def test_noisy_bars_are_hatched(table):
    figure = decode.ladder(table.assign(flags="noisy"), "title").draw()
    assert any(bar.get_hatch() for bar in figure.axes[0].patches)


NOTEBOOK = "08_decode_and_cache"
HELD = ("held-asked", "held-made", "held")


def held(**small):
    """What notebook 08 allocates of a small model, and its figure."""
    small = {"layers": 1, "hidden": 64, "vocab": 512} | small
    given = {"small": small, "steps": fl.grid(**small), "decode": decode}
    space = run_cells(NOTEBOOK, *HELD, live_precisions=["fp32"], **given)
    return space["sizes"], space["run"].shown["held"]


def test_caches_are_allocated_as_the_formula_says():
    found, figure = held(family="llama", layers=2, heads=4, kv_heads=2)
    assert found["same"].all()
    size = found.set_index(["heads", "cache", "positions"])["allocated"]
    # 2 x 2 layers x 2 KV heads x 16 wide x 4 bytes = 512 bytes a position
    own, grouped = decode.HEADS
    assert size[grouped, "dynamic", 130] == 130 * 512
    assert size[own, "dynamic", 130] == 130 * 1024
    assert size[grouped, "static", 130] == 192 * 512
    assert size[grouped, "static", 520] == 768 * 512
    assert size[grouped, "static-int8", 130] == 192 * 8 * (16 + 4)
    assert faults(figure) == []
    assert "16 of 16 allocated" in figure.title
    assert "static-int8" in texts(figure)


def test_a_model_without_groups_stands_once():
    found, _ = held(family="gpt2", max_positions=8200)
    assert set(found["heads"]) == {decode.HEADS[0]}
    assert len(found) == 12
    assert found["same"].all()
    alone = fl.ModelShape("gpt2", 1, 64, vocab=512, max_positions=256)
    assert list(decode.kv_kinds(alone)) == ["16-bit KV", "int8 KV"]


def test_bytes_of_a_cached_token_of_llama_8b():
    kinds = decode.kv_kinds(LARGE)
    assert kinds["16-bit KV"] == 131_072
    assert kinds["16-bit KV for all 32 heads"] == 4 * 131_072
    assert kinds["int8 KV"] == 2 * 32 * 8 * 132


def test_the_crossing_is_where_weights_and_cache_are_equal():
    found = decode.crossings(LARGE, ["bf16", "int4-g64"], 8)
    read = found["context"] * found["batch"] * found["bytes a token"]
    assert np.allclose(read, found["weight bytes"])
    plain = found[(found["weights"] == "bf16") & (found["cache"] == "16-bit KV")]
    assert plain["weight bytes"].item() == pytest.approx(15.01e9, rel=1e-3)
    assert plain["context"].item() == pytest.approx(14_315, rel=1e-3)
    figure = decode.crossover(found, "title", 4096)
    assert faults(figure) == []
    assert {"14.3 k", "bf16 weights", "int8 KV"} <= set(texts(figure))


def test_the_crossings_of_the_notebook_are_those_of_old():
    found = decode.crossings(LARGE, ("bf16", "int8", "int4-g64"), 8)
    assert compare("08_decode_and_cache_crossover", found) == []


def test_the_unrolled_steps_of_the_notebook_are_those_of_old():
    given = {"unrolls": [1, 2, 4, 8], "decode": decode}
    space = run_cells(NOTEBOOK, "unroll", "unroll-token", **given)
    table = space["run"].shown["unroll"].table
    assert compare("08_decode_and_cache_unroll", table) == []


def test_prompts_that_begin_alike_are_computed_once():
    small = {"family": "llama", "layers": 1, "hidden": 64, "vocab": 8192}
    turns = run_cells(NOTEBOOK, "turns", small=small, torch=torch)["turns"]
    tokens, reused, ms, rates, _ = zip(*turns, strict=True)
    assert tokens == (416, 432, 448, 416)
    assert reused == (0, 384, 384, 384)
    assert rates == pytest.approx((0, 384 / 848, 768 / 1296, 1152 / 1712))
    assert min(ms) > 0


def test_the_figure_of_prefixes_tells_gains_and_hits():
    rows = generations({1: 30.0, 2: 10.0}).assign(prefix_len=[0, 64], prompt_len=128)
    rows = rows.assign(estimated_low_ms=9.0, estimated_high_ms=31.0, ratio=1.0)
    rows = rows.drop(columns="unroll").assign(measured_gain=[1.0, 3.0])
    turns = pd.DataFrame({"prompt": ["1", "2"], "tokens": [25, 27], "reused": [0, 20]})
    turns = turns.assign(computed=[25, 7], ttft_ms=2.0, hit_rate=[0, 20 / 52])
    figure = decode.prefixes(rows, turns)
    assert faults(figure) == []
    assert {"×3.00", "38 %"} <= set(texts(figure))
    assert "64 of 128 tokens found in the cache: first token ×3.00" in figure.tell()
    assert "no prefill" in decode.prefixes(rows[:0], turns).title


def generations(ms):
    columns = {"status": "ok", "precision": "fp32", "runtime": "decoder"}
    rows = pd.DataFrame({"unroll": list(ms), "measured_ms": list(ms.values())})
    rows = rows.assign(**columns, n=20, compile_s=3.0, new_tokens=65)
    rows["estimated_ms"] = 65 * 0.2
    rows["measured_low_ms"] = rows["measured_high_ms"] = rows["measured_ms"]
    return rows


def unrolling(ms):
    done = generations(ms).sort_values("unroll")
    space = run_cells(NOTEBOOK, "unroll-token", done=done, decode=decode, calls=Shows())
    return space["run"].shown["unroll"]


def test_the_price_of_a_call_and_of_a_step_are_fitted():
    figure = unrolling({k: 65 * (0.1 + 0.4 / k) for k in (8, 1, 2)})
    found = figure.table
    assert list(found["unroll"]) == [1, 2, 8]
    assert found["step_ms"].iloc[0] == pytest.approx(0.1)
    assert found["host_ms"].iloc[0] == pytest.approx(0.4)
    assert found["estimated"].tolist() == pytest.approx([0.2] * 3)
    assert faults(figure) == []
    # 8 tokens: 8, 4 and 1 calls of 0.4 ms, and 8 steps of 0.1 ms
    assert figure.table["all_ms"].tolist() == pytest.approx([4.0, 2.4, 1.2])
    assert {"4.00", "2.40", "1.20", "3"} <= set(texts(figure))


def test_one_k_alone_has_no_fit_and_still_draws():
    figure = unrolling({2: 65.0})
    assert np.isnan(figure.table["host_ms"].iloc[0])
    assert "8.00" in texts(figure)


def test_the_explorer_says_what_is_read_and_whether_it_fits():
    explorer = decode.kv_growth("llama-3.1-8b", fl.device("h200"))
    title = explorer.make(**(explorer.state | {"batch": 8})).title
    assert "15 GB of weights and 4.29 GB of KV cache" in title
    assert "more than the memory" not in title
    large = {"batch": 256, "context": 2**19}
    assert "more than the memory" in explorer.make(**(explorer.state | large)).title


def test_the_explorer_offers_what_the_device_can_do():
    explorer = decode.kv_growth("llama-3.2-1b", fl.device("t4"))
    assert explorer.options["weights"] == ["fp16"]
    assert "fp16 weights" in texts(explorer.make(**explorer.state))


def test_a_talker_learns_and_speaks():
    model, tokenizer = generation.train_tiny_lm(0.05)
    found = generation.stream_text(model, tokenizer, "def f(", 4)
    assert found["tokens"].item() == 4
    assert found["ended"].item() == "length"
    assert found["ttft_ms"].item() > 0


def test_text_is_shown_in_one_output_and_escaped(monkeypatch):
    import IPython.display

    pages = []

    def display(content, display_id):
        pages.append(content.data)
        return SimpleNamespace(update=lambda content: pages.append(content.data))

    class Pieces(list):
        speed = SimpleNamespace(
            **{"tokens": 3, "ttft_s": 1.0, "tpot_s": None, "tokens_per_s": 3.0},
            **{"ended": "eos", "compile_s": None},
        )

    streaming = SimpleNamespace(stream=lambda *_, **__: Pieces("xyz"))
    monkeypatch.setitem(sys.modules, "fastlab.runtime.streaming", streaming)
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(generation, "in_notebook", lambda: True)
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: 1e3))
    generation.stream_text(None, None, "a<b", 3)
    assert len(pages) == 2  # y and z came too soon after x; the whole text stays
    assert "<b>a&lt;b</b>xyz" in pages[-1]


def test_the_tokenizer_of_the_talker_fits_it():
    tokenizer = make_tokenizer(generation.sources(), generation.TALKER.vocab)
    assert len(tokenizer) <= generation.TALKER.vocab

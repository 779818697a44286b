"""The ladder, KV caches, prefixes and unrolled steps: numbers worked out by hand."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fastlab as fl
from fastlab.figures import batches, decode
from fastlab.record import Effective, Quality
from fastlab.rows import with_missing
from fastlab.spec import PRESETS
from fastlab.spec.cuts import read_points
from fastlab.spec.grids import flat
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.figures.made import measurement, record, texts
from tests.pins import compare

ROOT = Path(__file__).parents[2]
TINY = {"family": "llama", "layers": 1, "hidden": 64, "vocab": 512, "kv_heads": 1}
NAMES = ["dynamic", "static", "our decoder", "our graph"]
QUALITY = Quality("fp32", "0" * 64, 0.002, 0.9, 0.1)
PRECISIONS = ["bf16", "fp32", "int8", "int4-g64"]
LARGE = PRESETS["llama-3.1-8b"]


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


def test_the_notebook_and_the_benchmark_climb_the_same_rungs(benchmark):
    here = decode.ladder_points("24x896", PRECISIONS)
    assert set(here) == set(benchmark.points("cpu").values())
    assert len(set(here)) == len(here) == 19


def test_the_benchmark_prints_the_rows_of_the_ladder(benchmark, rows):
    found = benchmark.ladder(rows).set_index("rung")
    assert found.loc["our decoder", "x eager"] == 2
    assert found.loc["int4-g64, our decoder", "x fastest"] == 2
    assert found.loc["our graph", "status"] == "unsupported"


@pytest.mark.parametrize("name", read_points("ladder")["rungs"])
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


def test_the_ladder_writes_ratios_refusals_and_compile_times(table):
    figure = decode.ladder(table, "title")
    said = texts(figure)
    assert {"unsupported: needs X", "×4", "7.00", "×2"} <= set(said)
    assert not any("sheet" in text for text in said)
    assert figure.size[0] <= 11
    told = figure.tell()
    assert "fastest: int4-g64, static, 400/s, ×4.00 over eager" in told


NOTEBOOK = "08_decode_and_cache"


def test_a_cache_by_hand_decodes_what_all_at_once_gives():
    cells = ("hand-attention", "hand-cache", "hand-check")
    found = run_cells(NOTEBOOK, *cells)["shown"]
    assert set(found.values()) == {100 * 2 * 256 * 4}  # K and V, 256 wide, fp32


def test_caches_are_allocated_as_the_formula_says():
    small = {"family": "llama", "layers": 2, "hidden": 64, "vocab": 512}
    small |= {"heads": 4, "kv_heads": 2}
    given = {"small": small, "steps": fl.grid(**small), "live_precisions": ["fp32"]}
    found = run_cells(NOTEBOOK, "held", **given)["shown"]
    assert (found["bytes by formula"] == found["bytes allocated"]).all()
    size = found.set_index(["cache", "tokens"])["bytes allocated"]
    # 2 x 2 layers x 2 KV heads x 16 wide x 4 bytes = 512 bytes a position
    assert size["static", 130] == 192 * 512
    assert size["static", 520] == 768 * 512
    assert size["static-int8", 130] == 192 * 8 * (16 + 4)


def test_a_model_without_groups_has_two_kinds_of_cache():
    alone = fl.ModelShape("gpt2", 1, 64, vocab=512, max_positions=256)
    assert list(batches.kv_kinds(alone)) == ["16-bit KV", "int8 KV"]


def test_bytes_of_a_cached_token_of_llama_8b():
    kinds = batches.kv_kinds(LARGE)
    assert kinds["16-bit KV"] == 131_072
    assert kinds["16-bit KV for all 32 heads"] == 4 * 131_072
    assert kinds["int8 KV"] == 2 * 32 * 8 * 132


def test_the_crossing_is_where_weights_and_cache_are_equal():
    found = batches.crossings(LARGE, ["bf16", "int4-g64"], 8)
    read = found["context"] * found["batch"] * found["bytes a token"]
    assert np.allclose(read, found["weight bytes"])
    plain = found[(found["weights"] == "bf16") & (found["cache"] == "16-bit KV")]
    assert plain["weight bytes"].item() == pytest.approx(15.01e9, rel=1e-3)
    assert plain["context"].item() == pytest.approx(14_315, rel=1e-3)
    figure = batches.crossover(found, "title", 4096)
    assert faults(figure) == []
    assert {"14.3 k", "bf16 weights", "int8 KV"} <= set(texts(figure))


def test_the_crossings_of_the_notebook_are_those_of_old():
    found = batches.crossings(LARGE, ("bf16", "int8", "int4-g64"), 8)
    assert compare("08_decode_and_cache_crossover", found) == []


def test_the_unrolled_steps_of_the_notebook_are_those_of_old():
    space = run_cells(NOTEBOOK, "unroll", "unroll-token")
    table = space["run"].shown["unroll"].table
    assert compare("08_decode_and_cache_unroll", table) == []


def test_prompts_that_begin_alike_are_computed_once():
    small = {"family": "llama", "layers": 1, "hidden": 64, "vocab": 8192}
    turns = run_cells(NOTEBOOK, "turns", small=small, torch=torch, pd=pd)["shown"]
    assert turns["prompt"].tolist() == [416, 432, 448, 416]
    assert turns["reused"].tolist() == [0, 384, 768, 1152]
    rates = [0, 384 / 848, 768 / 1296, 1152 / 1712]
    assert turns["share"].tolist() == pytest.approx(rates)
    assert (turns["ttft_ms"] > 0).all()


def generations(ms):
    columns = {"status": "ok", "precision": "fp32", "runtime": "decoder", "bound": ""}
    rows = pd.DataFrame({"unroll": list(ms), "measured_ms": list(ms.values())})
    rows = rows.assign(**columns, n=20, compile_s=3.0, new_tokens=65, device="cpu")
    for end in ("", "_low", "_high"):
        rows[f"estimated{end}_ms"] = 65 * 0.2
        rows[f"measured{end}_ms"] = rows["measured_ms"]
    return rows.assign(ratio=1.0, converged=True)


def unrolling(ms):
    done = generations(ms).sort_values("unroll")
    given = {"done": done, "calls": Shows()}
    return run_cells(NOTEBOOK, "unroll-token", **given)["run"].shown["unroll"]


def test_the_price_of_a_call_and_of_a_step_are_fitted():
    figure = unrolling({k: 65 * (0.1 + 0.4 / k) for k in (1, 2, 8)})
    found = figure.table
    assert list(found["unroll"]) == [1, 2, 8]
    assert found["step_ms"].iloc[0] == pytest.approx(0.1)
    assert found["host_ms"].iloc[0] == pytest.approx(0.4)
    assert found["estimated_ms"].tolist() == pytest.approx([0.2] * 3)
    assert found["fitted"].tolist() == pytest.approx([0.5, 0.3, 0.15])
    assert faults(figure) == []
    assert {"×1.67", "×3.33"} <= set(texts(figure))


def test_one_k_alone_has_no_fit_and_still_draws():
    figure = unrolling({2: 65.0})
    assert np.isnan(figure.table["host_ms"].iloc[0])
    assert "1.00 ms a token at 2" in figure.tell()


def test_the_explorer_tells_what_a_step_reads_at_the_cursor():
    given = {"batches": batches, "formats": ("bf16", "int8")}
    explorer = run_cells(NOTEBOOK, "explorer", **given)["shown"]
    figure = explorer.make(**(explorer.state | {"batch": 8}))
    assert "15 GB of weights; " in figure.title
    assert "4.29 GB as 16-bit KV, " in figure.title
    assert faults(figure) == []
    assert explorer.options["weights"] == ["bf16", "int8"]


def test_a_tiny_model_is_trained_once_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = fl.tiny_lm_folder(0.05)
    model, tokenizer = fl.load(folder)
    assert len(tokenizer) <= model.config.vocab_size == 512
    assert folder.is_relative_to(tmp_path / "results")
    written = (folder / "run.json").stat().st_mtime_ns
    assert fl.tiny_lm_folder(0.05) == folder
    assert (folder / "run.json").stat().st_mtime_ns == written

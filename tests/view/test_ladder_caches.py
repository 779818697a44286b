"""KV caches, prefixes, unrolled steps and live text: numbers worked out by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.learning.tokens import make_tokenizer
from fastlab.notebook import generation as talking
from fastlab.view.tables import kvcache

explore = sys.modules[fl.explorers.kv_growth.__module__]
SHAPE = fl.ModelShape("llama", 2, 64, heads=4, kv_heads=2, vocab=512)
LARGE = fl.PRESETS["llama-3.1-8b"]


def test_caches_are_allocated_as_the_formula_says():
    found = fl.tables.held(SHAPE, [100, 130], "fp32")
    assert found["same"].all()
    size = found.set_index(["heads", "cache", "positions"])["allocated"]
    # 2 x 2 layers x 2 KV heads x 16 wide x 4 bytes = 512 bytes a position
    assert size[kvcache.GROUPED_HEADS, "dynamic", 100] == 51_200
    assert size[kvcache.OWN_HEADS, "dynamic", 100] == 102_400
    assert size[kvcache.GROUPED_HEADS, "static", 100] == 128 * 512
    assert size[kvcache.GROUPED_HEADS, "static", 130] == 192 * 512
    assert size[kvcache.GROUPED_HEADS, "static-int8", 100] == 128 * 8 * (16 + 4)


def test_a_model_without_groups_has_no_line_for_them():
    alone = fl.ModelShape("gpt2", 1, 64, vocab=512, max_positions=256)
    found = fl.tables.held(alone, [100], "fp32")
    assert set(found["heads"]) == {kvcache.GROUPED_HEADS}
    assert found["same"].all()
    assert list(kvcache.kv_kinds(alone)) == ["16-bit KV", "int8 KV"]


def test_bytes_of_a_cached_token_of_llama_8b():
    kinds = kvcache.kv_kinds(LARGE)
    assert kinds["16-bit KV"] == 131_072
    assert kinds["16-bit KV for all 32 heads"] == 4 * 131_072
    assert kinds["int8 KV"] == 2 * 32 * 8 * 132


def test_the_crossing_is_where_weights_and_cache_are_equal():
    found = fl.tables.crossings(LARGE, ["bf16", "int4-g64"], 8)
    read = found["context"] * found["batch"] * found["bytes a token"]
    assert np.allclose(read, found["weight bytes"])
    plain = found[(found["weights"] == "bf16") & (found["cache"] == "16-bit KV")]
    assert plain["weight bytes"].item() == pytest.approx(15.01e9, rel=1e-3)
    assert plain["context"].item() == pytest.approx(14_315, rel=1e-3)


def test_prompts_that_begin_alike_are_computed_once():
    found = fl.tables.served(SHAPE, 20, [5, 7, 3])
    assert list(found["tokens"]) == [25, 27, 23]
    assert list(found["reused"]) == [0, 20, 20]
    assert found["hit_rate"].tolist() == pytest.approx([0, 20 / 52, 40 / 75])
    assert (found["ttft_ms"] > 0).all()


def generations(ms):
    columns = {"status": "ok", "precision": "fp32", "runtime": "decoder"}
    rows = pd.DataFrame({"unroll": list(ms), "measured_ms": list(ms.values())})
    rows = rows.assign(**columns, n=20, compile_s=3.0, new_tokens=65)
    rows["estimated_ms"] = 65 * 0.2
    rows["measured_low_ms"] = rows["measured_high_ms"] = rows["measured_ms"]
    return rows


def test_the_price_of_a_call_and_of_a_step_are_fitted():
    found = fl.tables.unrolled(
        generations({k: 65 * (0.1 + 0.4 / k) for k in (8, 1, 2)})
    )
    assert list(found["unroll"]) == [1, 2, 8]
    assert found["step_ms"].iloc[0] == pytest.approx(0.1)
    assert found["host_ms"].iloc[0] == pytest.approx(0.4)
    assert found["estimated"].tolist() == pytest.approx([0.2] * 3)


def test_one_k_alone_has_no_fit_and_still_draws():
    found = fl.tables.unrolled(generations({2: 65.0}))
    assert np.isnan(found["host_ms"].iloc[0])
    figure = fl.plots.unrolled(found, "title")
    assert "  8.00 ms" in [t.get_text() for t in figure.axes[0].texts]
    assert "k 2 1.00 ms a token" in fl.alt.unrolled(found, "here")


def test_unrolled_bars_are_to_scale():
    found = fl.tables.unrolled(generations({1: 65 * 0.5, 2: 65 * 0.3}))
    figure = fl.plots.unrolled(found, "title")
    said = [t.get_text().strip() for t in figure.axes[0].texts]
    assert said == ["4.00 ms", "2.40 ms"]
    assert "compiled in 3.0 s" in figure.axes[1].get_xticklabels()[0].get_text()


def test_figures_of_caches_and_their_alt_texts():
    sizes = fl.tables.held(SHAPE, [100, 130], "fp32")
    figure = fl.plots.held(sizes, "title")
    assert "static-int8" in [t.get_text() for t in figure.axes[0].texts]
    assert "8 of 8 equal" in fl.alt.held(sizes, "here")
    figure = fl.plots.crossover(LARGE, ("bf16",), 8, "title", context=4096)
    said = [t.get_text() for t in figure.axes[0].texts]
    assert {"14.3 k", "bf16 weights", "int8 KV"} <= set(said)
    told = fl.alt.crossover(LARGE, ("bf16",), 8)
    assert "bf16 weights and 16-bit KV at 14.3 k tokens" in told


def test_the_figure_of_prefixes_tells_gains_and_hits():
    rows = generations({1: 30.0, 2: 10.0}).assign(prefix_len=[0, 64], prompt_len=128)
    rows = rows.assign(estimated_low_ms=9.0, estimated_high_ms=31.0)
    served = fl.tables.served(SHAPE, 20, [5, 7])
    figure = fl.plots.prefixes(rows, served, "title")
    assert "×3.00" in [t.get_text() for t in figure.axes[0].texts]
    assert any("hits 38%" in t.get_text() for t in figure.axes[1].texts)
    told = fl.alt.prefixes(rows, served, "here")
    assert "64 of 128 tokens cached: 10.0 ms" in told
    assert "prompt 2: 20 of 27 tokens copied" in told


def test_the_explorer_says_what_is_read_and_whether_it_fits():
    state = {"model": "llama-3.1-8b", "precision": "bf16", "cache": "static"}
    found = explore.shown(fl.device("h200"), batch=8, context=4096, **state)
    assert "15 GB of weights and 4.29 GB of KV cache" in found
    assert "does not fit" not in found
    full = explore.shown(fl.device("l4"), batch=256, context=2**19, **state)
    assert "does not fit in the device" in full
    none = explore.shown(fl.device("t4"), batch=1, context=256, **state)
    assert "has no bf16" in none


def test_a_precision_that_the_device_lacks_falls_back():
    state = {"model": "llama-3.2-1b", "batch": 1, "context": 256, "cache": "static"}
    found = explore.shown(fl.device("h200"), precision="int4-g64", **state)
    assert "int4-g64" in found


def test_a_talker_learns_and_speaks():
    model, tokenizer = talking.train_tiny_lm(0.05)
    found = talking.stream_text(model, tokenizer, "def f(", 4)
    assert found["tokens"].item() == 4
    assert found["ended"].item() == "length"
    assert found["ttft_ms"].item() > 0


def test_text_is_shown_in_one_output_and_escaped(monkeypatch):
    import IPython.display

    pages = []

    class Handle:
        def update(self, markup):
            pages.append(markup.data)

    def display(markup, display_id):
        pages.append(markup.data)
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(talking, "time", SimpleNamespace(monotonic=lambda: 1e3))
    write = talking._writer()
    write("a<b", "x")
    write("a<b", "xy")  # too soon after the first
    write("a<b", "xyz", final=True)
    assert len(pages) == 2
    assert "<b>a&lt;b</b>xyz" in pages[-1]


def test_the_tokenizer_of_the_talker_fits_it():
    tokenizer = make_tokenizer(talking._sources(), talking.TALKER.vocab)
    assert len(tokenizer) <= talking.TALKER.vocab

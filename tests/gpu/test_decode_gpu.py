"""Decoding on a real GPU: tokens, one graph, CUDA graphs, caches in fp8, no syncs.

Written without a GPU at hand: none of it had run when it was committed.
"""

import pytest
import torch
from torch._dynamo.utils import counters

from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.machine import Here
from fastlab.models import numerics
from fastlab.runtime.decode import Decoder
from fastlab.runtime.engines import prepare
from fastlab.runtime.sampling import Sampling
from fastlab.spec import point_of
from fastlab.spec.unsupported import unsupported
from tests.small import generated, tiny, token_rows

FAMILIES = ("llama", "qwen3", "gpt2")


@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize(
    "runtime", ["eager", "compile", "autotuned", "decoder", "graph"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_one_graph(family, runtime, unroll):
    with numerics("fp32"):
        model = tiny(family).cuda()
        before = counters["stats"]["unique_graphs"]
        decoder = Decoder(model, 2, 40, runtime=runtime, unroll=unroll)
        made = counters["stats"]["unique_graphs"] - before
        assert made == (0 if runtime == "eager" else 1)
        for n in (7, 11):
            ids = token_rows(2, n, n).cuda()
            expected = generated(model, ids, 9)
            assert torch.equal(decoder.generate(ids, 9), expected)
        assert counters["stats"]["unique_graphs"] - before == made


@pytest.mark.parametrize("cache", ["static", "static-int8", "static-fp8"])
def test_a_graph_gives_what_eager_steps_give(cache):
    if cache == "static-fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    with numerics("fp32"):
        model, ids = tiny("llama", layers=2).cuda(), token_rows(2, 9).cuda()
        eager, graph = (
            Decoder(model, 2, 40, cache=cache, runtime=runtime)
            for runtime in ("eager", "graph")
        )
        for decoder in (eager, graph):
            decoder.prefill(ids)
        expected, found = eager.advance(), graph.advance()
    assert (expected - found).abs().max() < 0.02 * expected.std()


def test_steps_of_a_graph_wait_for_nothing():
    model, ids = tiny("llama").cuda(), token_rows(1, 9).cuda()
    decoder = Decoder(model, 1, 40, runtime="graph", unroll=2)
    decoder.prefill(ids)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            decoder.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_draws_are_the_same_in_a_graph():
    model, ids = tiny("qwen3").cuda(), token_rows(2, 9).cuda()
    warm = Sampling(temperature=2.0, top_k=20, seed=3)
    with numerics("fp32"):
        eager, graph = (
            Decoder(model, 2, 40, runtime=runtime, sampling=warm).generate(ids, 12)
            for runtime in ("eager", "graph")
        )
    assert torch.equal(eager, graph)


ATTENTIONS = ("sdpa-math", "sdpa-efficient", "sdpa-cudnn", "flex", "eager")


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_kernels_agree(attention):
    sizes = {"family": "llama", "layers": 2, "hidden": 256, "heads": 4, "kv_heads": 2}
    sizes |= {"vocab": 97, "phase": "decode", "prompt_len": 64, "precision": "bf16"}
    from fastlab.models import build

    usual, named = (
        point_of(**sizes, runtime="decoder", attention=a) for a in ("sdpa", attention)
    )
    assert unsupported(named, Here("cuda")) is None
    with numerics("bf16"):
        expected = prepare(build(usual, "cuda"), usual, "cuda").run().float()
        found = prepare(build(named, "cuda"), named, "cuda").run().float()
    assert (expected - found).abs().max() < 0.05 * expected.std()


@pytest.mark.parametrize("runtime", ["eager", "compile", "decoder", "graph"])
@pytest.mark.parametrize("precision", ["bf16", "int8", "int4-g64", "fp8"])
def test_rows_of_the_ladder(precision, runtime):
    settings = Settings.for_device("cuda", budget_s=0.3, warmup_s=0.1, n_min=10)
    over = {"phase": "decode", "prompt_len": 64, "cache": "static"}
    point = point_of(
        model="llama-3.2-1b", layers=2, precision=precision, runtime=runtime, **over
    )
    record = Bench.for_device("cuda", settings).measure(point)
    assert record.status in ("ok", "unsupported"), record.reason
    if record.status == "ok":
        assert (record.measured.compile_s is None) == (runtime == "eager")


def test_transformers_own_generation():
    settings = Settings.for_device("cuda", budget_s=0.3, warmup_s=0.1, n_min=3)
    over = {"phase": "generate", "new_tokens": 16, "runtime": "transformers"}
    record = Bench.for_device("cuda", settings).measure(
        point_of(model="tiny-llama", prompt_len=16, **over)
    )
    assert record.status == "ok", record.reason
    assert record.measured.compile_s > 0

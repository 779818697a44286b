"""Tokens of every cache and runtime equal transformers'; one graph, no second one."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from fastlab.runtime.decode import Decoder
from fastlab.runtime.sampling import Sampling
from tests.small import generated, tiny, token_rows

FAMILIES = ("llama", "qwen3", "gpt2")


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("attention", ["sdpa", "eager", "sdpa-math", "sdpa-flash"])
@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_eager_tokens(family: str, unroll: int, attention: str) -> None:
    model = tiny(family, layers=2)
    decoder = Decoder(model, 2, 40, runtime="eager", unroll=unroll, attention=attention)
    for n in (7, 11):  # the second prompt in the same cache
        ids = token_rows(2, n, n)
        expected = generated(model, ids, 9)
        assert len(expected.unique()) > 4  # no constant that anything would give
        assert torch.equal(decoder.generate(ids, 9), expected)
    assert decoder.compile_s is None
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("family", "runtime"),
    [("llama", "compile"), *((family, "decoder") for family in FAMILIES)],
)
def test_compiled_tokens_and_one_graph(family: str, runtime: str) -> None:
    model = tiny(family)
    before = graphs()
    unroll = 2 if family == "llama" else 1
    decoder = Decoder(model, 2, 40, runtime=runtime, unroll=unroll)
    assert graphs() == before + 1
    assert decoder.compile_s > 0
    for n in (7, 11):
        ids = token_rows(2, n, n)
        assert torch.equal(decoder.generate(ids, 10), generated(model, ids, 10))
    assert graphs() == before + 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("cache", ["static-int8", "static-fp8"])
def test_a_quantized_cache_compiles_to_the_same_numbers(cache: str) -> None:
    model, ids = tiny("llama"), token_rows(2, 9)
    eager = Decoder(model, 2, 40, cache=cache, runtime="eager")
    compiled = Decoder(model, 2, 40, cache=cache, runtime="decoder")
    for decoder in (eager, compiled):
        decoder.prefill(ids)
    torch.testing.assert_close(
        eager.advance(), compiled.advance(), atol=2e-3, rtol=1e-3
    )
    assert torch.equal(eager.generate(ids, 9), compiled.generate(ids, 9))


def test_every_position_is_used_and_none_beyond() -> None:
    model, ids = tiny("gpt2"), token_rows(1, 7)
    decoder = Decoder(model, 1, 64, runtime="eager", unroll=8)
    tokens = decoder.generate(ids, 58)  # 64 positions, and the token after the last
    assert torch.equal(tokens[:, :57], generated(model, ids, 57))
    with pytest.raises(ValueError, match=r"new_tokens=59 must be .* from 1 to 58"):
        decoder.generate(ids, 59)


@pytest.mark.parametrize("unroll", [1, 3])
def test_each_sequence_ends_at_its_first_eos(unroll: int) -> None:
    model, ids = tiny("llama", layers=2), token_rows(2, 7)
    whole = generated(model, ids, 12).tolist()
    eos = [next(t for t in row[4:] if t not in row[:4]) for row in whole]
    places = [min(row.index(t) for t in eos if t in row) for row in whole]
    decoder = Decoder(model, 2, 40, runtime="eager", unroll=unroll)
    found = decoder.generate(ids, 12, eos=eos).tolist()
    for row, expected, place in zip(found, whole, places, strict=True):
        assert row[: place + 1] == expected[: place + 1]
        assert set(row[place:]) == {expected[place]}
    assert len(found[0]) == max(places) + 1


def test_sampling_is_the_same_in_every_runtime() -> None:
    model, ids = tiny("llama"), token_rows(2, 7)
    warm = Sampling(temperature=2.0, top_k=20, seed=3)
    eager = Decoder(model, 2, 40, runtime="eager", sampling=warm)
    compiled = Decoder(model, 2, 40, runtime="decoder", sampling=warm)
    tokens = eager.generate(ids, 12)
    assert torch.equal(compiled.generate(ids, 12), tokens)
    assert not torch.equal(tokens, generated(model, ids, 12))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (token_rows(1, 7), r"ids of shape \(1, 7\) must be \(2, n\)"),
        (token_rows(2, 0), "a prompt of 0 tokens must have 1 to max_len=40"),
        (token_rows(2, 41), "a prompt of 41 tokens"),
    ],
)
def test_bad_prompts(ids: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoder(tiny("gpt2"), 2, 40, runtime="eager").generate(ids, 3)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"runtime": "jit"}, "runtime='jit' is not one of eager, compile, autotuned"),
        ({"max_len": 65}, "max_len=65 must be a whole number from 1 to 64"),
        ({"unroll": 0}, "unroll=0 must be"),
        ({"cache": "none"}, "cache='none' is not one of static"),
    ],
)
def test_bad_decoders(over: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoder(tiny("gpt2"), **({"max_len": 40, "runtime": "eager"} | over))

"""Prefix reuse: the same tokens with fewer of them computed, within its bytes."""

import pytest
import torch

from fastlab.runtime.cache import LAYERS
from fastlab.runtime.decode import Decoder
from fastlab.runtime.prefix import Prefixes
from tests.small import generated, tiny, token_rows


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_reused_prefix_gives_the_same_tokens(family, attention):
    model, prefixes = tiny(family), Prefixes()
    decoder = Decoder(model, 1, 40, runtime="eager", attention=attention)
    first, second = token_rows(1, 12), token_rows(1, 15)
    second[:, :9] = first[:, :9]
    second[:, 9] = (first[:, 9] + 1) % 97
    for ids in (first, second, second):
        tokens = torch.cat(list(decoder.chunks(ids, 6, prefixes=prefixes)), dim=1)
        assert torch.equal(tokens, generated(model, ids, 6))
    hits = prefixes.hits
    assert (hits.prompts, hits.found) == (3, 2)
    assert (hits.tokens, hits.reused) == (12 + 15 + 15, 9 + 14)
    assert hits.rate == 23 / 42


@pytest.mark.parametrize("cache", LAYERS)
def test_the_oldest_go_first(cache):
    decoder = Decoder(tiny("gpt2"), 1, 40, cache=cache, runtime="eager")
    one = Prefixes()
    decoder.prefill(token_rows(1, 8), one)
    prefixes = Prefixes(max_bytes=2 * one.nbytes)
    a, b, c = (token_rows(1, 8, seed) for seed in (1, 2, 3))
    for ids in (a, b, a, c):  # a is used again before c comes: b is the oldest
        decoder.prefill(ids, prefixes)
    assert len(prefixes) == 2
    assert prefixes.nbytes == 2 * one.nbytes
    assert prefixes.restore(a, decoder.cache) == 7
    assert prefixes.restore(b, decoder.cache) == 0


def test_a_longer_prompt_takes_the_place_of_what_it_begins_with():
    decoder, prefixes = Decoder(tiny("gpt2"), 1, 40, runtime="eager"), Prefixes()
    ids = token_rows(1, 12)
    for n in (4, 12, 8):
        decoder.prefill(ids[:, :n], prefixes)
    assert len(prefixes) == 1


def test_what_is_too_large_is_not_kept():
    decoder, prefixes = Decoder(tiny("gpt2"), 1, 40, runtime="eager"), Prefixes(10)
    decoder.prefill(token_rows(1, 8), prefixes)
    assert len(prefixes) == 0
    assert prefixes.hits.rate == 0


def test_different_prompts_in_a_batch_are_refused():
    decoder, prefixes = Decoder(tiny("gpt2"), 2, 40, runtime="eager"), Prefixes()
    with pytest.raises(ValueError, match="prompts of one batch must be equal"):
        decoder.prefill(token_rows(2, 8), prefixes)
    same = token_rows(1, 8).expand(2, 8)
    for _ in range(2):
        decoder.prefill(same, prefixes)
    assert prefixes.hits.reused == 7

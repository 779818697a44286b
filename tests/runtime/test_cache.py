"""Static caches: their bytes, what they give back, and what int8 and fp8 lose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab.runtime.cache import LAYERS, Place, StaticKV
from fastlab.spec.recipe import bucket, kv_row_bytes
from tests.small import tiny


def test_bytes_worked_out() -> None:
    """2 x 2 layers x 1 x 1 head x 128 rows x 16 numbers of 4 bytes; or of 1, and 4."""
    model = tiny("qwen3", layers=2)
    assert StaticKV(model, 1, 5).buffers[0].shape == (1, 1, 128, 16)
    assert StaticKV(tiny("gpt2"), 3, 5).buffers[1].shape == (3, 2, 128, 16)
    assert StaticKV(model, 1, 5).nbytes == 2 * 2 * 128 * 64
    assert StaticKV(model, 1, 5, "static-int8").nbytes == 2 * 2 * 128 * 20
    held = StaticKV(model, 1, 60)
    assert held.nbytes == sum(t.untyped_storage().nbytes() for t in held.buffers)
    assert held.length == bucket(60) == 128
    assert kv_row_bytes("static", 2, 128) == 256
    assert kv_row_bytes("static-fp8", 2, 128) == 132
    assert kv_row_bytes("none", 2, 128) == 0


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(LAYERS)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1e-30, 1e-14, 5e-8, 1e-3, 1.0, 1e3, 1e30]),
)
def test_rows_come_back_within_their_rounding(
    cache: str, first: int, later: int, size: float
) -> None:
    source = torch.Generator().manual_seed(first * 7 + later)
    place = Place(1, 128, "cpu")
    layer = LAYERS[cache](place, 128, torch.float32)
    keys, values = torch.randn(2, 2, 3, first + later, 16, generator=source) * size
    keys[0, 0] = 0  # stays zero
    given_back = layer.update(keys[:, :, :first], values[:, :, :first])
    assert torch.equal(given_back[0], keys[:, :, :first])  # from empty: itself
    place.past = first
    held = layer.update(keys[:, :, first:], values[:, :, first:])
    # int8: half a step of max / 127; fp8 (e4m3): three bits of mantissa, 2^-4.
    part = {"static": 0.0, "static-int8": 0.5001 / 127, "static-fp8": 2**-4}[cache]
    for whole, back in zip((keys, values), held, strict=True):
        most = whole.abs().amax(dim=-1, keepdim=True)
        assert bool(((whole - back).abs() <= part * most * (1 + 1e-6)).all())


@pytest.mark.parametrize(
    ("batch", "positions", "cache", "words"),
    [
        (0, 8, "static", "batch=0 must be a whole number from 1"),
        (1, 0, "static", "positions=0 must be"),
        (1, 8, "dynamic", "cache='dynamic' is not one of static"),
    ],
)
def test_bad_input(batch: int, positions: int, cache: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StaticKV(tiny("gpt2"), batch, positions, cache)

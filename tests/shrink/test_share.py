"""Palettes: k-means against other ways, packing, whole models, bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fastlab.shrink import parts
from fastlab.shrink import share as palettes
from fastlab.shrink.quantize import quantize
from fastlab.shrink.share import (
    LutLinear,
    codebooks_of,
    fitted,
    lut_linear,
    pack,
    share,
    unpack,
)
from fastlab.spec.storage import BITS, Sharing, palette_bytes
from tests.small import FAMILIES, logits_of, normal, small, sqnr_db


@pytest.mark.parametrize(("bits", "best"), [(2, 9.30), (3, 14.62), (4, 20.22)])
def test_a_gaussians_palette_is_max_quantizer(bits: int, best: float) -> None:
    """SQNR in dB of the best 4, 8 and 16 levels (Max 1960, table I)."""
    weight = normal(256, 512)
    got = sqnr_db(weight, lut_linear(weight, None, Sharing(bits)).dense())
    assert got == pytest.approx(best, abs=0.08)


@pytest.mark.parametrize("power", [-100, -24, 24, 126])
def test_a_palette_of_tiny_or_huge_weights_is_the_same(power: int) -> None:
    weight = normal(16, 64).clamp(-3.9, 3.9) / 4
    dense = lut_linear(weight, None, Sharing(3)).dense()
    scaled = lut_linear(weight * 2.0**power, None, Sharing(3)).dense()
    assert_close(scaled / 2.0**power, dense, rtol=1e-5, atol=1e-6)


def test_clusters_are_found_exactly() -> None:
    """Four values with a little noise: their means, and nothing between them."""
    centres = torch.tensor([-1.0, -0.2, 0.1, 2.0])
    codes = torch.randint(4, (2, 600), generator=torch.Generator().manual_seed(0))
    weight = centres[codes] + 0.001 * normal(2, 600)
    tables, found = codebooks_of(weight, 2)
    assert torch.equal(found.long(), codes)
    for row in range(2):
        means = torch.stack([weight[row][codes[row] == c].mean() for c in range(4)])
        assert_close(tables[row], means)


def test_lloyd_stops_where_each_centre_is_the_mean_of_its_cell() -> None:
    values = normal(3, 999).sort(1).values
    centres = fitted(values, 8)
    nearest = (values[..., None] - centres[:, None]).abs().argmin(-1)
    for row in range(3):
        means = torch.stack([values[row][nearest[row] == c].mean() for c in range(8)])
        assert_close(centres[row], means, atol=1e-5, rtol=1e-4)
        assert sorted(centres[row].tolist()) == centres[row].tolist()


def test_codes_are_the_nearest_of_the_stored_table() -> None:
    """Tables are rounded to the weights' dtype first."""
    weight = normal(4, 64).bfloat16()
    tables, codes = codebooks_of(weight, 4)
    assert tables.dtype == torch.bfloat16
    distance = (weight.float()[..., None] - tables.float()[:, None]).abs()
    chosen = distance.gather(-1, codes.long()[..., None])[..., 0]
    assert torch.equal(chosen, distance.amin(-1))


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_equal_weights_stay(value: float) -> None:
    weight = torch.full((8, 16), value)
    assert torch.equal(lut_linear(weight, None, Sharing(2)).dense(), weight)


def test_samples_and_blocks_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(64, 1024)
    whole = lut_linear(weight, None, Sharing(3)).dense()
    monkeypatch.setattr(palettes, "SAMPLE", 8192)
    again = lut_linear(weight, None, Sharing(3)).dense()
    assert sqnr_db(weight, again) > sqnr_db(weight, whole) - 0.1


@settings(max_examples=40)
@given(st.integers(1, 70), st.sampled_from(BITS), st.integers(0, 9))
def test_packing_loses_nothing(count: int, bits: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (count,), generator=source, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (bits, -(-count // 8))
    assert torch.equal(unpack(packed, count), codes)


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("bits", BITS)
def test_a_lut_linear(bits: int, rows: int) -> None:
    weight, bias = normal(12, 31).bfloat16(), normal(1, 12)[0].bfloat16()
    made = Sharing(bits, rows)
    module = lut_linear(weight, bias, made)
    assert module.weight_bytes() == palette_bytes(made, 12, 31)
    dense = module.dense()
    assert all(len(row.unique()) <= 2**bits for row in dense)
    if not rows:
        assert len(dense.unique()) <= 2**bits
    x = normal(5, 31, seed=1).bfloat16().view(1, 5, 31)
    assert torch.equal(module(x), torch.nn.functional.linear(x, dense) + bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_bits_stay_nearer_to_the_dense_model(family: str) -> None:
    exact, near = logits_of(small(family)), []
    names = len(parts.linear_names(small(family), "layers"))
    for bits in BITS:
        model = share(small(family), Sharing(bits))
        near.append(sqnr_db(exact, logits_of(model)))
        kinds = [type(module) for module in model.modules()]
        assert kinds.count(LutLinear) == names
    assert near == sorted(near)
    assert near[-1] > 20


def test_what_cannot_be_shared_is_refused() -> None:
    model = small("llama")
    before = logits_of(model)
    with pytest.raises(ValueError, match="rows=32: groups do not divide 48 rows"):
        share(model, Sharing(4, rows=32))
    assert torch.equal(logits_of(model), before)
    model.model.layers[0].self_attn.q_proj.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"layers.0.self_attn.q_proj has values that"):
        share(model, Sharing(4))
    shared = share(small("gpt2"), Sharing(4))
    with pytest.raises(ValueError, match="cannot share: the layers have no dense"):
        share(shared, Sharing(4))
    with pytest.raises(ValueError, match="is stored sparse or as a palette"):
        quantize(shared, "int8", scope="head")

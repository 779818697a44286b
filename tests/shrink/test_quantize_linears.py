"""Quantized linears: their codes, their bytes, and what they multiply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastlab.figures.style import look_of
from fastlab.shrink import kernels
from fastlab.shrink.kernels import concatenate, int4, int8, quantized_linear
from fastlab.shrink.kernels.int4 import Int4Linear
from fastlab.spec.formats import (
    FORMATS,
    PRECISIONS,
    QUANTIZED,
    stored_bytes,
    table_bytes,
)
from tests.small import sqnr_db

INT4 = [name for name in QUANTIZED if FORMATS[name].weights == "int4"]


def made(
    precision: str, n: int, k: int, dtype: torch.dtype = torch.float32
) -> nn.Module:
    generator = torch.Generator().manual_seed(n * k)
    weight = torch.randn(n, k, generator=generator).to(dtype)
    bias = torch.randn(n, generator=generator).to(dtype)
    return quantized_linear(FORMATS[precision], weight, bias)


def by_dense(module: Any, x: Tensor) -> Tensor:
    """What the module stands for: x times its dequantized weight, and the bias."""
    return nn.functional.linear(x, module.dense().to(x.dtype), module.bias)


def int8_rows(weight: Tensor) -> list[Tensor]:
    return [*int8.rounded(weight, FORMATS["int8"]).values()]


def test_int8_rows_by_hand() -> None:
    """Largest 2.54: scale 0.02; 1.27 / 0.02 = 63.5 rounds to even 64."""
    codes, scales = int8_rows(torch.tensor([[2.54, -1.0, 0.0], [0, 0, 0]]))
    assert codes.tolist() == [[127, -50, 0], [0, 0, 0]]
    assert scales[0].item() == pytest.approx(0.02)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_any_size_lose_the_same_share(
    precision: str, dtype: torch.dtype
) -> None:
    """2^n times a weight has 2^n times its error, from 1e-30 to 1e36."""
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    form, weight = FORMATS[precision], weight.to(dtype)
    dense = quantized_linear(form, weight, None).dense()
    for power in (-100, -24, -5, 5, 24, 100, 120):
        scaled = quantized_linear(form, weight * 2.0**power, None).dense()
        assert torch.equal(scaled, dense * 2.0**power)
    assert sqnr_db(weight, dense) > 18


@pytest.mark.parametrize("precision", QUANTIZED)
def test_what_fp16_can_hardly_hold_is_not_lost(precision: str) -> None:
    """Its least numbers, multiples of 2^-24 (integer codes are exact), and 60,000."""
    least = torch.arange(-7, 9.0).repeat(16, 16) * 2.0**-24
    tiny = quantized_linear(FORMATS[precision], least.half(), None).dense()
    exact = FORMATS[precision].weights != "fp8"
    assert torch.equal(tiny.float(), least) if exact else sqnr_db(least, tiny) > 25
    large = torch.randn(16, 256).clamp(-3, 3) * 20_000
    got = quantized_linear(FORMATS[precision], large.half(), None)
    assert sqnr_db(large, got.dense()) > 18
    x = torch.full((1, 256), 1e-3)
    assert sqnr_db(by_dense(got, x), got(x.half())) > 25


def test_int4_groups_by_hand() -> None:
    """0, 1, ..., 15 twice: codes as they are, s = 1, and the code 8 stands for 8."""
    weight = torch.arange(16.0).repeat(1, 2)
    codes, pairs = int4.int4_groups(weight, 16)
    assert codes.tolist() == [[*range(16), *range(16)]]
    assert pairs.shape == (1, 2, 2)
    assert pairs.tolist() == [[[1, 8], [1, 8]]]


@settings(max_examples=30)
@given(st.integers(1, 40), st.sampled_from([32, 64, 96, 160]), st.integers(0, 99))
def test_no_code_is_further_than_half_a_scale(n: int, k: int, seed: int) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    codes, scales = int8_rows(weight)
    error = (codes * scales[:, None] - weight).abs()
    assert bool((error <= scales[:, None] * 0.5001).all())


@settings(max_examples=20)
@given(
    st.integers(1, 40).map(lambda tiles: 16 * tiles),
    st.sampled_from([32, 64, 96, 128, 416]),
    st.sampled_from(["plain", "cpu"]),
)
def test_what_is_packed_comes_out_again(n: int, k: int, layout: str) -> None:
    codes = torch.randint(16, (n, k), generator=torch.Generator().manual_seed(n * k))
    plain = int4.to_bytes(codes.to(torch.uint8))
    assert torch.equal(int4.to_codes(plain).long(), codes)
    packed = int4.pack(plain, layout)
    assert packed.numel() * packed.element_size() == n * k // 2
    assert torch.equal(int4.unpack(packed, n, k, layout), plain)


def test_blocks_are_packed_as_the_whole_is() -> None:
    codes = torch.randint(16, (592, 64), dtype=torch.int32)
    whole = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
    plain = int4.to_bytes(codes.to(torch.uint8))
    assert torch.equal(int4.pack(plain, "cpu"), whole)


def test_the_formula_by_hand() -> None:
    """4096 x 4096: bf16 33,554,432; int4-g128 adds 4 bytes for 128 weights."""
    n = k = 4096
    bytes_of = {name: stored_bytes(FORMATS[name], n, k) for name in FORMATS}
    assert bytes_of["bf16"] == 33_554_432
    assert bytes_of["int8"] == bytes_of["int8-dynamic"] == 16_777_216 + 8_192
    assert bytes_of["fp8"] == 16_777_216 + 16_384
    assert bytes_of["int4-g128"] == 8_388_608 + 524_288
    assert bytes_of["int4-g256"] == 8_388_608 + 262_144
    assert bytes_of["int4-g32"] == 8_388_608 + 2_097_152
    assert bytes_of["int4-g128-dynamic"] == bytes_of["int4-g128"]
    assert stored_bytes(FORMATS["int4-g128"], 50257, 768) == 50272 * (384 + 24)
    assert table_bytes(FORMATS["int4-g32"], 1000, 64) == 64_000 + 2_000


@pytest.mark.parametrize("rows", [1, 3, 8, 65])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_product_is_that_of_the_dequantized_weight(
    precision: str, rows: int
) -> None:
    module = made(precision, 48, 256)
    x = torch.randn(2, rows, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got, expected = module(x), by_dense(module, x)
    assert got.shape == (2, rows, 48) and got.dtype == x.dtype
    # Rounding the activations leaves 40 dB of int8, 30 of fp8; the rest is exact.
    floor = {"int8": 38.0, "int4": 38.0, "fp8": 28.0}[FORMATS[precision].weights]
    floor = floor if FORMATS[precision].dynamic else 100.0
    assert sqnr_db(expected, got) > floor


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_wide_weight_is_widened_in_blocks(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = made(precision, 48, 128), torch.randn(40, 128)
    whole = module(x)
    monkeypatch.setattr(kernels, "BLOCK", 7 * 128)
    torch.testing.assert_close(module(x), whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k", [8, 31, 48, 80])
def test_widths_that_no_kernel_takes_are_multiplied_all_the_same(k: int) -> None:
    """fp8 rounds weights and rows to 1 in 16, about 28 dB; few numbers vary by 2."""
    for precision in ("int8", "int8-dynamic", "fp8", "fp8-dynamic"):
        module, x = made(precision, 5, k), torch.randn(3, k)
        assert sqnr_db(by_dense(module, x), module(x)) > 25


def test_the_plain_path_agrees_with_the_cpus_int4_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(3, 256)
    fast = made("int4-g64", 48, 256)
    monkeypatch.setattr(int4, "layout_for", lambda device, dtype: "plain")
    plain = made("int4-g64", 48, 256)
    assert isinstance(fast, Int4Linear) and fast.layout == "cpu"
    assert isinstance(plain, Int4Linear) and plain.layout == "plain"
    assert torch.equal(fast.dense(), plain.dense())
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-4)


def test_weights_packed_elsewhere_are_refused() -> None:
    module = made("int4-g32", 16, 32)
    module.layout = "cuda"
    with pytest.raises(RuntimeError, match="packed on cuda cannot run on cpu"):
        module(torch.randn(1, 32))


@pytest.mark.parametrize("precision", INT4)
def test_int4_rounds_as_plain_torch_does_and_better_where_it_clips(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 codes over each group's range: s = (max - min) / 15."""
    weight = torch.randn(48, 512, generator=torch.Generator().manual_seed(0))
    groups = weight.unflatten(1, (-1, FORMATS[precision].group))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low) / 15
    plain = (((groups - low) / scale).round() * scale + low).flatten(1)
    got = quantized_linear(FORMATS[precision], weight, None).dense()
    assert sqnr_db(weight, plain) < sqnr_db(weight, got) < sqnr_db(weight, plain) + 2.3
    monkeypatch.setattr(int4, "CLIPS", (1.0,))
    whole = quantized_linear(FORMATS[precision], weight, None).dense()
    torch.testing.assert_close(whole, plain)


def test_every_format_looks_like_itself_and_has_its_class() -> None:
    looks = [tuple(look_of(name, "decode").values()) for name in PRECISIONS]
    assert len({*looks}) == len(PRECISIONS)
    for form in (FORMATS[name] for name in QUANTIZED):
        module = quantized_linear(form, torch.ones(16, 256), None)
        assert (type(module).__name__, module.form) == (form.linear, form)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_rows_joined_are_those_of_the_parts(precision: str) -> None:
    sizes = (16, 5, 30)
    parts = [made(precision, n, 256, torch.bfloat16) for n in sizes]
    parts[1].bias = None  # type: ignore[assignment]
    whole, x = concatenate(parts), torch.randn(3, 256).bfloat16()  # type: ignore
    assert whole.out_features == 51
    assert whole.weight_bytes() == stored_bytes(FORMATS[precision], 51, 256)
    assert torch.equal(whole.dense(), torch.cat([p.dense() for p in parts]))  # type: ignore
    torch.testing.assert_close(whole(x), torch.cat([p(x) for p in parts], -1))
    other = made(precision, 16, 512)
    with pytest.raises(ValueError, match=f"{precision} of 512 inputs cannot join"):
        concatenate([parts[0], other])  # type: ignore[list-item]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4-g32"])
def test_compiled_and_eager_agree(precision: str) -> None:
    module, x = made(precision, 48, 64), torch.randn(2, 64)
    with torch.inference_mode():
        expected = module(x)
        got = torch.compile(module, fullgraph=True)(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

"""Quantized linears on a real GPU: their products, their bytes, compiled and not.

Written from the operators' documentation and sources.
"""

import pytest
import torch

from fastlab import machine
from fastlab.calls import prepare
from fastlab.clock.quality import Reference
from fastlab.models import numerics
from fastlab.shrink import parts
from fastlab.shrink.kernels import int4, kernel_of, linear_of, quantized_linear
from fastlab.shrink.kernels.int4 import Int4Linear
from fastlab.shrink.quantize import quantize
from fastlab.shrink.recipes import build
from fastlab.shrink.saved import load_stored, save
from fastlab.spec import point_of
from fastlab.spec.formats import FORMATS, QUANTIZED, stored_bytes
from tests.shrink.test_quantize_linears import by_dense, sqnr_db


def skip_unable(precision: str) -> None:
    reason = machine.unsupported_reason("cuda", precision)
    if reason:
        pytest.skip(reason)


def on_gpu(precision: str, n: int, k: int) -> tuple[torch.nn.Module, torch.Tensor]:
    weight = torch.randn(n, k, device="cuda").bfloat16()
    return quantized_linear(FORMATS[precision], weight, None), weight


@pytest.mark.parametrize("rows", [1, 16, 17, 64])
@pytest.mark.parametrize(("n", "k"), [(512, 1024), (331, 256)])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_products_in_every_shape(precision, n, k, rows):
    """Few rows and odd numbers of outputs too, where kernels have limits."""
    skip_unable(precision)
    module, weight = on_gpu(precision, n, k)
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        got = module(x)
    floors = {"int8": 35, "int8-dynamic": 33, "fp8": 28, "fp8-dynamic": 25}
    assert sqnr_db(x.float() @ weight.float().t(), got) > floors.get(precision, 18)
    held = sum(w.numel() * w.element_size() for w in module.parameters())
    assert held == stored_bytes(FORMATS[precision], n, k)


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("k", [128, 160, 192, 4096])
def test_int4_codes_are_packed_for_tensor_cores(group, k):
    if k % group:
        pytest.skip("the group does not divide the width")
    skip_unable(f"int4-g{group}")
    module, _ = on_gpu(f"int4-g{group}", 80, k)
    assert isinstance(module, Int4Linear) and module.layout == "cuda"
    codes = torch.randint(16, (80, k), device="cuda", dtype=torch.uint8)
    plain = int4.to_bytes(codes)
    packed = int4.pack(plain, "cuda")
    assert torch.equal(int4.unpack(packed, 80, k, "cuda"), plain)
    x = torch.randn(3, k, device="cuda", dtype=torch.bfloat16)
    assert sqnr_db(by_dense(module, x), module(x)) > 40


@pytest.mark.parametrize("precision", QUANTIZED)
def test_compiled_and_eager_agree(precision):
    skip_unable(precision)
    module, _ = on_gpu(precision, 512, 1024)
    x = torch.randn(1, 1024, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = module(x)
        got = torch.compile(module, fullgraph=True)(x)
    assert sqnr_db(expected, got) > 40


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-qwen3"])
def test_models_and_their_quality(name, precision):
    skip_unable(precision)
    point = point_of(model=name, precision=precision, scope="all", hidden=256)
    got, reason = Reference("cuda").quality(point, build(point, "cuda"))
    assert reason == "" and got is not None
    assert 0 < got.kl_nats < 1e-2


def test_a_file_made_on_the_gpu_loads_on_both(tmp_path):
    skip_unable("int4-g64")
    point = point_of(model="tiny-llama", precision="int4-g64", hidden=128)
    model = build(point, "cuda")
    save(model, tmp_path)
    with numerics("bf16"):
        expected = prepare(model, point, "cuda").run()
        again = prepare(load_stored(tmp_path, "cuda"), point, "cuda").run()
        there = prepare(load_stored(tmp_path, "cpu"), point, "cpu").run()
    assert torch.equal(again, expected)
    assert sqnr_db(expected.cpu(), there) > 25


def test_quantizing_needs_no_second_model():
    point = point_of(
        **{"family": "llama", "layers": 8, "hidden": 2048, "vocab": 32000},
        precision="bf16",
    )
    model = build(point, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    quantize(model, "int4-g128")
    assert torch.cuda.max_memory_allocated() < 1.5 * before
    assert parts.stored_weight_bytes(model) < 0.6 * before


@pytest.mark.parametrize("unroll", [1, 4, 16])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 331, 896), (16, 512, 4864)])
def test_unrolled_products_are_the_dequantized_ones(m, n, k, unroll):
    unrolled = pytest.importorskip("fastlab.shrink.kernels.unrolled")
    weight, x = torch.randn(n, k).bfloat16(), torch.randn(m, k).bfloat16()
    held = {
        f: kernel_of(FORMATS[f]).rounded(weight, FORMATS[f])
        for f in ("int8", "int4-g64")
    }
    dense = [linear_of(FORMATS[f], (n, k), None, h).dense() for f, h in held.items()]
    exact = [x.float() @ weight.float().t() for weight in dense]
    eight, four = ([t.cuda() for t in h.values()] for h in held.values())
    found = unrolled.int8_product(x.cuda(), *eight, unroll)
    assert sqnr_db(exact[0], found.cpu()) > 40
    found = unrolled.int4_product(x.cuda(), *four, n, unroll)
    assert sqnr_db(exact[1], found.cpu()) > 40

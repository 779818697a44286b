"""What each generation of GPUs is asked for, and spared: Turing to Blackwell."""

import pytest
import torch

from fastlab import machine
from fastlab.calls import prepare
from fastlab.health import hardware
from fastlab.health.report import Subject
from fastlab.machine import Here
from fastlab.models import build, numerics
from fastlab.shrink.kernels import int4, quantized_linear
from fastlab.shrink.sparsify import SemiSparseLinear, halves, sparsify, storage_refusal
from fastlab.spec import point_of
from fastlab.spec.formats import DENSE, FORMATS, QUANTIZED, stored_bytes
from fastlab.spec.storage import Sparsity, sparse_bytes
from fastlab.spec.unsupported import unsupported
from tests.cuda.standin import standin
from tests.shrink.test_quantize_linears import sqnr_db

TURING, AMPERE, ADA, HOPPER, BLACKWELL = (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)
ON_GPUS = [name for name in QUANTIZED if not FORMATS[name].cpu_only]
ALL = {*DENSE, *ON_GPUS, "autocast-bf16", "autocast-fp16"}
NEEDS_AMPERE = {"tf32", "bf16", "autocast-bf16"}
# NVIDIA's and PyTorch's documents: bf16 and tf32 from 8.0 on, fp8 from 8.9 on. All
# quantized formats but those in fp8 compute in bf16.
REFUSED = {
    TURING: NEEDS_AMPERE | set(ON_GPUS),
    AMPERE: {"fp8", "fp8-dynamic"},
    ADA: set(),
    HOPPER: set(),
    BLACKWELL: set(),
}


@pytest.mark.parametrize("capability", REFUSED)
def test_precisions_by_compute_capability(capability):
    with standin(capability=capability):
        known = {p for p in ALL if p in FORMATS}
        refused = {p for p in known if machine.unsupported_reason("cuda", p)}
        assert refused == REFUSED[capability] & known
        for precision in refused:
            words = machine.unsupported_reason("cuda", precision)
            assert "compute capability" in words


@pytest.mark.parametrize("capability", REFUSED)
def test_doctor_multiplies_in_each_precision_that_is_there(capability):
    with standin(capability=capability):
        found = {f.name: f for f in hardware.precisions(Subject("cuda", "cuda"))}
    skipped = {name for name, f in found.items() if f.ok is None}
    assert skipped == REFUSED[capability] & set(DENSE)
    assert all(f.said == hardware.RIGHT for f in found.values() if f.ok is not None)


def test_doctor_finds_products_that_are_wrong_and_tf32_in_disguise(monkeypatch):
    with standin(wrong=frozenset({torch.float16})):
        found = {f.name: f.ok for f in hardware.precisions(Subject("cuda", "cuda"))}
    assert found == {p: p != "fp16" for p in DENSE}
    with standin() as gpu:
        gpu.always_tf32 = True
        found = {f.name: f.ok for f in hardware.precisions(Subject("cuda", "cuda"))}
    assert found == {p: p != "fp32" for p in DENSE}


def test_tf32_is_another_product_and_fp32_is_not(gpu):
    """Ten bits of mantissa: 1 + 2^-12 is 1."""
    x = torch.full((16, 16), 1 + 2.0**-12, device="cuda")
    one = torch.eye(16, device="cuda")
    with numerics("fp32"):
        assert (x @ one)[0, 0].item() == 1 + 2.0**-12
    with numerics("tf32"):
        assert (x @ one)[0, 0].item() == 1
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"


@pytest.mark.parametrize("rows", [1, 16, 17, 32])
@pytest.mark.parametrize(("n", "k"), [(64, 128), (40, 64), (33, 256)])
@pytest.mark.parametrize("precision", ON_GPUS)
def test_quantized_products_keep_to_the_operators_limits(gpu, precision, n, k, rows):
    """The stand-in refuses what ATen's CUDA sources refuse; values are as near."""
    form = FORMATS[precision]
    if form.group and k % form.group:
        pytest.skip("the group does not divide the width")
    weight = torch.randn(n, k, device="cuda").bfloat16()
    module = quantized_linear(form, weight, None)
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        got = module(x)
    assert got.device.type == "cuda"
    floors = {"int8": 35, "int8-dynamic": 33, "fp8": 28, "fp8-dynamic": 25}
    expected = (x.float() @ weight.float().t()).cpu()
    assert sqnr_db(expected, got.cpu()) > floors.get(precision, 18)
    held = sum(w.numel() * w.element_size() for w in module.parameters())
    assert held == stored_bytes(form, n, k)
    used = {"int8-dynamic": "_int_mm", "fp8-dynamic": "_scaled_mm"}
    used |= {p: "_weight_int4pack_mm" for p in ON_GPUS if p.startswith("int4")}
    fits = {"_int_mm": n % 8 == 0, "_scaled_mm": n % 16 == 0}
    name = used.get(precision)
    assert name is None or bool(gpu.kernels[name]) is fits.get(name, True)


@pytest.mark.parametrize("k", [128, 160, 4096])
def test_int4_codes_come_back_from_the_devices_own_order(gpu, k):
    """Of which `unpack` knows nothing: it packs positions and looks where they go."""
    plain = int4.to_bytes(torch.randint(16, (48, k), device="cuda", dtype=torch.uint8))
    packed = int4.pack(plain, "cuda")
    assert packed.shape[2] == 32 and packed.dtype == torch.int32
    assert torch.equal(int4.unpack(packed, 48, k, "cuda"), plain)


@pytest.mark.parametrize("capability", REFUSED)
def test_2_4_by_compute_capability(capability):
    with standin(capability=capability):
        reason = storage_refusal("2:4", torch.device("cuda"), torch.bfloat16)
        assert reason == (
            "sparse tensor cores begin with compute capability 8.0"
            if capability == TURING
            else ""
        )
        if reason:
            model = build(point_of(model="tiny-llama", precision="fp16"), "cuda")
            with pytest.raises(ValueError, match="begin with compute capability"):
                sparsify(model, Sparsity(pattern="2:4", storage="2:4"))


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_2_4_product_is_the_masked_one(gpu, rows):
    weight = torch.randn(64, 128, device="cuda").bfloat16()
    weight.view(64, -1, 4)[..., :2] = 0
    semi = Sparsity(pattern="2:4", storage="2:4")
    module = SemiSparseLinear(semi, weight.shape, None, **halves(weight))
    x = torch.randn(rows, 128, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        got = module(x)
    expected = x.float() @ weight.float().t()
    assert sqnr_db(expected.cpu(), got.cpu()) > 40
    assert torch.equal(module.dense().cpu(), weight.cpu())
    assert module.weight_bytes() == sparse_bytes(semi, 64, 128)
    assert gpu.kernels["cusparselt_mm"] > 0


def test_caches_in_fp8_and_attention_kernels_by_capability():
    decode = {"model": "tiny-llama", "phase": "decode"}
    with standin(capability=AMPERE):
        reason = unsupported(point_of(**decode, cache="static-fp8"), Here("cuda"))
        assert reason is not None and reason.startswith("cache static-fp8: fp8 needs")
        assert "compute capability 8.9" in reason
    with standin(capability=ADA):
        point = point_of(**decode, cache="static-fp8", layers=1, prompt_len=8)
        assert unsupported(point, Here("cuda")) is None
        with numerics("fp32"):
            out = prepare(
                build(point, "cuda"), point_of(**decode, layers=1, prompt_len=8), "cuda"
            ).run()
        assert bool(torch.isfinite(out).all())


def test_mixed_devices_and_what_is_not_there_are_refused(gpu):
    """Strict: a slip that a CPU would forgive is an error."""
    here, there = torch.ones(4), torch.ones(4, device="cuda")
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same"):
        here + there
    assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2, 2]  # of no dimension
    with pytest.raises(NotImplementedError, match=r"torch.cuda.utilization is not in"):
        torch.cuda.utilization()
    with pytest.raises(NotImplementedError, match=r"torch.cuda.MemPool is not in"):
        torch.cuda.MemPool()

"""Pruned, sparse and shared models on a real GPU: 2:4 products and their bytes.

Written from the operators' documentation and sources; it has not run yet.
"""

from pathlib import Path

import pytest
import torch

from fastlab.calls import prepare
from fastlab.clock.fitting import POOLS, STORED_COUNTS
from fastlab.latency.samples import GENERATED
from fastlab.models import numerics
from fastlab.shrink.pruning.slicing import prune
from fastlab.shrink.recipes import build
from fastlab.shrink.saved import load_stored, save
from fastlab.shrink.share import lut_linear, share
from fastlab.shrink.sparsify import SemiSparseLinear, halves, sparsify, storage_refusal
from fastlab.spec import point_of
from fastlab.spec.pruning import Pruning
from fastlab.spec.storage import BITS, Sharing, Sparsity, palette_bytes, sparse_bytes
from tests.small import sqnr_db

SEMI = Sparsity(pattern="2:4", storage="2:4")


def skip_unable() -> None:
    reason = storage_refusal("2:4", torch.device("cuda"), torch.bfloat16)
    if reason:
        pytest.skip(reason)


def masked_weight(n: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    weight = torch.randn(n, k, device="cuda").to(dtype)
    weight.view(n, -1, 4)[..., :2] = 0
    return weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize(("n", "k"), [(64, 128), (1024, 4096)])
def test_a_2_4_product(n, k, rows, dtype):
    """Any number of rows: torch fills them up to what the kernel wants."""
    skip_unable()
    weight = masked_weight(n, k, dtype)
    module = SemiSparseLinear(SEMI, weight.shape, None, **halves(weight))
    x = torch.randn(2, rows, k, device="cuda", dtype=dtype)
    with torch.inference_mode():
        got = module(x)
    assert got.shape == (2, rows, n)
    assert sqnr_db(x.float() @ weight.float().t(), got) > 40
    assert torch.equal(module.dense(), weight)
    # What cuSPARSELt stores is its own affair, but near the same.
    assert module.weight_bytes() == pytest.approx(sparse_bytes(SEMI, n, k), rel=0.2)


def test_a_2_4_model_equals_the_masked_one():
    skip_unable()
    point = point_of(model="tiny-llama", precision="bf16", hidden=128)
    masked, stored = build(point, "cuda"), build(point, "cuda")
    sparsify(masked, Sparsity(pattern="2:4"))
    sparsify(stored, SEMI)
    assert any(isinstance(m, SemiSparseLinear) for m in stored.modules())
    with numerics("bf16"):
        expected = prepare(masked, point, "cuda").run()
        got = prepare(stored, point, "cuda").run()
    assert sqnr_db(expected.float(), got.float()) > 30


def test_fp32_and_odd_sizes_are_refused():
    skip_unable()
    point = point_of(model="tiny-llama", precision="fp32")
    with pytest.raises(ValueError, match="weights must be fp16 or bf16"):
        sparsify(build(point, "cuda"), SEMI)
    point = point_of(model="tiny-llama", precision="bf16", ffn=100)
    with pytest.raises(ValueError, match="must be multiples of 32 and 64"):
        sparsify(build(point, "cuda"), SEMI)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_csr_and_masks_work_there_too(method):
    point = point_of(model="tiny-llama", precision="fp32")
    ids = torch.randint(512, (4, 16))
    masked, stored = build(point, "cuda"), build(point, "cuda")
    sparsify(masked, Sparsity(0.8, method=method), ids)
    sparsify(stored, Sparsity(0.8, method=method, storage="csr"), ids)
    with numerics("fp32"):
        expected = prepare(masked, point, "cuda").run()
        got = prepare(stored, point, "cuda").run()
    assert sqnr_db(expected, got) > 80


@pytest.mark.parametrize("bits", BITS)
def test_palettes(bits):
    weight = torch.randn(256, 512, device="cuda").bfloat16()
    module = lut_linear(weight, None, Sharing(bits, rows=64))
    assert module.weight_bytes() == palette_bytes(Sharing(bits, rows=64), 256, 512)
    there = lut_linear(weight.cpu(), None, Sharing(bits, rows=64))
    assert sqnr_db(there.dense(), module.dense().cpu()) > 40
    x = torch.randn(3, 512, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        expected, got = module(x), torch.compile(module, fullgraph=True)(x)
    assert sqnr_db(expected.float(), got.float()) > 40


@pytest.mark.parametrize("importance", ["magnitude", "activation", "taylor"])
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-qwen3"])
def test_pruning_chooses_there_what_it_chooses_on_a_cpu(name, importance):
    point = point_of(model=name, precision="fp32")
    ids = torch.randint(512, (4, 16), generator=torch.Generator().manual_seed(0))
    pruning = Pruning(layers=0.5, ffn=0.5, importance=importance)
    here, there = build(point, "cpu"), build(point, "cpu").to("cuda")
    prune(here, pruning, ids)
    prune(there, pruning, ids)
    pairs = zip(here.parameters(), there.parameters(), strict=True)
    same = [torch.equal(a, b.cpu()) for a, b in pairs]
    assert sum(same) >= len(same) - 3  # near ties may fall the other way


def test_pruning_needs_no_second_model():
    point = point_of(
        **{"family": "llama", "layers": 8, "hidden": 2048, "vocab": 32000},
        precision="bf16",
    )
    model = build(point, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    prune(model, Pruning(layers=0.5, ffn=0.5, layer_choice="magnitude"))
    assert torch.cuda.max_memory_allocated() < 1.1 * before
    assert torch.cuda.memory_allocated() < 0.6 * before


def test_sharing_on_the_gpu_stays_near():
    point = point_of(model="tiny-llama", precision="bf16")
    model = build(point, "cuda")
    with numerics("bf16"):
        expected = prepare(model, point, "cuda").run().float()
        got = prepare(share(model, Sharing(6)), point, "cuda").run().float()
    assert sqnr_db(expected, got) > 20


@pytest.mark.parametrize("kind", [*STORED_COUNTS, *GENERATED])
def test_what_a_calibration_times_runs_there(kind):
    pool = sorted(POOLS[kind](4), key=lambda bench: bench.op.bytes)
    for bench in (pool[0], pool[len(pool) // 2]):
        run = bench.make("cuda", torch.float32)
        with torch.inference_mode():
            out = run()
        assert out.is_cuda
        assert bool(torch.isfinite(out).all())


def test_a_2_4_model_comes_back(tmp_path: Path) -> None:
    skip_unable()
    how = {"sparse_pattern": "2:4", "sparse_storage": "2:4", "prompt_len": 32}
    point = point_of(model="tiny-llama", precision="bf16", hidden=128, **how)
    model = build(point, "cuda")
    save(model, tmp_path)
    again = load_stored(tmp_path, "cuda")
    with numerics("bf16"):
        expected = prepare(model, point, "cuda").run()
        assert torch.equal(prepare(again, point, "cuda").run(), expected)

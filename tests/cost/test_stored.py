"""Products of sparse and shared weights: against the modules that run, and by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastlab.calls import prepare
from fastlab.clock.peak import peak_bytes as counted_peak
from fastlab.cost.memory import parameters, peak_bytes, weight_bytes
from fastlab.cost.operations import operations
from fastlab.latency.costs import costs_of
from fastlab.latency.devices import device
from fastlab.latency.estimates import estimate
from fastlab.models import numerics
from fastlab.shrink.recipes import build
from fastlab.spec import point_of
from fastlab.spec.recipe import weights_of
from fastlab.sweeps.reference import FOLDER, Reference
from tests.cost.counting import FAMILIES, Kernels, named, total, without_rope

CSR = {"sparse_ratio": 0.9, "sparse_storage": "csr"}
SEMI = {"sparse_pattern": "2:4", "sparse_storage": "2:4", "precision": "bf16"}
PALETTE = {"share_bits": 3}


def test_a_layer_of_two_in_four_by_hand():
    """1,048,576 weights: as many bytes of halves of them, and 2 bits each of place."""
    s: dict[str, Any] = {"family": "llama", "layers": 1, "hidden": 1024, "ffn": 1024}
    point = point_of(**s, heads=8, **SEMI, phase="decode")
    dense = 2 * parameters(point.shape)
    assert weight_bytes(point) == dense - 7 * (2 * 1024**2 - 1024**2 - 1024**2 // 8)
    ops = named(point)
    # one row is filled up to eight: 8 x 1024 zeros written, a row read and written
    assert ops["q.fill"].activation_bytes == 2 * 1024 * (8 + 2)
    assert ops["q.fill"].launches == 2
    assert (ops["q"].kind, ops["q"].flops) == ("semi", 1024 * 1024)
    assert ops["q"].weight_bytes == 1024**2 + 1024**2 // 8
    assert ops["q"].activation_bytes == 2 * 8 * (1024 + 1024)
    many = named(point_of(**s, heads=8, **SEMI, prompt_len=64))
    assert "q.fill" not in many
    assert many["q"].flops == 64 * 1024 * 1024


@pytest.mark.parametrize(("phase", "rows"), [("prefill", 9), ("decode", 1)])
def test_sparse_rows_by_hand(phase, rows):
    """tiny-gpt2 (64 wide) at 90 %: 6 of 64 inputs are left, 26 of the MLP's 256."""
    ops = named(point_of(model="tiny-gpt2", phase=phase, prompt_len=9, **CSR))
    assert ops["qkv"].flops == 2 * rows * 192 * 6
    assert ops["qkv"].dims == (rows, 192, 6)
    # fp32 values and int32 columns, starts of the rows, and the bias
    assert ops["qkv"].weight_bytes == 192 * 6 * 8 + 193 * 4 + 192 * 4
    assert ops["qkv"].activation_bytes == 4 * rows * (64 + 192)
    assert ops["mlp.down"].flops == 2 * rows * 64 * 26
    assert ops["qkv.bias"].activation_bytes == 2 * 4 * rows * 192
    assert ("qkv.transpose" in ops) == (rows > 1)
    assert not {"mlp.down.transpose", "qkv.widen"} & set(ops)
    assert ops["head"].kind == "linear"


def test_sixteen_bits_are_widened_for_sparse_rows_and_narrowed_after():
    point = point_of(model="tiny-llama", prompt_len=9, precision="bf16", **CSR)
    ops = named(point)
    assert ops["k.widen"].activation_bytes == 9 * 64 * (2 + 4)
    assert ops["k.transpose"].activation_bytes == 9 * 64 * (4 + 4)
    assert ops["k.narrow"].activation_bytes == 9 * 32 * (4 + 2)
    said = dict(zip(ops, costs_of(point).precisions, strict=True))
    assert (said["k"], said["head"]) == ("fp32", "bf16")


def test_a_look_up_by_hand():
    """64 x 64 weights of 3 bits, bf16: planes of 512 bytes, a table of 8 values."""
    point = point_of(model="tiny-llama", prompt_len=9, precision="bf16", share_bits=3)
    ops, w = named(point), 64 * 64
    assert ops["q.lookup"].weight_bytes == 3 * 512 + 8 * 2
    assert ops["q.lookup"].activation_bytes == w * (1 + 3 * 8) + w * (1 + 8 + 8 + 2)
    assert ops["q.lookup"].launches == 16
    assert ops["q"].weight_bytes == 0
    assert ops["q"].activation_bytes == 2 * (w + 9 * (64 + 64))
    fast = named(point_of(model="tiny-llama", share_bits=3, runtime="compile"))
    lookup = fast["q.lookup"]
    assert (lookup.kind, lookup.launches) == ("palette-compiled", 1)
    assert lookup.activation_bytes == 4 * w


def test_zeros_that_are_stored_cost_what_other_weights_do():
    for model in FAMILIES:
        zeros = point_of(model=model, sparse_ratio=0.9)
        assert operations(zeros) == operations(point_of(model=model))


@pytest.mark.parametrize("model", FAMILIES)
def test_flops_are_those_of_the_weights_that_are_multiplied(model):
    """A palette's as torch counts them; in sparse rows, of the weights left."""
    base = {"model": model, "prompt_len": 13, "attention": "eager"}
    shared, sparse = point_of(**base, share_bits=2), point_of(**base, **CSR)
    call = prepare(build(shared), shared)
    with numerics("fp32"), FlopCounterMode(display=False) as counter:
        call.run()
    assert total(shared) == total(point_of(**base)) == without_rope(counter)
    left = [m for m in build(sparse).modules() if hasattr(m, "starts")]
    made = sum(2 * 13 * len(module.values) for module in left)
    layer = sum(2 * 13 * n * k for _, n, k in weights_of(sparse.shape))
    assert total(sparse) == total(shared) - sparse.shape.layers * layer + made


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("made", [CSR, PALETTE], ids=str)
def test_fused_attention_takes_no_transposed_heads(model, made):
    point = point_of(model=model, prompt_len=13, **made)
    net = build(point)
    with torch.no_grad(), Kernels() as kernels:
        net(prepare(net, point).ids)
    one = next(op for op in operations(point) if op.kind == "attention")
    fused = any("flash" in name or "sdpa_fused" in name for name in kernels.seen)
    assert fused == (one.launches == 1) == (made is not CSR)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch", "prompt_len"), [(1, 16), (4, 512)])
@pytest.mark.parametrize("made", [CSR, PALETTE], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_peak_within_fifteen_percent(family, made, batch, prompt_len, precision):
    sizes = {"layers": 2, "hidden": 256, "vocab": 2000, "max_positions": 512}
    how = {"batch": batch, "prompt_len": prompt_len, "precision": precision}
    point = point_of(family=family, attention="eager", **sizes, **how, **made)
    model = build(point)
    with numerics(precision):
        alive, _ = counted_peak(model, prepare(model, point), "cpu")
    assert peak_bytes(point) == pytest.approx(alive, rel=0.15)


def test_a_profile_without_such_classes_still_estimates_and_says_so():
    profile = Reference(FOLDER / "xeon-2-threads").profile
    stored = ("csr", "palette", "palette-compiled")
    left = tuple(one for one in profile.fits.fits if one.kind not in stored)
    known = replace(profile, fits=replace(profile.fits, fits=left))
    assert known.fits.find("csr", "fp32") is None
    assert known.fits.find("palette-compiled", "fp32") is None
    assert known.fits.find("semi", "bf16") == known.fits.find("linear", "bf16")
    for precision in ("fp32", "bf16"):
        for made in (CSR, PALETTE):
            point = point_of(model="gpt2", precision=precision, **made)
            [e] = estimate([point], known)
            assert (e.model, e.extrapolated) == ("calibrated", True)
            assert e.low_s < e.seconds < e.high_s


def test_two_in_four_pay_in_a_long_prefill_and_not_where_launches_bind():
    h200, times = device("h200"), {}
    for phase in ("prefill", "decode"):
        how = {"model": "llama-3.1-8b", "phase": phase, "prompt_len": 4096}
        for name, made in (("2:4", SEMI), ("dense", {"precision": "bf16"})):
            [times[phase, name]] = estimate([point_of(**how, **made)], h200)
    ratios = {p: times[p, "dense"].low_s / times[p, "2:4"].low_s for p, _ in times}
    assert 1.4 < ratios["prefill"] < 2.0
    # filling one row up to eight: two more launches for each of seven products
    more = times["decode", "2:4"].launches - times["decode", "dense"].launches
    assert more == 32 * 7 * 2
    assert ratios["decode"] < 1

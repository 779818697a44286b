"""Products of sparse and shared weights: against the modules that run, and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastlab.clock.peak import peak_bytes as counted_peak
from fastlab.cost.memory import parameters, peak_bytes, weight_bytes
from fastlab.cost.operations import operations, products_of
from fastlab.cost.ops import Operation
from fastlab.latency.costs import costs_of
from fastlab.latency.devices import Device, device
from fastlab.latency.estimates import estimate
from fastlab.models import numerics, prepare
from fastlab.shrink.parts import stored_weight_bytes
from fastlab.shrink.recipes import build
from fastlab.spec import Point, point_of
from fastlab.sweeps.reference import Reference
from tests.cost.test_operations import total
from tests.cost.test_products import Casts

FAMILIES = ("tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-bert")
CSR = {"sparse_ratio": 0.9, "sparse_storage": "csr"}
SEMI = {"sparse_pattern": "2:4", "sparse_storage": "2:4", "precision": "bf16"}
MADE: list[dict[str, Any]] = [
    CSR,
    {"sparse_pattern": "1:4", "sparse_storage": "csr"},
    {"sparse_ratio": 0.5},
    {"share_bits": 3},
    {"share_bits": 6, "share_rows": 16},
]


def named(point: Point) -> dict[str, Operation]:
    return {op.name: op for op in operations(point)}


@pytest.fixture(scope="module")
def known() -> Device:
    """A profile that knows nothing of such weights."""
    root = Path(__file__).parents[2] / "data" / "reference"
    profile = Reference(root / "xeon-2-threads").profile
    assert profile is not None and profile.fits is not None
    stored = ("csr", "palette", "palette-compiled")
    left = tuple(one for one in profile.fits.fits if one.kind not in stored)
    return replace(profile, fits=replace(profile.fits, fits=left))


@pytest.mark.parametrize("made", MADE, ids=str)
@pytest.mark.parametrize("model", [*FAMILIES, "tied"])
def test_weights_take_what_the_model_holds(model: str, made: dict) -> None:
    tied = {"model": "tiny-llama", "tied": True, "vocab": 500, "prune_ffn": 0.5}
    for precision in ("fp32", "bf16"):
        which = tied if model == "tied" else {"model": model}
        point = point_of(**which, precision=precision, **made)
        assert weight_bytes(point) == stored_weight_bytes(build(point))


def test_a_layer_of_two_in_four_by_hand() -> None:
    """1,048,576 weights: as many bytes of halves of them, and 2 bits each of place."""
    s = {"family": "llama", "layers": 1, "hidden": 1024, "ffn": 1024, "heads": 8}
    point = point_of(**s, **SEMI, phase="decode")
    dense = 2 * parameters(point.shape)
    assert weight_bytes(point) == dense - 7 * (2 * 1024**2 - 1024**2 - 1024**2 // 8)
    ops = named(point)
    # one row is filled up to eight: 8 x 1024 zeros written, a row read and written
    assert ops["q.fill"].activation_bytes == 2 * 1024 * (8 + 2)
    assert ops["q.fill"].launches == 2
    assert ops["q"].kind == "semi"
    assert ops["q"].flops == 1024 * 1024
    assert ops["q"].weight_bytes == 1024**2 + 1024**2 // 8
    assert ops["q"].activation_bytes == 2 * 8 * (1024 + 1024)
    many = named(point_of(**s, **SEMI, prompt_len=64))
    assert "q.fill" not in many
    assert many["q"].flops == 64 * 1024 * 1024


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_sparse_rows_by_hand(phase: str) -> None:
    """tiny-gpt2 (64 wide) at 90 %: 6 of 64 inputs are left, 26 of the MLP's 256."""
    rows = 9 if phase == "prefill" else 1
    ops = named(point_of(model="tiny-gpt2", phase=phase, prompt_len=9, **CSR))
    assert ops["qkv"].flops == 2 * rows * 192 * 6
    assert ops["qkv"].dims == (rows, 192, 6)
    # fp32 values and int32 columns, starts of the rows, and the bias
    assert ops["qkv"].weight_bytes == 192 * 6 * 8 + 193 * 4 + 192 * 4
    assert ops["qkv"].activation_bytes == 4 * rows * (64 + 192)
    assert ops["mlp.down"].flops == 2 * rows * 64 * 26
    assert ops["qkv.bias"].activation_bytes == 2 * 4 * rows * 192
    assert ("qkv.transpose" in ops) == (rows > 1)
    assert "mlp.down.transpose" not in ops
    assert "qkv.widen" not in ops
    assert ops["head"].kind == "linear"


def test_sixteen_bits_are_widened_for_sparse_rows_and_narrowed_after() -> None:
    point = point_of(model="tiny-llama", prompt_len=9, precision="bf16", **CSR)
    ops = named(point)
    assert ops["k.widen"].activation_bytes == 9 * 64 * (2 + 4)
    assert ops["k.transpose"].activation_bytes == 9 * 64 * (4 + 4)
    assert ops["k.narrow"].activation_bytes == 9 * 32 * (4 + 2)
    said = dict(zip(ops, costs_of(point).precisions, strict=True))
    assert (said["k"], said["head"]) == ("fp32", "bf16")


def test_a_look_up_by_hand() -> None:
    """64 x 64 weights of 3 bits, bf16: planes of 512 bytes, a table of 8 values."""
    point = point_of(model="tiny-llama", prompt_len=9, precision="bf16", share_bits=3)
    ops, w = named(point), 64 * 64
    assert ops["q.lookup"].weight_bytes == 3 * 512 + 8 * 2
    assert ops["q.lookup"].activation_bytes == w * (1 + 3 * 8) + w * (1 + 8 + 8 + 2)
    assert ops["q.lookup"].launches == 16
    assert ops["q"].weight_bytes == 0
    assert ops["q"].activation_bytes == 2 * (w + 9 * (64 + 64))
    fast = named(point_of(model="tiny-llama", share_bits=3, runtime="compile"))
    assert fast["q.lookup"].kind == "palette-compiled"
    assert fast["q.lookup"].launches == 1
    assert fast["q.lookup"].activation_bytes == 4 * w


def test_zeros_that_are_stored_cost_what_other_weights_do() -> None:
    for model in FAMILIES:
        zeros = point_of(model=model, sparse_ratio=0.9)
        assert operations(zeros) == operations(point_of(model=model))
        assert weight_bytes(zeros) == weight_bytes(point_of(model=model))


class Passes(Casts):
    """Counts transposing copies and the look-up's bits too; a sparse view is none."""

    VIEWS = (*Casts.VIEWS, "sparse_compressed_tensor", "unbind")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = str(func).split(".")[1]
        self.count += name == "arange" and out.dtype == torch.uint8
        self.count += name == "contiguous" and out.data_ptr() != args[0].data_ptr()
        return out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("made", [CSR, {"share_bits": 3}], ids=str)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("model", FAMILIES)
def test_launches_are_those_that_torch_dispatches(
    model: str, phase: str, made: dict, precision: str
) -> None:
    if (model, phase) == ("tiny-bert", "decode"):
        pytest.skip("bert does not decode")
    how = {"phase": phase, "precision": precision, "attention": "eager"}
    point = point_of(model=model, layers=8, prompt_len=20, **how, **made)
    run = prepare(build(point), point)
    with numerics(precision), Passes() as kernels:
        run.run()
    assert total(point, "launches") == pytest.approx(kernels.count, rel=0.08)


@pytest.mark.parametrize("model", FAMILIES)
def test_shared_weights_are_multiplied_as_torch_counts(model: str) -> None:
    point = point_of(model=model, prompt_len=13, attention="eager", share_bits=2)
    run = prepare(build(point), point)
    with numerics("fp32"), FlopCounterMode(display=False) as counter:
        run.run()
    assert total(point) == counter.get_total_flops()


@pytest.mark.parametrize("model", FAMILIES)
def test_sparse_rows_do_as_many_flops_as_weights_are_left(model: str) -> None:
    point = point_of(model=model, prompt_len=13, attention="eager", **CSR)
    dense = point_of(model=model, prompt_len=13, attention="eager")
    left = [m for m in build(point).modules() if hasattr(m, "starts")]
    made = sum(2 * 13 * len(module.values) for module in left)
    layer = sum(2 * 13 * n * k for _, n, k in products_of(point))
    assert total(point) == total(dense) - point.shape.layers * layer + made


class Kinds(TorchDispatchMode):
    """Keeps the names of what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen.add(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("made", [CSR, {"share_bits": 3}], ids=str)
def test_fused_attention_takes_no_transposed_heads(model: str, made: dict) -> None:
    point = point_of(model=model, prompt_len=13, **made)
    net = build(point)
    with torch.no_grad(), Kinds() as kinds:
        net(prepare(net, point).ids)
    one = next(op for op in operations(point) if op.kind == "attention")
    fused = any("flash" in name or "sdpa_fused" in name for name in kinds.seen)
    assert fused == (one.launches == 1) == (made is not CSR)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rows", [(1, 16), (4, 512)])
@pytest.mark.parametrize("made", [CSR, {"share_bits": 3}], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_peak_within_fifteen_percent(
    family: str, made: dict, rows: tuple[int, int], precision: str
) -> None:
    batch, prompt_len = rows
    sizes = {"layers": 2, "hidden": 256, "vocab": 2000, "max_positions": 512}
    how = {"batch": batch, "prompt_len": prompt_len, "precision": precision}
    point = point_of(family=family, attention="eager", **sizes, **how, **made)
    model = build(point)
    with numerics(precision):
        alive, _ = counted_peak(model, prepare(model, point), "cpu")
    assert peak_bytes(point) == pytest.approx(alive, rel=0.15)


def test_a_profile_without_such_classes_still_estimates_and_says_so(
    known: Device,
) -> None:
    assert known.fits is not None
    for precision in ("fp32", "bf16"):
        assert known.fits.holds(precision)
        for made in (CSR, {"share_bits": 3}):
            point = point_of(model="gpt2", precision=precision, **made)
            [e] = estimate([point], known)
            assert (e.model, e.extrapolated) == ("calibrated", True)
            assert e.low_s < e.seconds < e.high_s


def test_stand_ins(known: Device) -> None:
    fits = known.fits
    assert fits is not None
    assert fits.find("csr", "fp32") is None
    assert fits.find("palette", "bf16") is None
    assert fits.find("palette-compiled", "fp32") is None
    assert fits.find("semi", "bf16") == fits.find("linear", "bf16")


def test_two_in_four_pay_in_a_long_prefill_and_not_where_launches_bind() -> None:
    h200, times = device("h200"), {}
    for phase in ("prefill", "decode"):
        how = {"model": "llama-3.1-8b", "phase": phase, "prompt_len": 4096}
        for name, made in (("2:4", SEMI), ("dense", {"precision": "bf16"})):
            [times[phase, name]] = estimate([point_of(**how, **made)], h200)
    ratios = {p: times[p, "dense"].low_s / times[p, "2:4"].low_s for p, _ in times}
    assert 1.5 < ratios["prefill"] < 2.0
    # filling one row up to eight: two more launches for each of seven products
    more = times["decode", "2:4"].launches - times["decode", "dense"].launches
    assert more == 32 * 7 * 2
    assert ratios["decode"] < 1

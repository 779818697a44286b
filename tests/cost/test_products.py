"""Products under each precision: bytes by hand, what models hold and launch."""

from typing import Any

import pytest
import torch

from fastlab.calls import prepare
from fastlab.cost.memory import weight_bytes
from fastlab.latency.costs import costs_of
from fastlab.models import numerics
from fastlab.shrink.kernels import native
from fastlab.shrink.kernels.int8 import Int8DynamicLinear
from fastlab.shrink.parts import stored_weight_bytes
from fastlab.shrink.recipes import build
from fastlab.spec import point_of
from fastlab.spec.formats import FORMATS, INT8, QUANTIZED, stored_bytes, table_bytes
from tests.cost.counting import FAMILIES, Kernels, named, total

CSR = {"sparse_ratio": 0.9, "sparse_storage": "csr"}
PALETTE = {"share_bits": 3, "attention": "eager"}
TINY: dict[str, Any] = {"model": "tiny-llama"}
SMALL: list[dict[str, Any]] = [
    {"precision": precision, "scope": scope}
    for precision in QUANTIZED
    for scope in ("layers", "head", "all")
    if FORMATS[precision].group <= 64
]
SMALL += [{"precision": precision} for precision in ("bf16", "autocast-bf16")]
SMALL += [
    {"precision": precision, **made}
    for precision in ("fp32", "bf16")
    for made in (
        CSR,
        {"sparse_pattern": "1:4", "sparse_storage": "csr", "prune_ffn": 0.5},
        {"sparse_ratio": 0.5},
        {"share_bits": 3, "prune_ffn": 0.5},
        {"share_bits": 6, "share_rows": 16},
    )
]


@pytest.mark.parametrize("made", SMALL, ids=str)
@pytest.mark.parametrize("model", [*FAMILIES, "tied"])
def test_weights_take_what_the_model_holds(model, made):
    tied = TINY | {"tied": True, "vocab": 500}
    point = point_of(**(tied if model == "tied" else {"model": model}), **made)
    assert weight_bytes(point) == stored_weight_bytes(build(point))


PLAIN = [{"precision": p, "layers": 6} for p in ("bf16", "autocast-bf16")]
DYNAMIC = ("int8-dynamic", "int4-g32-dynamic")
PLAIN += [{"precision": p, "layers": 6} for p in ("int8", *DYNAMIC)]
STORED = [
    {"precision": p, "phase": phase, "layers": 8, "attention": "eager", **made}
    for p in ("fp32", "bf16")
    for phase in ("prefill", "decode")
    for made in (CSR, PALETTE)
]


@pytest.mark.parametrize("how", PLAIN + STORED, ids=str)
@pytest.mark.parametrize("model", FAMILIES)
def test_launches_are_those_that_torch_dispatches(model, how, monkeypatch):
    """Of int8 as a GPU runs it: a CPU quantizes and widens within the product."""
    if how["precision"].startswith("int8"):
        monkeypatch.setattr(native, "isa", lambda inputs: 0)
        on_gpu = Int8DynamicLinear.by_codes
        monkeypatch.setattr(Int8DynamicLinear, "beside_largest", on_gpu)
    if model == "tiny-bert" and how.get("phase") == "decode":
        pytest.skip("bert does not decode")
    point = point_of(model=model, prompt_len=20, **how)
    call = prepare(build(point), point)
    stored = point.recipe.storage != "dense"
    with numerics(point.recipe.precision), Kernels(True, stored) as kernels:
        call.run()
    assert total(point, "launches") == pytest.approx(kernels.count, rel=0.08)


@pytest.mark.parametrize("precision", ["int8", "int4-g64", "fp8", "fp8-dynamic"])
def test_a_decode_step_reads_each_layer_as_stored(precision):
    """llama-3.1-8b: MLP 14336 x 4096, no bias; the head stays dense."""
    step = {"model": "llama-3.1-8b", "phase": "decode", "runtime": "decoder"}
    point = point_of(**step, precision=precision)
    ops, made = named(point), point.recipe.format
    assert ops["mlp.gate"].weight_bytes == stored_bytes(made, 14336, 4096)
    assert ops["mlp.gate"].precision == precision
    assert ops["head"].weight_bytes == 2 * 128256 * 4096
    assert ops["head"].precision == ""
    head = named(point_of(**step, precision=precision, scope="head"))["head"]
    assert head.weight_bytes == stored_bytes(made, 128256, 4096)


def test_many_rows_widen_int8_weights_first():
    """One row too many: n k bytes and scales read, 2 n k written, read by bf16."""
    rows = INT8.packed_rows + 1
    few, many = (
        named(point_of(**TINY, precision="int8", prompt_len=n))
        for n in (rows - 1, rows)
    )
    assert "q.widen" not in few
    assert many["q.widen"].weight_bytes == stored_bytes(INT8, 64, 64)
    assert many["q.widen"].activation_bytes == 2 * 64 * 64
    assert (many["q"].weight_bytes, many["q"].precision) == (0, "")
    assert many["q"].activation_bytes == 2 * (64 * 64 + rows * (64 + 64))


def test_dynamic_rows_are_a_byte_a_number_and_a_scale():
    ops = named(point_of(**TINY, precision="int8-dynamic", prompt_len=100))
    assert ops["q"].activation_bytes == 100 * (64 + 4) + 4 * 100 * 64
    assert ops["q.rescale"].activation_bytes == 100 * 64 * (5 * 4 + 2)
    fp8 = named(point_of(**TINY, precision="fp8-dynamic", prompt_len=100))
    assert fp8["q"].activation_bytes == 100 * (64 + 4) + 2 * 100 * 64
    assert "q.rescale" not in fp8


def test_autocast_casts_weights_in_every_call():
    """4 bytes read and 2 written for each weight, 2 read by the product."""
    ops = named(point_of(**TINY, precision="autocast-bf16", prompt_len=10))
    assert ops["q.weight.cast"].weight_bytes == 4 * 64 * 64
    assert ops["q.weight.cast"].activation_bytes == 2 * 64 * 64
    assert ops["q.cast"].activation_bytes == 10 * 64 * 6
    assert ops["q"].activation_bytes == 2 * (64 * 64 + 10 * (64 + 64))
    assert ops["q"].precision == ops["attention"].precision == "bf16"
    assert "out.cast" not in ops  # attention made 16 bit


def test_autocast_keeps_casts_only_of_weights_that_require_gradients():
    """Why all are counted: torch caches those of leaves with gradients alone."""
    for requires, copies in ((True, 2), (False, 3)):
        weight = torch.ones(8, 8, requires_grad=requires)
        x = torch.ones(8, 8)
        autocast = torch.autocast("cpu", torch.bfloat16)
        with autocast, torch.no_grad(), Kernels(casts=True) as seen:
            x = x.bfloat16()
            torch.mm(x, weight)
            torch.mm(x, weight)
        # two products, the cast of x, and one or two of the weight
        assert seen.count == 2 + copies


def test_a_quantized_table_is_read_by_rows():
    point = point_of(**TINY, precision="int4-g64", scope="all")
    read = named(point)["embed.tokens"].weight_bytes
    assert read == table_bytes(point.recipe.format, 128, 64) == 128 * (64 + 2)


def test_every_operation_says_what_it_computes_in():
    point = point_of(**TINY, precision="int8", prompt_len=8)
    said = dict(zip(named(point), costs_of(point).precisions, strict=True))
    assert said["q"] == said["mlp.down"] == "int8"
    assert said["norm1"] == said["attention"] == said["head"] == "bf16"
    for name, found in (("autocast-fp16", {"fp32", "fp16"}), ("tf32", {"tf32"})):
        assert set(costs_of(point_of(**TINY, precision=name)).precisions) == found


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"logits": "last"}, "strided"),
        ({"logits": "last", "precision": "int8"}, "strided"),  # the head stays dense
        ({"logits": "all"}, "linear"),
        ({"logits": "last", "cache": "static"}, "linear"),  # our own copies the rows
        ({"logits": "last", "runtime": "compile"}, "linear"),  # so does what we compile
        ({"phase": "decode"}, "linear"),
        ({"phase": "decode", "cache": "none"}, "strided"),
        ({"logits": "last", "prompt_len": 1}, "linear"),
    ],
)
def test_the_last_of_many_positions_is_cut_out(how, kind):
    point = point_of(**TINY | {"prompt_len": 12, "batch": 2} | how)
    head = named(point)["head"]
    scored = 24 if how == {"logits": "all"} else 2
    assert (head.kind, head.dims[0]) == (kind, scored)
    assert head.flops == 2 * scored * point.shape.vocab * point.shape.hidden

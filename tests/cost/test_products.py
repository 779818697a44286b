"""Products under each precision: bytes by hand, launches against torch on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastlab.cost.memory import kv_cache_bytes, weight_bytes
from fastlab.cost.operations import operations
from fastlab.cost.ops import Operation
from fastlab.latency.costs import costs_of
from fastlab.models import build, cache_name, numerics, prepare
from fastlab.shrink.parts import stored_weight_bytes
from fastlab.shrink.quantize import quantize
from fastlab.spec import Point, point_of
from fastlab.spec.formats import FORMATS, INT8, QUANTIZED, stored_bytes, table_bytes
from tests.cost.test_operations import Kernels, total

FAMILIES = ("tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-bert")


class Casts(Kernels):
    """Counts conversions to another dtype too: under autocast they are the news."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if str(func).split(".")[1] in ("to", "_to_copy"):
            self.count += out.dtype != args[0].dtype
        return out


def model_of(point: Point) -> torch.nn.Module:
    model = build(point)
    return quantize(model, point.recipe) if point.recipe.format.weights else model


@pytest.mark.parametrize("precision", ["bf16", "autocast-bf16", "int8", "int8-dynamic"])
@pytest.mark.parametrize("model", FAMILIES)
def test_launches_are_those_that_torch_dispatches(model: str, precision: str) -> None:
    point = point_of(model=model, layers=6, prompt_len=20, precision=precision)
    made = model_of(point)
    with numerics(precision), Casts() as kernels:
        prepare(made, point).run()
    assert total(point, "launches") == pytest.approx(kernels.count, rel=0.08)


@pytest.mark.parametrize("scope", ["layers", "head", "all"])
@pytest.mark.parametrize("precision", [p for p in QUANTIZED if FORMATS[p].group <= 64])
@pytest.mark.parametrize("model", [*FAMILIES, "tied"])
def test_weights_take_what_the_model_holds(
    model: str, precision: str, scope: str
) -> None:
    tied = {"model": "tiny-llama", "tied": True, "vocab": 500}
    named = tied if model == "tied" else {"model": model}
    point = point_of(**named, precision=precision, scope=scope)
    assert weight_bytes(point) == stored_weight_bytes(model_of(point))


@pytest.mark.parametrize("model", FAMILIES)
def test_dense_weights_too(model: str) -> None:
    for precision in ("bf16", "autocast-bf16"):
        point = point_of(model=model, precision=precision)
        assert weight_bytes(point) == stored_weight_bytes(build(point))


def named(point: Point) -> dict[str, Operation]:
    return {op.name: op for op in operations(point)}


@pytest.mark.parametrize("precision", ["int8", "int4-g64", "fp8", "fp8-dynamic"])
def test_a_decode_step_reads_each_layer_as_stored(precision: str) -> None:
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


def test_many_rows_widen_int8_weights_first() -> None:
    """One row too many: n k bytes and scales read, 2 n k written, read by bf16."""
    few, many = (
        named(point_of(model="tiny-llama", precision="int8", prompt_len=n))
        for n in (INT8.packed_rows, INT8.packed_rows + 1)
    )
    made = point_of(model="tiny-llama", precision="int8").recipe.format
    assert "q.widen" not in few
    assert many["q.widen"].weight_bytes == stored_bytes(made, 64, 64)
    assert many["q.widen"].activation_bytes == 2 * 64 * 64
    assert many["q"].weight_bytes == 0
    assert many["q"].precision == ""
    rows = INT8.packed_rows + 1
    assert many["q"].activation_bytes == 2 * (64 * 64 + rows * (64 + 64))


def test_dynamic_rows_are_a_byte_a_number_and_a_scale() -> None:
    ops = named(point_of(model="tiny-llama", precision="int8-dynamic", prompt_len=100))
    assert ops["q"].activation_bytes == 100 * (64 + 4) + 4 * 100 * 64
    assert ops["q.rescale"].activation_bytes == 100 * 64 * (5 * 4 + 2)
    fp8 = named(point_of(model="tiny-llama", precision="fp8-dynamic", prompt_len=100))
    assert fp8["q"].activation_bytes == 100 * (64 + 4) + 2 * 100 * 64
    assert "q.rescale" not in fp8


def test_autocast_casts_weights_in_every_call() -> None:
    """4 bytes read and 2 written for each weight, 2 read by the product."""
    ops = named(point_of(model="tiny-llama", precision="autocast-bf16", prompt_len=10))
    assert ops["q.weight.cast"].weight_bytes == 4 * 64 * 64
    assert ops["q.weight.cast"].activation_bytes == 2 * 64 * 64
    assert ops["q.cast"].activation_bytes == 10 * 64 * 6
    assert ops["q"].activation_bytes == 2 * (64 * 64 + 10 * (64 + 64))
    assert ops["q"].precision == ops["attention"].precision == "bf16"
    assert "out.cast" not in ops  # attention made 16 bit


def test_autocast_keeps_casts_only_of_weights_that_require_gradients() -> None:
    """Why all are counted: torch caches those of leaves with gradients alone."""
    for requires, copies in ((True, 2), (False, 3)):
        weight = torch.ones(8, 8, requires_grad=requires)
        x = torch.ones(8, 8)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), Casts() as seen:
            x = x.bfloat16()
            torch.mm(x, weight)
            torch.mm(x, weight)
        # two products, the cast of x, and one or two of the weight
        assert seen.count == 2 + copies


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-llama"])
def test_the_cache_under_autocast_is_what_torch_makes(model: str) -> None:
    point = point_of(model=model, precision="autocast-bf16", prompt_len=9)
    with numerics("autocast-bf16"):
        built = build(point)
        out = built(prepare(built, point).ids, use_cache=True)
    layers = out[cache_name(built)].layers
    held = sum(t.nbytes for layer in layers for t in (layer.keys, layer.values))
    assert kv_cache_bytes(point) == held


def test_a_quantized_table_is_read_by_rows() -> None:
    point = point_of(model="tiny-llama", precision="int4-g64", scope="all")
    made = point.recipe.format
    read = named(point)["embed.tokens"].weight_bytes
    assert read == table_bytes(made, 128, 64) == 128 * (64 + 2)


def test_every_operation_says_what_it_computes_in() -> None:
    point = point_of(model="tiny-llama", precision="int8", prompt_len=8)
    said = dict(zip(named(point), costs_of(point).precisions, strict=True))
    assert said["q"] == said["mlp.down"] == "int8"
    assert said["norm1"] == said["attention"] == said["head"] == "bf16"
    cast = point_of(model="tiny-llama", precision="autocast-fp16")
    assert set(costs_of(cast).precisions) == {"fp32", "fp16"}
    plain = point_of(model="tiny-llama", precision="tf32")
    assert set(costs_of(plain).precisions) == {"tf32"}


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
def test_the_last_of_many_positions_is_cut_out(how: dict, kind: str) -> None:
    point = point_of(**{"model": "tiny-llama", "prompt_len": 12, "batch": 2} | how)
    head = next(op for op in operations(point) if op.name == "head")
    assert head.kind == kind
    scored = (
        24 if kind == "linear" and "logits" in how and how["logits"] == "all" else 2
    )
    assert head.flops == 2 * scored * point.shape.vocab * point.shape.hidden

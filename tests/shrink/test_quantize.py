"""Whole models quantized: every family and scope, memory; what a device can run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastlab import machine
from fastlab.clock.peak import LiveBytes
from fastlab.cost.memory import parameters
from fastlab.shrink import parts
from fastlab.shrink.kernels import Quantized
from fastlab.shrink.kernels.int8 import Int8Embedding
from fastlab.shrink.quantize import quantize
from fastlab.shrink.recipes import build
from fastlab.shrink.saved import recipe_of
from fastlab.spec import Recipe, point_of
from fastlab.spec.formats import (
    FORMATS,
    PRECISIONS,
    QUANTIZED,
    stored_bytes,
    table_bytes,
)
from tests.small import logits, sqnr_db

FAMILIES = ("tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-bert")


@pytest.mark.parametrize("scope", ["layers", "head", "all"])
@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_stays_near_its_dense_self(
    name: str, precision: str, scope: str
) -> None:
    point = point_of(model=name, prompt_len=9, hidden=256)
    dense = build(point)
    exact = logits(dense, point)
    floors = {"int8": 33, "int8-dynamic": 29, "fp8": 21, "fp8-dynamic": 18}
    got = logits(quantize(dense, precision, scope), point)
    assert sqnr_db(exact, got) > floors.get(precision, 11)


def test_a_scope_says_which_modules() -> None:
    counts = {}
    for scope in ("layers", "head", "all"):
        model = quantize(build(point_of(model="tiny-bert")), "int8", scope)
        kinds = [type(m) for _, m in parts.stored_modules(model)]
        counts[scope] = (len(kinds), kinds.count(Int8Embedding))
    layers = 6 * point_of(model="tiny-bert").shape.layers
    # The head is bert's transform and its decoder.
    assert counts == {
        "layers": (layers, 0),
        "head": (layers + 2, 0),
        "all": (layers + 3, 1),
    }


def expected_bytes(model: nn.Module, precision: str, shape: Any, value: int) -> int:
    """Layers of a llama or qwen3 by the formula, the rest as it is."""
    made = FORMATS[precision]
    h, f = shape.hidden, shape.ffn
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = [(q, h), (kv, h), (kv, h), (h, q), (f, h), (f, h), (h, f)]
    saved = sum(n * k * value - stored_bytes(made, n, k, value) for n, k in sizes)
    return parameters(shape) * value - shape.layers * saved


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_bytes_of_a_model_are_those_of_the_formula(precision: str) -> None:
    point = point_of(model="tiny-llama", precision=precision, hidden=256)
    model = build(point)
    expected = expected_bytes(model, precision, point.shape, 2)
    assert parts.stored_weight_bytes(model) == expected
    assert parts.logical_parameters(model) == parameters(point.shape)
    assert recipe_of(model).precision == precision


@pytest.mark.parametrize("scope", ["layers", "head", "all"])
@pytest.mark.parametrize("precision", ["int8", "int4-g32", "fp8"])
def test_a_tied_head(precision: str, scope: str) -> None:
    shape: dict[str, Any] = {"family": "llama", "layers": 1, "hidden": 64, "vocab": 100}
    point = point_of(**shape, tied=True, precision=precision, scope=scope)
    model = build(point)
    made, v, h = point.recipe.format, 100, 64
    head, table = model.lm_head, model.model.embed_tokens  # type: ignore[union-attr]
    layers = expected_bytes(model, precision, point.shape, 2) - v * h * 2
    shared = precision == "int8" and scope == "all"
    if precision == "int8":
        assert (head.weight is table.weight) == (scope != "head")
    own = {
        "layers": v * h * 2,
        "head": v * h * 2 + stored_bytes(made, v, h),
        "all": table_bytes(made, v, h) + (0 if shared else stored_bytes(made, v, h)),
    }
    assert parts.stored_weight_bytes(model) == layers + own[scope]
    assert parts.logical_parameters(model) == parameters(point.shape)


def test_biases_stay_and_gpt2_has_its_own_linears() -> None:
    model = build(point_of(model="tiny-gpt2"))
    bias = model.transformer.h[0].attn.c_attn.bias  # type: ignore[union-attr, index]
    shape = model.transformer.h[0].attn.c_attn.weight.shape  # type: ignore
    quantize(model, "int8")
    new = model.transformer.h[0].attn.c_attn  # type: ignore[union-attr, index]
    assert isinstance(new, Quantized)
    assert new.bias is bias
    assert (new.in_features, new.out_features) == tuple(shape)


def test_memory_stays_near_the_dense_models() -> None:
    """In place: the peak is the dense model and the copies of one tensor's block."""
    point = point_of(
        **{"family": "llama", "layers": 8, "hidden": 256, "vocab": 64},
        precision="fp32",
    )
    model = build(point)
    dense = parts.stored_weight_bytes(model)
    largest = max(w.numel() for w in model.parameters())
    with LiveBytes(list(model.parameters())) as live:
        quantize(model, "int8")
    assert live.peak < dense + 5 * 4 * largest


def test_a_recipe_is_a_spec() -> None:
    recipe = Recipe("int8", scope="head")
    model = quantize(build(point_of(model="tiny-llama")), recipe)
    assert isinstance(model.lm_head, Quantized)
    with pytest.raises(ValueError, match="scope='all' contradicts"):
        quantize(build(point_of(model="tiny-llama")), recipe, "all")


def test_what_cannot_be_quantized_is_refused_before_anything_changes() -> None:
    model = build(point_of(model="tiny-llama", hidden=96))
    with pytest.raises(ValueError, match="precision='bf16' is not one of int8"):
        quantize(model, "bf16")
    with pytest.raises(ValueError, match="scope='some' is not one of layers"):
        quantize(model, "int8", "some")
    with pytest.raises(ValueError, match=r"groups of 64 do not divide the 96 inputs"):
        quantize(model, "int4-g64")
    assert not list(parts.stored_modules(model))
    quantize(model, "int8")
    with pytest.raises(ValueError, match="is quantized already"):
        quantize(model, "int8")
    model = build(point_of(model="tiny-llama"))
    model.model.layers[0].mlp.up_proj.weight[3, 3] = torch.nan  # type: ignore
    with pytest.raises(ValueError, match=r"layers.0.mlp.up_proj .* not finite"):
        quantize(model, "int8")


# ---- what a device can run: by its operators and its capability

ALL_FLAGS = {"avx512_bf16", "avx512_fp16", "amx_bf16"}


def refused(device: str) -> set[str]:
    return {p for p in PRECISIONS if machine.unsupported_reason(device, p)}


def test_cpus_by_their_flags(monkeypatch):
    """One that has everything runs all but tf32 and fp8; an old one emulates bf16."""
    monkeypatch.setattr(machine, "cpu_flags", lambda: ALL_FLAGS)
    assert refused("cpu") == {"tf32", "fp8", "fp8-dynamic"}
    assert "8.9" in machine.unsupported_reason("cpu", "fp8")
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"avx2"})
    for precision, words in {
        "int8": "int8 computes in bf16: bf16 is emulated",
        "autocast-fp16": "autocast-fp16 computes",
        "bf16": "bf16 is emulated",
    }.items():
        assert machine.unsupported_reason("cpu", precision).startswith(words)
    assert machine.unsupported_reason("cpu", "fp32") == ""


PRODUCTS = {
    "int8": "_weight_int8pack_mm",
    "int8-dynamic": "_int_mm",
    "int4-g64": "_weight_int4pack_mm_for_cpu",
}


@pytest.mark.parametrize(("precision", "name"), PRODUCTS.items())
def test_a_torch_without_the_product(monkeypatch, precision, name):
    class Operators:
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(torch.ops.aten, wanted)

    monkeypatch.setattr(machine, "cpu_flags", lambda: ALL_FLAGS)
    monkeypatch.setattr(torch, "ops", type("ops", (), {"aten": Operators()})())
    reason = f"{precision} needs aten.{name}, which torch {torch.__version__} lacks"
    assert machine.unsupported_reason("cpu", precision) == reason


LACKING = {
    (9, 0): set(),
    (8, 0): {"fp8", "fp8-dynamic"},
    (7, 5): {"tf32", "bf16", "autocast-bf16", *QUANTIZED},
}


@pytest.mark.parametrize(("capability", "lacking"), LACKING.items())
def test_gpus_by_capability(monkeypatch, capability, lacking):
    monkeypatch.setattr(machine, "_capability", lambda: capability)
    assert refused("cuda") == lacking | {p for p in QUANTIZED if FORMATS[p].cpu_only}

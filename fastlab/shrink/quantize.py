"""Dense model -> the same model on int8, int4 or fp8 weights, tensor by tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastlab.shrink import parts, rounding
from fastlab.shrink.linears import (
    ROW_KINDS,
    Int4Linear,
    Int8Embedding,
    Quantized,
    quantized_linear,
)
from fastlab.shrink.stored import StoredLinear
from fastlab.spec.checks import check_choice
from fastlab.spec.precision import FORMATS, QUANTIZED
from fastlab.spec.recipe import SCOPES, Recipe


def quantize(
    model: nn.Module, spec: str | Recipe, scope: str | None = None
) -> nn.Module:
    """Replace a model's dense linears by quantized ones; the model is consumed.

    spec: a quantized precision ("int4-g128"), or a Recipe that names one; scope:
    "layers" (the default), "head" (the output head too) or "all" (also the token
    embedding, int8 in every precision). Weights change one at a time where they are, so
    that memory never holds more than the dense model and one weight. Biases, norms and
    position tables stay dense.

    A tied head: with "head" it gets a quantized copy of its own and the embedding stays
    dense; with "all" both read one int8 table where the precision is int8 or
    int8-dynamic, and are two tables elsewhere.

    Raises ValueError for a precision that is not quantized, a group that does not
    divide a width, a model that is quantized, sparse or shared already, or weights that
    are not finite.
    """
    if isinstance(spec, Recipe):
        if scope not in (None, spec.scope):
            raise ValueError(f"scope={scope!r} contradicts the recipe's {spec.scope!r}")
        spec, scope = spec.precision, spec.scope
    check_choice("precision", spec, QUANTIZED)
    check_choice("scope", scope := scope or "layers", SCOPES)
    names = parts.linear_names(model, scope)
    _check(model, names, spec)
    tied_head = parts.head_name(model) if parts.is_tied(model) else ""
    table = _quantize_table(model) if scope == "all" else None
    for name in names:
        share = table if name == tied_head else None
        parts.put(model, name, _replacement(model, name, spec, share))
    return model


def _check(model: nn.Module, names: list[str], precision: str) -> None:
    states = {
        "quantized already;": (Quantized, Int8Embedding),
        "stored sparse or as a palette;": StoredLinear,
    }
    for state, kinds in states.items():
        for name, module in model.named_modules():
            if isinstance(module, kinds):
                raise ValueError(
                    f"{name} is {state} precision={precision!r} needs a dense model"
                )
    group = FORMATS[precision].group
    for name in names if group else ():
        width = parts.dense_weight(model.get_submodule(name)).shape[1]
        if width % group:
            raise ValueError(
                f"precision={precision!r}: groups of {group} do not divide the "
                f"{width} inputs of {name}"
            )


def _quantize_table(model: nn.Module) -> Int8Embedding:
    name = parts.table_name(model)
    weight = parts.dense_weight(model.get_submodule(name))
    table = Int8Embedding(*rounding.int8_rows(weight))
    _check_finite(name, table.scales)
    parts.put(model, name, table)
    return table


def _replacement(
    model: nn.Module, name: str, precision: str, share: Int8Embedding | None
) -> Quantized:
    dense = model.get_submodule(name)
    bias = getattr(dense, "bias", None)
    if share is not None and FORMATS[precision].weights == "int8":
        return ROW_KINDS[precision](share.weight, share.scales, bias)
    weight = parts.dense_weight(dense).contiguous()
    module = quantized_linear(weight, bias, FORMATS[precision])
    scales = module.pairs if isinstance(module, Int4Linear) else module.scales
    _check_finite(name, scales)
    return module


def _check_finite(name: str, scales: Any) -> None:
    if not bool(torch.isfinite(scales).all()):
        raise ValueError(f"the weight of {name} has values that are not finite")

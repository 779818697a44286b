"""Dense model -> the same model on int8, int4 or fp8 weights, tensor by tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
from fastlab.spec.precision import FORMATS, QUANTIZED, Format
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
    precision, scope = _named(spec, scope)
    made = FORMATS[precision]
    names = parts.linear_names(model, scope)
    _check(model, names, precision)
    tied = parts.is_tied(model)
    head = parts.head_name(model)
    table = _quantize_table(model) if scope == "all" else None
    for name in names:
        dense = model.get_submodule(name)
        share = table if tied and name == head and made.weights == "int8" else None
        parts.put(model, name, _replacement(name, dense, made, share))
    return model


def _named(spec: str | Recipe, scope: str | None) -> tuple[str, str]:
    if isinstance(spec, Recipe):
        if scope not in (None, spec.scope):
            raise ValueError(f"scope={scope!r} contradicts the recipe's {spec.scope!r}")
        return _named(spec.precision, spec.scope)
    check_choice("precision", spec, QUANTIZED)
    check_choice("scope", scope or "layers", SCOPES)
    return spec, scope or "layers"


def _check(model: nn.Module, names: list[str], precision: str) -> None:
    done = next((name for name, _ in parts.quantized_modules(model)), None)
    if done is not None:
        raise ValueError(
            f"{done} is quantized already; precision={precision!r} needs a dense model"
        )
    stored = [n for n, m in model.named_modules() if isinstance(m, StoredLinear)]
    if stored:
        raise ValueError(
            f"{stored[0]} is stored sparse or as a palette; precision={precision!r} "
            "needs a dense model"
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
    _check_finite(name, table)
    parts.put(model, name, table)
    return table


def _replacement(
    name: str, dense: nn.Module, made: Format, share: Int8Embedding | None
) -> Quantized:
    bias = getattr(dense, "bias", None)
    if share is not None:
        kind = ROW_KINDS[made.weights, made.dynamic]
        return kind(share.weight, share.scales, bias)
    module = quantized_linear(parts.dense_weight(dense).contiguous(), bias, made)
    _check_finite(name, module)
    return module


def _check_finite(name: str, module: nn.Module) -> None:
    scales = module.pairs if isinstance(module, Int4Linear) else module.scales
    assert isinstance(scales, Tensor)
    if not bool(torch.isfinite(scales).all()):
        raise ValueError(f"the weight of {name} has values that are not finite")

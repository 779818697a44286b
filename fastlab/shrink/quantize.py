"""Dense model -> the same model on int8, int4 or fp8 weights, tensor by tensor."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from fastlab.models import filled
from fastlab.shrink import parts
from fastlab.shrink.kernels import Quantized, StoredLinear, linear_of, quantized_linear
from fastlab.shrink.kernels.int8 import Int8Embedding, rounded
from fastlab.spec.checks import check_choice
from fastlab.spec.configs import read_shape
from fastlab.spec.formats import FORMATS, INT8, QUANTIZED, Format
from fastlab.spec.kept import program_of
from fastlab.spec.recipe import SCOPES, Recipe
from fastlab.tracing.weights import table_bound


def quantize(model: Any, spec: str | Recipe, scope: str | None = None) -> nn.Module:
    """Replace a model's dense linears, and experts, by quantized ones; it is consumed.

    spec: a quantized precision ("int4-g128"), or a Recipe that names one; scope:
    "layers" (the default), "head" (the output head too) or "all" (also the token
    embedding, int8 in every precision). Weights change one at a time where they are, so
    that memory never holds more than the dense model and one weight, or a layer's stack
    of experts. Biases, norms and position tables stay dense.

    A tied head: with "head" it gets a quantized copy of its own and the embedding stays
    dense; with "all" both read one int8 table where the precision is int8 or
    int8-dynamic, and are two tables elsewhere.

    Raises ValueError for a precision that is not quantized, a group that does not
    divide a width, a model that is quantized, sparse or shared already, or weights that
    are not finite; for experts, a token table or linears that code of their own reads.
    """
    if isinstance(spec, Recipe):
        own = spec.scope
        if scope not in (None, own):
            raise ValueError(f"scope={scope!r} contradicts the recipe's {own!r}")
        spec, scope = spec.precision, own
    check_choice("precision", spec, QUANTIZED)
    check_choice("scope", scope := scope or "layers", SCOPES)
    if why := why_dense(getattr(model, "config", None), scope):
        raise ValueError(f"weights cannot be {spec}: {why}")
    with parts.apart(model):
        names = parts.linear_names(model, scope)
        _check(model, names, spec)
        if scope == "all" and (why := table_bound(model)):
            raise ValueError(f"scope='all': the token table must stay dense: {why}")
        return _quantized(model, names, FORMATS[spec], scope == "all")


def why_dense(source: Any, scope: str) -> str:
    """Why weights of a folder's, or a config's, model must stay dense; "" for none."""
    with suppress(ValueError):  # of a model that nothing can be foreseen of
        shape = read_shape(source)
        return str(program_of(shape)["bound"][scope]) if shape.config else ""
    return ""


def _quantized(model: Any, names: list[str], form: Format, whole: bool) -> Any:
    tied = parts.tied_head(model)
    table: Any = None
    if whole:
        name = parts.name_of(model, model.get_input_embeddings())
        parts.replace_each(
            model, [name], lambda _, w, __: Int8Embedding(**rounded(w, INT8))
        )
        table = model.get_submodule(name)

    def quantized(name: str, weight: Tensor, bias: Tensor | None) -> Quantized:
        if table is not None and name == tied and form.shares_table:
            own = {"weight": table.weight, "scales": table.scales}
            return linear_of(form, weight.shape, bias, own)
        return quantized_linear(form, weight.contiguous(), bias)

    parts.replace_each(model, names, quantized)
    for weight in model.parameters():
        filled(weight)
    return model


def _check(model: nn.Module, names: list[str], precision: str) -> None:
    needs = f"precision={precision!r} needs a dense model"
    for name, module in model.named_modules():
        if isinstance(module, (Quantized, Int8Embedding)):
            raise ValueError(f"{name} is quantized already; {needs}")
        if isinstance(module, StoredLinear):
            raise ValueError(f"{name} is stored sparse or as a palette; {needs}")
    for name in names:
        width = parts.dense_weight(model.get_submodule(name)).shape[1]
        FORMATS[precision].check_group(width, f"the {width} inputs of {name}")

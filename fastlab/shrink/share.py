"""Dense model -> the same model with weights that share values, tensor by tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastlab.shrink import codebooks, parts
from fastlab.shrink.stored import LutLinear
from fastlab.spec.sharing import Sharing, tables_of


def share(model: nn.Module, sharing: Sharing) -> nn.Module:
    """Replace the linears of a model's layers by look-ups; the model is consumed.

    The tables are found by k-means on the weights as they are; embeddings, norms,
    biases and the output head stay dense. Raises ValueError, before anything changes,
    where groups do not divide the rows of a weight, or where it has no dense linears;
    and for weights that are not finite.
    """
    names = dense_names(model, "share")
    for name in names:
        tables_of(sharing, len(parts.dense_weight(model.get_submodule(name))))
    for name in names:
        dense = model.get_submodule(name)
        weight = parts.dense_weight(dense)
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"the weight of {name} has values that are not finite")
        bias = getattr(dense, "bias", None)
        parts.put(model, name, lut_linear(weight, bias, sharing))
    return model


def dense_names(model: nn.Module, verb: str) -> list[str]:
    """The dense linears of a model's layers; ValueError where there are none."""
    names = parts.linear_names(model, "layers")
    if not names:
        raise ValueError(f"cannot {verb}: the layers have no dense linears (any more)")
    return names


@torch.no_grad()
def lut_linear(weight: Tensor, bias: Tensor | None, sharing: Sharing) -> LutLinear:
    """The look-up module of a dense weight (n, k); its groups must divide n."""
    n, k = weight.shape
    groups = weight.reshape(tables_of(sharing, n), -1)
    tables, codes = codebooks.codebooks_of(groups, sharing.bits)
    packed = codebooks.pack(codes.view(-1), sharing.bits)
    return LutLinear(packed, tables, n, k, bias)

"""Which modules of a transformers model hold the weights that a scope names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.shrink.kernels import StoredLinear, bytes_of
from fastlab.shrink.kernels.int8 import Int8Embedding


def linear_names(model: nn.Module, scope: str) -> list[str]:
    """Dotted names of the dense linears of a scope, in the model's own order.

    "layers": those of the transformer's layers (everything in an nn.ModuleList); "head"
    and "all": also what follows them, the output head and bert's transform before it.
    """
    lists = _lists(model)
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (nn.Linear, Conv1D))
        and (scope != "layers" or name.startswith(lists))
    ]


def _lists(model: nn.Module) -> tuple[str, ...]:
    """How the names of what is in the transformer's layers begin."""
    modules = model.named_modules()
    return tuple(f"{name}." for name, m in modules if isinstance(m, nn.ModuleList))


def dense_names(model: nn.Module, verb: str) -> list[str]:
    """The dense linears of a model's layers; ValueError where there are none."""
    names = linear_names(model, "layers")
    if not names:
        raise ValueError(f"cannot {verb}: the layers have no dense linears (any more)")
    return names


def dense_weight(module: nn.Module) -> Tensor:
    """(n, k) of a Linear, or of GPT-2's Conv1D, which keeps it transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


def stored_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every quantized, sparse or shared linear, and table."""
    kinds = (StoredLinear, Int8Embedding)
    return ((n, m) for n, m in model.named_modules() if isinstance(m, kinds))


def scope_of(model: nn.Module) -> str:
    """The scope that the stored modules of a model are those of."""
    stored, lists = dict(stored_modules(model)), _lists(model)
    if any(isinstance(module, Int8Embedding) for module in stored.values()):
        return "all"
    return "layers" if all(name.startswith(lists) for name in stored) else "head"


def name_of(model: nn.Module, wanted: nn.Module) -> str:
    """Dotted name of a module of the model."""
    return next(name for name, module in model.named_modules() if module is wanted)


def tied_head(model: Any) -> str:
    """Dotted name of a head that reads the token embedding's own tensor, else ""."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    return name_of(model, head) if head.weight is table.weight else ""


def replace_each(
    model: nn.Module, names: list[str], make: Callable[[str, Tensor, Any], nn.Module]
) -> nn.Module:
    """Put make(name, weight (n, k), bias) in the place of each linear, one at a time.

    Raises ValueError for weights that are not finite.
    """
    for name in names:
        dense = model.get_submodule(name)
        weight = dense_weight(dense)
        if not all(bool(edge.isfinite()) for edge in weight.aminmax()):
            raise ValueError(f"the weight of {name} has values that are not finite")
        model.set_submodule(name, make(name, weight, getattr(dense, "bias", None)))
    return model


def stored_weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as stored, scales included, shared ones once."""
    return sum(map(bytes_of, model.parameters()))


def logical_parameters(model: Any) -> int:
    """Parameters of the dense model that a quantized, sparse or shared one stands for.

    Scales, zero points, tables and filled-up rows are none, zeros count; a tied head
    counts once, also where it now has its own quantized copy.
    """
    stored: dict[str, Any] = dict(stored_modules(model))
    weights = (m.named_parameters() for m in stored.values())
    own = {id(w) for named in weights for name, w in named if name != "bias"}
    if getattr(model.config, "tie_word_embeddings", False):
        stored.pop(name_of(model, model.get_output_embeddings()), None)
    sizes = (m.out_features * m.in_features for m in stored.values())
    return sum(sizes) + sum(w.numel() for w in model.parameters() if id(w) not in own)

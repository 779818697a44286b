"""Which modules of a transformers model hold the weights that a scope names."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.shrink.linears import ROW_KINDS, Int4Linear, Int8Embedding, Quantized
from fastlab.shrink.stored import StoredLinear, bytes_of


def linear_names(model: nn.Module, scope: str) -> list[str]:
    """Dotted names of the dense linears of a scope, in the model's own order.

    "layers": those of the transformer's layers (everything in an nn.ModuleList); "head"
    and "all": also what follows them, the output head and bert's transform before it.
    """
    names = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (nn.Linear, Conv1D))
    ]
    inside = _listed(model)
    return [n for n in names if scope != "layers" or n.startswith(inside)]


def _listed(model: nn.Module) -> tuple[str, ...]:
    lists = (n for n, m in model.named_modules() if isinstance(m, nn.ModuleList))
    return tuple(f"{name}." for name in lists)


def dense_weight(module: nn.Module) -> Tensor:
    """(n, k) of a Linear, or of GPT-2's Conv1D, which keeps it transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every quantized linear and table."""
    for name, module in model.named_modules():
        if isinstance(module, (Quantized, Int8Embedding)):
            yield name, module


def precision_of(model: nn.Module) -> str:
    """The quantized precision of a model's linears, "" for a dense model."""
    kinds = {kind: key for key, kind in ROW_KINDS.items()}
    for _, module in quantized_modules(model):
        if isinstance(module, Int4Linear):
            return f"int4-g{module.group}"
        if isinstance(module, Quantized):
            weights, dynamic = kinds[type(module)]
            return f"{weights}-dynamic" if dynamic else weights
    return ""


def table_name(model: nn.Module) -> str:
    """Dotted name of the token embedding."""
    table = model.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, module in model.named_modules() if module is table)


def head_name(model: nn.Module) -> str:
    """Dotted name of the output head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return next(name for name, module in model.named_modules() if module is head)


def is_tied(model: nn.Module) -> bool:
    """Whether the output head reads the token embedding's own tensor."""
    table = model.get_submodule(table_name(model))
    head = model.get_submodule(head_name(model))
    return head.weight is table.weight


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of a dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def stored_weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as stored, scales included, shared ones once."""
    return sum(map(bytes_of, model.parameters()))


def logical_parameters(model: nn.Module) -> int:
    """Parameters of the dense model that a quantized, sparse or shared one stands for.

    Scales, zero points, tables and filled-up rows are none, zeros count; a tied head
    counts once, also where it now has its own quantized copy.
    """
    stored = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (StoredLinear, Int8Embedding))
    ]
    own = {
        id(w)
        for _, module in stored
        for name, w in module.named_parameters()
        if name != "bias"
    }
    plain = sum(w.numel() for w in model.parameters() if id(w) not in own)
    head = head_name(model)
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    sizes = [_size(module) for name, module in stored if not (tied and name == head)]
    return plain + sum(sizes)


def _size(module: StoredLinear | Int8Embedding) -> int:
    if isinstance(module, StoredLinear):
        return module.out_features * module.in_features
    return module.num_embeddings * module.embedding_dim

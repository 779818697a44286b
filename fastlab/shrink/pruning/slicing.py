"""Cutting what does not stay out of a model: in place, one tensor at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.models import config_sizes, stack_of
from fastlab.shrink.parts import tied_head
from fastlab.shrink.pruning.importance import Kept, choose
from fastlab.shrink.pruning.module_map import is_transposed, parts_of
from fastlab.spec.pruning import Pruning
from fastlab.spec.shape import ModelShape


def cut(model: Any, kept: Kept) -> None:
    """Leave only what is kept, and let the config and the modules say so."""
    before = ModelShape.from_config(model.config)
    tied = tied_head(model)
    parts = [p for p in parts_of(model) if p.layer in (*kept.layers, -1)]
    stack = stack_of(model)
    for index in reversed(range(len(stack))):
        if index not in kept.layers:
            del stack[index]
    for index, layer in enumerate(stack):
        for module in layer.modules():
            if "layer_idx" in vars(module):
                vars(module)["layer_idx"] = index
    for part in parts:
        if part.name != tied:
            axes = (part.written, part.read)
            sides = (channels(axis, kept, part.layer, before) for axis in axes)
            narrow(part.module, *sides)
    if tied:
        head = model.get_submodule(tied)
        head.weight = model.get_input_embeddings().weight
        _tell_sizes(head)
    _tell(model, kept)


def channels(axis: str, kept: Kept, layer: int, before: ModelShape) -> Tensor | None:
    """The channels of an axis that stay in a layer of the dense model, None = all."""
    if axis in ("hidden", "norm"):
        return kept.hidden
    if axis == "ffn":
        return kept.ffn.get(layer)
    groups = kept.heads.get(layer)
    if groups is None or axis == "-":
        return None
    keys = spread(groups, before.head_dim)
    if axis in ("keys", "values"):
        return keys
    queries = spread(groups, before.heads // before.kv_heads * before.head_dim)
    if axis == "heads":
        return queries
    width = before.heads * before.head_dim  # "qkv" is of families without groups
    return torch.cat([queries, width + keys, 2 * width + keys])


def spread(groups: Tensor, width: int) -> Tensor:
    """The channels of groups that lie side by side: [0, 2], 2 -> [0, 1, 4, 5]."""
    inside = torch.arange(width, device=groups.device)
    return (groups[:, None] * width + inside).flatten()


def narrow(module: Any, rows: Tensor | None, columns: Tensor | None) -> None:
    """Leave the outputs `rows` and inputs `columns` of a matrix or norm; None = all.

    A norm's weight is multiplied by sqrt(H / H'): it divides by the root mean square
    over H' units, no longer over H of which the others are zero. So an RMSNorm gives
    what it would in the masked dense model.
    """
    first = 1 if is_transposed(module) else 0
    for index, axis in ((rows, first), (columns, 1 - first)):
        if index is not None:
            shrunk = len(module.weight) / len(index) if module.weight.ndim == 1 else 1
            module.weight = _selected(module.weight, axis, index, math.sqrt(shrunk))
    if rows is not None and getattr(module, "bias", None) is not None:
        module.bias = _selected(module.bias, 0, rows)
    _tell_sizes(module)


@torch.no_grad()
def _selected(
    weight: nn.Parameter, axis: int, index: Tensor, scale: float = 1.0
) -> nn.Parameter:
    new = weight.index_select(axis, index.to(weight.device)).mul_(scale)
    return nn.Parameter(new, requires_grad=weight.requires_grad)


def _tell_sizes(module: Any) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


def _tell(model: Any, kept: Kept) -> None:
    """Write the shape into the config, and where modules keep copies of its sizes."""
    shape, config = kept.shape, model.config
    for name, value in config_sizes(shape).items():
        setattr(config, name, value)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[layer] for layer in kept.layers]
    copies = {
        **dict.fromkeys(("hidden_size", "embed_dim", "split_size"), shape.hidden),
        **dict.fromkeys(("num_heads", "num_attention_heads"), shape.heads),
        **{"num_key_value_heads": shape.kv_heads, "intermediate_size": shape.ffn},
        "all_head_size": shape.heads * shape.head_dim,
    }
    for module in model.modules():
        for name in copies.keys() & vars(module).keys():
            setattr(module, name, copies[name])


def prune(model: Any, pruning: Pruning, ids: Tensor | None = None) -> Any:
    """Cut layers, heads, FFN channels and hidden width out of a model.

    The model is consumed: its weights change one at a time where they are, so that
    memory holds the dense model and one more weight at the most. Everything is chosen
    on the dense model first. ids: token ids (rows, length) of a text, for importances
    that are measured. The result is a model of `pruned_shape`, which save_pretrained
    writes and from_pretrained reads.

    Raises ValueError, before anything changes, for shares that cut nothing or leave a
    width that no config of the family can say, for missing or unfit ids, for models
    that are quantized or of another family, and for weights that are not finite.
    """
    name = "scale_attn_by_inverse_layer_idx"
    if pruning.layers and getattr(model.config, name, False):
        raise ValueError(
            f"layers={pruning.layers}: {name}=True of the model makes what a layer "
            "does depend on its number, which pruning changes"
        )
    cut(model, choose(model, pruning, ids))
    return model

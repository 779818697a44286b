"""Where a transformers model keeps its layers, and which axes its modules share.

A weight matrix is named by what it writes and what it reads: `o_proj` writes "hidden"
and reads "heads". Pruning an axis then is the same few lines for every family: all
that write it lose rows, all that read it lose columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from fastlab.spec.shape import ModelShape

Axes = tuple[str, str]  # (written, read); "" = an axis that is never pruned


class ModuleMap(NamedTuple):
    """The modules of a family that hold parameters, with the axes they write and read.

    stack: the dotted name of the list of layers; layer: modules inside each of them;
    outside: all others. Axes: "hidden" (the residual stream), "heads" (query heads x
    head_dim), "keys" and "values" (key / value heads x head_dim), "qkv" (the three,
    fused), "ffn". A norm writes what it reads.
    """

    stack: str
    layer: dict[str, Axes]
    outside: dict[str, Axes]


_NORM = ("hidden", "hidden")
_GATED = {
    "self_attn.q_proj": ("heads", "hidden"),
    "self_attn.k_proj": ("keys", "hidden"),
    "self_attn.v_proj": ("values", "hidden"),
    "self_attn.o_proj": ("hidden", "heads"),
    "mlp.gate_proj": ("ffn", "hidden"),
    "mlp.up_proj": ("ffn", "hidden"),
    "mlp.down_proj": ("hidden", "ffn"),
    "input_layernorm": _NORM,
    "post_attention_layernorm": _NORM,
}
_GATED_OUTSIDE = {
    "model.embed_tokens": ("hidden", ""),
    "model.norm": _NORM,
    "lm_head": ("", "hidden"),
}
MODULE_MAPS = {
    "llama": ModuleMap("model.layers", _GATED, _GATED_OUTSIDE),
    "qwen3": ModuleMap(
        "model.layers",
        _GATED | {"self_attn.q_norm": ("", ""), "self_attn.k_norm": ("", "")},
        _GATED_OUTSIDE,
    ),
    "gpt2": ModuleMap(
        "transformer.h",
        {
            "attn.c_attn": ("qkv", "hidden"),
            "attn.c_proj": ("hidden", "heads"),
            "mlp.c_fc": ("ffn", "hidden"),
            "mlp.c_proj": ("hidden", "ffn"),
            "ln_1": _NORM,
            "ln_2": _NORM,
        },
        {
            "transformer.wte": ("hidden", ""),
            "transformer.wpe": ("hidden", ""),
            "transformer.ln_f": _NORM,
            "lm_head": ("", "hidden"),
        },
    ),
    "bert": ModuleMap(
        "bert.encoder.layer",
        {
            "attention.self.query": ("heads", "hidden"),
            "attention.self.key": ("keys", "hidden"),
            "attention.self.value": ("values", "hidden"),
            "attention.output.dense": ("hidden", "heads"),
            "attention.output.LayerNorm": _NORM,
            "intermediate.dense": ("ffn", "hidden"),
            "output.dense": ("hidden", "ffn"),
            "output.LayerNorm": _NORM,
        },
        {
            "bert.embeddings.word_embeddings": ("hidden", ""),
            "bert.embeddings.position_embeddings": ("hidden", ""),
            "bert.embeddings.token_type_embeddings": ("hidden", ""),
            "bert.embeddings.LayerNorm": _NORM,
            "cls.predictions": ("", ""),
            "cls.predictions.transform.dense": ("hidden", "hidden"),
            "cls.predictions.transform.LayerNorm": _NORM,
            "cls.predictions.decoder": ("", "hidden"),
        },
    ),
}


class Part(NamedTuple):
    """A module that pruning can touch: its axes and its layer, -1 outside of them."""

    name: str
    module: Any
    written: str
    read: str
    layer: int

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm of the residual stream."""
        return (self.written, self.read) == _NORM and self.module.weight.ndim == 1


def module_map_of(model: Any) -> ModuleMap:
    """The module_map of a dense model of a known family.

    Raises ValueError for another family, for modules with parameters that the family
    does not usually have (adapters, cross-attention), and for quantized or shared
    weights.
    """
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in MODULE_MAPS:
        raise ValueError(
            f"model_type={family!r} is not one of {', '.join(MODULE_MAPS)}: "
            "what its weights read and write is not known"
        )
    module_map = MODULE_MAPS[family]
    known = {part.name for part in parts_of(model, module_map)}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and name not in known:
            raise ValueError(f"{name} ({type(module).__name__}) is not of a {family}")
        if any(not weight.is_floating_point() for weight in own):
            raise ValueError(f"{name} is quantized: prune the dense model before")
    return module_map


def stack_of(model: Any, module_map: ModuleMap) -> nn.ModuleList:
    """The list of the model's layers."""
    stack: nn.ModuleList = model.get_submodule(module_map.stack)
    return stack


def parts_of(model: Any, module_map: ModuleMap) -> Iterator[Part]:
    """All modules with parameters, those of the layers first."""
    for index, layer in enumerate(stack_of(model, module_map)):
        yield from layer_parts(layer, index, module_map)
    for name, axes in module_map.outside.items():
        yield Part(name, _found(model, name), *axes, -1)


def layer_parts(layer: nn.Module, index: int, module_map: ModuleMap) -> Iterator[Part]:
    """The modules of one layer, named as in the whole model."""
    for name, axes in module_map.layer.items():
        yield Part(
            f"{module_map.stack}.{index}.{name}", _found(layer, name), *axes, index
        )


def _found(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"{type(module).__name__} has no {name}: pruning knows language models only"
        ) from error


def is_transposed(module: nn.Module) -> bool:
    """Whether a matrix is kept as (read, written), not (written, read)."""
    return isinstance(module, (Conv1D, nn.Embedding))


def value_rows(part: Part, shape: ModelShape) -> slice:
    """Which rows of a weight that writes "values" or "qkv" make the values."""
    start = 2 * shape.hidden if part.written == "qkv" else 0
    return slice(start, start + shape.kv_heads * shape.head_dim)

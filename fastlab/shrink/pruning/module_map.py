"""Where a transformers model keeps its layers, and which axes its modules share.

A weight matrix is named by what it writes and what it reads: `o_proj` writes "hidden"
and reads "heads". Pruning an axis then is the same few lines for every family: all
that write it lose rows, all that read it lose columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from fastlab.models import LAYERS, stack_of

# Family -> "written read" -> the modules that do so; * stands for each layer of LAYERS.
# Axes: "hidden" (the residual stream), "heads" (query heads x head_dim), "keys" and
# "values" (key / value heads x head_dim), "qkv" (the three, fused), "ffn", "-" (never
# pruned), "norm" (units of the residual stream, which a norm scales where they are).
_GATED = {
    "heads hidden": "*.self_attn.q_proj",
    "keys hidden": "*.self_attn.k_proj",
    "values hidden": "*.self_attn.v_proj",
    "hidden heads": "*.self_attn.o_proj",
    "ffn hidden": "*.mlp.gate_proj *.mlp.up_proj",
    "hidden ffn": "*.mlp.down_proj",
    "norm -": "*.input_layernorm *.post_attention_layernorm model.norm",
    "hidden -": "model.embed_tokens",
    "- hidden": "lm_head",
}
MODULES = {
    "llama": _GATED,
    "qwen3": _GATED | {"- -": "*.self_attn.q_norm *.self_attn.k_norm"},
    "gpt2": {
        "qkv hidden": "*.attn.c_attn",
        "hidden heads": "*.attn.c_proj",
        "ffn hidden": "*.mlp.c_fc",
        "hidden ffn": "*.mlp.c_proj",
        "norm -": "*.ln_1 *.ln_2 transformer.ln_f",
        "hidden -": "transformer.wte transformer.wpe",
        "- hidden": "lm_head",
    },
    "bert": {
        "heads hidden": "*.attention.self.query",
        "keys hidden": "*.attention.self.key",
        "values hidden": "*.attention.self.value",
        "hidden heads": "*.attention.output.dense",
        "ffn hidden": "*.intermediate.dense",
        "hidden ffn": "*.output.dense",
        "norm -": "*.attention.output.LayerNorm *.output.LayerNorm "
        "bert.embeddings.LayerNorm cls.predictions.transform.LayerNorm",
        "hidden -": "bert.embeddings.word_embeddings "
        "bert.embeddings.position_embeddings bert.embeddings.token_type_embeddings",
        "- -": "cls.predictions",
        "hidden hidden": "cls.predictions.transform.dense",
        "- hidden": "cls.predictions.decoder",
    },
}


class Part(NamedTuple):
    """A module that pruning can touch: its axes and its layer, -1 outside of them."""

    name: str
    module: Any
    written: str
    read: str
    layer: int


def parts_of(model: Any) -> list[Part]:
    """All modules of a dense model with parameters, those of the layers first.

    Raises ValueError for a family that is not known, for modules with parameters that
    the family does not usually have (adapters, cross-attention) or that a model without
    a language head lacks, and for quantized or shared weights.
    """
    layers = range(len(stack_of(model)))
    family = model.config.model_type
    modules = dict(model.named_modules())
    parts: dict[str, Part] = {}
    for layer in (*layers, -1):
        for axes, names in MODULES[family].items():
            for name in names.split():
                if name.startswith("*") is (layer >= 0):
                    full = name.replace("*", f"{LAYERS[family]}.{layer}")
                    written, read = axes.split()
                    parts[full] = Part(full, modules.get(full), written, read, layer)
    _check(family, modules, parts)
    return list(parts.values())


def _check(family: str, modules: dict[str, Any], parts: dict[str, Part]) -> None:
    for name in parts:
        if name not in modules:
            kind = type(modules[""]).__name__
            raise ValueError(
                f"{kind} has no {name}: pruning knows language models only"
            )
    for name, module in modules.items():
        own = list(module.parameters(recurse=False))
        if own and name not in parts:
            raise ValueError(f"{name} ({type(module).__name__}) is not of a {family}")
        if any(not weight.is_floating_point() for weight in own):
            raise ValueError(f"{name} is quantized: prune the dense model before")


def is_transposed(module: nn.Module) -> bool:
    """Whether a matrix is kept as (read, written), not (written, read)."""
    return isinstance(module, (Conv1D, nn.Embedding))

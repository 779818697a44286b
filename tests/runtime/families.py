"""A small model of every kind of transformers' decoders, from its own default config.

Sizes are shrunk by their names, and layers cut to four that have each type of layer.
Windows and chunks are 8 positions; weights are drawn so that the next token depends on
what came before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES: list[tuple[Any, str]] = [
    (64, "hidden_size n_embd d_model word_embed_proj_dim embedding_size"),
    (
        4,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
        "encoder_attention_heads num_experts num_local_experts n_routed_experts "
        "moe_num_experts mamba_num_heads",
    ),
    (
        2,
        "num_key_value_heads num_kv_heads swa_num_attention_heads num_experts_per_tok "
        "moe_topk moe_k top_k_experts max_window_layers num_kv_shared_layers",
    ),
    (1, "n_group topk_group num_expert_group first_k_dense_replace"),
    (16, "head_dim kv_channels v_head_dim qk_nope_head_dim attention_head_dim d_kv"),
    (
        8,
        "qk_rope_head_dim rotary_dim global_head_dim hidden_size_per_layer_input "
        "sliding_window attention_chunk_size window_size local_attention",
    ),
    (
        48,
        "intermediate_size ffn_dim n_inner ffn_hidden_size moe_intermediate_size "
        "decoder_ffn_dim encoder_ffn_dim shared_expert_intermediate_size "
        "expert_ffn_hidden_size intermediate_size_mlp dff",
    ),
    (32, "kv_lora_rank q_lora_rank"),
    (97, "vocab_size vocab_size_per_layer_input"),
    (128, "max_position_embeddings n_positions max_seq_len n_ctx"),
    (True, "use_sliding_window is_decoder"),
    (False, "tie_word_embeddings"),
    ("en_XX", "default_language"),
    (
        None,
        "pad_token_id bos_token_id eos_token_id forced_eos_token_id per_layer_config",
    ),
]
SMALL = {name: size for size, names in SIZES for name in names.split()}
PADDED = ("rob", "xlm", "camem", "data2", "xmod")  # must have a token to pad with


def small_config(kind: str, **over: Any) -> Any:
    """The config of a model type, small; what is in `over` as it is said there."""
    made = CONFIG_MAPPING[kind]
    sizes = shrunk(made().to_dict())
    if any(part in kind for part in PADDED):
        sizes["pad_token_id"] = 0
    try:
        return made(**sizes | over)
    except Exception:  # some want numbers for these
        ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
        return made(**sizes | ends | over)


def shrunk(known: dict[str, Any]) -> dict[str, Any]:
    """Small values for the sizes that a config has, nested ones too."""
    small = {
        name: SMALL[name]
        for name, value in known.items()
        if name in SMALL and not isinstance(value, dict)
    }
    for name, value in known.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = value | shrunk(value)
    if "qk_rope_head_dim" in known:  # keys and values of all heads from one vector
        small.pop("head_dim", None)
        small["num_key_value_heads"] = 4
    if kinds := list(dict.fromkeys(known.get("layer_types") or [])):
        small["layer_types"] = (kinds * 4)[:4]
    return small


def small_model(kind: str, **over: Any) -> nn.Module:
    """A model of a type; ValueError where its default config makes no small one."""
    try:
        config = small_config(kind, **over)
        with torch.device("meta"):
            shadow = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise ValueError(f"{kind}: {error}") from error
    if sum(weight.numel() for weight in shadow.parameters()) > 3e6:
        raise ValueError(f"{kind}: its default config does not shrink")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model.generation_config.forced_eos_token_id = None
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            embeds = "emb" in name or "wte" in name
            weight.normal_(std=0.2 if embeds else 1.6 / weight.shape[-1] ** 0.5)
        elif "norm" not in name and "ln" not in name:
            weight.add_(torch.randn_like(weight) * 0.3)
        if weight.ndim == 2 and ("wpe" in name or "pos" in name):
            weight.mul_(8)
    return model

"""Tiny models whose next token is decided, as random initial weights leave it not."""

import torch
from torch import nn

from fastlab.models import build
from fastlab.spec import point_of

SHAPES = {
    "llama": {"heads": 6, "kv_heads": 2, "tied": True, "ffn": 64},  # groups of three
    "qwen3": {"heads": 3, "kv_heads": 1, "head_dim": 16, "tied": False, "ffn": 64},
    "gpt2": {"heads": 2, "max_positions": 64},
}
HIDDEN = {"llama": 48, "qwen3": 32, "gpt2": 32}


def tiny(family: str, layers: int = 1, **over: object) -> nn.Module:
    """A model of one layer and 97 words, its matrices ten times their usual size."""
    sizes = {"family": family, "layers": layers, "hidden": HIDDEN[family]}
    sizes["prompt_len"] = 8
    model = build(point_of(**sizes, vocab=97, **{**SHAPES[family], **over}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    return model


def prompts(batch: int, n: int, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(97, (batch, n), generator=source)


def generated(model: nn.Module, ids: torch.Tensor, new: int) -> torch.Tensor:
    """What transformers' own greedy generation makes of it."""
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
    )
    return out[:, ids.shape[1] :]

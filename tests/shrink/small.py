"""Small models of every family whose shapes tell heads, groups and widths apart."""

from typing import Any

import torch

from fastlab.models import build
from fastlab.spec import point_of

FAMILIES = ("gpt2", "llama", "qwen3", "bert")
DECODERS = FAMILIES[:3]
# Three groups of two heads; in qwen3 heads are wider than hidden / heads.
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden": 48, "heads": 6, "ffn": 40, "max_positions": 64},
    "llama": {"hidden": 48, "heads": 6, "kv_heads": 3, "ffn": 40, "tied": True},
    "qwen3": {
        **{"hidden": 32, "heads": 6, "kv_heads": 3, "head_dim": 16, "ffn": 40},
        **{"tied": False},
    },
    "bert": {"hidden": 48, "heads": 6, "ffn": 40, "max_positions": 64},
}


def small(family: str, layers: int = 3, **over: Any) -> Any:
    """A model of 97 words with large matrices, and biases and norms of all sizes."""
    sizes = SIZES[family] | over
    point = point_of(family=family, layers=layers, vocab=97, prompt_len=8, **sizes)
    model = build(point)
    source = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.mul_(8)
        else:
            weight.add_(0.2 * torch.randn(weight.shape, generator=source))
    return model


def token_rows(rows: int = 4, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random token ids (rows, length)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(97, (rows, length), generator=source)


@torch.no_grad()
def logits_of(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (rows, length, vocab)."""
    return model(token_rows(2) if ids is None else ids).logits

"""Attention over static caches: one query against a whole buffer, grouped heads packed.

transformers copies grouped keys and values out to every query head when it compiles;
here the query heads of a group become rows of one product instead, which reads each key
and value once. The kernel is the one that the recipe names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED, FLEX = "fastlab-packed", "fastlab-flex"
BACKENDS = {
    "sdpa-math": SDPBackend.MATH,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
}


@contextmanager
def attention_of(model: nn.Module, attention: str) -> Iterator[None]:
    """Within it, the model attends as the recipe's `attention` says.

    Everything but "eager" goes through `packed`, on the kernel that is named. The
    model's own choice is put back at the end.
    """
    config: Any = model.config
    before, names = config._attn_implementation, {"eager": "eager", "flex": FLEX}
    config._attn_implementation = names.get(attention, PACKED)
    try:
        with kernel_of(attention):
            yield
    finally:
        config._attn_implementation = before


def kernel_of(attention: str) -> AbstractContextManager[Any]:
    """Within it, torch's attention runs on the kernel that is named, if one is."""
    kernel = BACKENDS.get(attention)
    return nullcontext() if kernel is None else sdpa_kernel(kernel)


def packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (batch, heads, new, d), key, value (batch, kv_heads, n, d) -> attention.

    Returns (batch, new, heads, d). Without a mask the new positions see each other
    causally; attention_mask (..., new, n) is true where a key is seen.
    """
    batch, heads, new, d = query.shape
    groups = heads // key.shape[1]
    causal = attention_mask is None and new > 1
    options: dict[str, Any] = {"scale": scaling, "is_causal": causal}
    if groups > 1 and new == 1:
        query = query.reshape(batch, heads // groups, groups, d)
    elif groups > 1 and attention_mask is None:
        options["enable_gqa"] = True
    elif groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, **options
    )
    return out.reshape(batch, heads, new, d).transpose(1, 2).contiguous(), None


def flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same by flex_attention, with the mask as a change of the scores."""
    from torch.nn.attention.flex_attention import flex_attention

    def masked(score: Any, b: Any, h: Any, q: Any, k: Any) -> Tensor:
        seen = q >= k if attention_mask is None else attention_mask[0, 0, q, k]
        return torch.where(seen, score, -float("inf"))

    grouped = query.shape[1] != key.shape[1]
    out: Any = flex_attention(
        query, key, value, score_mod=masked, scale=scaling, enable_gqa=grouped
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed)
AttentionInterface.register(FLEX, flex)


def visible(rows: Tensor, length: int, dtype: torch.dtype, attention: str) -> Tensor:
    """Mask (1, 1, new, length): a query at `rows[i]` sees keys 0 ... rows[i].

    Boolean, or for "eager" what is added to scores: 0, or the least number of dtype.
    """
    seen = torch.arange(length, device=rows.device) <= rows[:, None]
    if attention == "eager":
        added = torch.zeros_like(seen, dtype=dtype)
        seen = added.masked_fill(~seen, torch.finfo(dtype).min)
    return seen[None, None]

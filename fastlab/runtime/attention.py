"""Attention over static caches: one query against a whole buffer, grouped heads packed.

transformers copies grouped keys and values out to every query head when it compiles;
here the query heads of a group become rows of one product instead, which reads each key
and value once. The kernel is the one that the recipe names. Which keys a query sees
(all before it, a window, a chunk) the model says layer by layer; `visible` asks it
about the rows of the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

PACKED, FLEX = "fastlab-packed", "fastlab-flex"
BACKENDS = {
    "sdpa-math": SDPBackend.MATH,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
}


@contextmanager
def attention_of(model: nn.Module, attention: str, asks: bool = True) -> Iterator[None]:
    """Within it, the model attends as the recipe's `attention` says.

    Everything but "eager" goes through `packed`, on the kernel that is named; a model
    that asks nobody (`asks_for_attention`) keeps its own. Put back at the end.
    """
    config: Any = model.config
    before, names = config._attn_implementation, {"eager": "eager", "flex": FLEX}
    config._attn_implementation = names.get(attention, PACKED if asks else before)
    try:
        with kernel_of(attention):
            yield
    finally:
        config._attn_implementation = before


def asks_for_attention(model: nn.Module) -> bool:
    """Whether the model takes attention from transformers' table of such functions.

    A few old ones compute it themselves.
    """
    homes = {type(module).__module__ for module in model.modules()}
    return any(hasattr(sys.modules[home], "ALL_ATTENTION_FUNCTIONS") for home in homes)


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
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (batch, heads, new, d), key, value (batch, kv_heads, n, d or dv).

    Returns (batch, new, heads, dv). Without a mask the new positions see each other
    causally; attention_mask (..., new, n) is true where a key is seen. softcap: scores
    become softcap x tanh(score / softcap). s_aux (heads,): one more score a head, of a
    sink that takes its share and gives nothing.
    """
    batch, heads, new, d = query.shape
    groups = heads // key.shape[1]
    causal = attention_mask is None and new > 1
    options: dict[str, Any] = {"scale": scaling, "is_causal": causal}
    if softcap is not None or s_aux is not None:
        out = _by_hand(query, key, value, attention_mask, scaling, softcap, s_aux)
        return out.transpose(1, 2).contiguous(), None
    if groups > 1 and new == 1:
        query = query.reshape(batch, heads // groups, groups, d)
        if attention_mask is not None and attention_mask.shape[1] > 1:
            attention_mask = attention_mask.reshape(batch, heads // groups, groups, -1)
    elif groups > 1 and attention_mask is None:
        options["enable_gqa"] = True
    elif groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, **options
    )
    return out.reshape(batch, heads, new, -1).transpose(1, 2).contiguous(), None


def _by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention (batch, heads, new, dv) with what no kernel of torch's takes."""
    batch, heads, new, d = query.shape
    kv_heads, n = key.shape[1:3]
    rows = query.reshape(batch, kv_heads, -1, d) * (scaling or d**-0.5)
    scores = (rows @ key.mT).view(batch, heads, new, n).float()
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if mask is None:
        mask = torch.ones(new, n, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~mask, -float("inf"))
    if sinks is not None:
        sink = sinks.float().view(1, heads, 1, 1).expand(batch, heads, new, 1)
        scores = torch.cat([scores, sink], dim=-1)
    parts = scores.softmax(dim=-1)[..., :n].to(value.dtype)
    out = parts.reshape(batch, kv_heads, -1, n) @ value
    return out.view(batch, heads, new, -1)


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


def visible(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    allow_is_causal_skip: bool = True,
    device: Any = "cpu",
    **_: Any,
) -> Tensor | None:
    """Mask (1 or batch, 1, new, n): which keys the queries from q_offset on see.

    None where that is plain causal attention of new positions among themselves, and
    may be. mask_function tells it of one batch, head, query and key, or of tensors.
    """
    first = isinstance(q_offset, int) and q_offset == 0 and q_length == kv_length
    if first and mask_function is causal_mask_function and allow_is_causal_skip:
        return None
    rows = torch.arange(batch_size, device=device).view(-1, 1, 1, 1)
    queries = torch.arange(q_length, device=device).view(1, 1, -1, 1) + q_offset
    keys = torch.arange(kv_length, device=device).view(1, 1, 1, -1) + kv_offset
    seen: Tensor = mask_function(rows, torch.zeros_like(rows[:1]), queries, keys)
    return seen


for name, function in ((PACKED, packed), (FLEX, flex)):
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, visible)

"""Attention of one layer with its KV cache: what is written, read, attended. No torch.

From an empty static cache attention is causal over the new rows. After a prefix, and in
decode steps, it works under a mask over all rows that the host knows it needs, or over
the whole cache: with nothing saved.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastlab.cost import ops
from fastlab.cost.kv_cache import unpack, widths, write
from fastlab.cost.ops import Operation
from fastlab.cost.passes import ForwardPass
from fastlab.spec.shape import GROUPED


def attention(step: ForwardPass) -> Iterator[Operation]:
    """Operations of one layer from the new keys and values to attention's output."""
    if step.cached:
        yield from write(step)
        yield from unpack(step)
    if step.format.autocast:
        yield from _cast(step)
    fused = _fused(step)
    if not step.fused:
        yield _plain(step, fused)
    elif _copies_heads(step):
        numbers = 2 * step.batch * step.keys * step.shape.head_dim
        copied = step.narrow * numbers * step.shape.heads
        costs = (1, 0, 0, 0, copied, fused.kv_read_bytes)
        yield Operation("attention.repeat", "copy", *costs, launches=2)
        moved = fused.activation_bytes + copied
        yield fused._replace(kv_read_bytes=0, activation_bytes=moved)
    else:
        yield fused


def _fused(step: ForwardPass) -> Operation:
    s, a = step.shape, step.narrow
    past = step.keys - step.new
    causal = s.family != "bert" and not step.masked
    heads = (s.heads, s.kv_heads, s.head_dim)
    fused = ops.attention("attention", step.batch, step.new, past, *heads, a, causal)
    if step.format.autocast:
        fused = fused._replace(precision=step.format.autocast)
    if not (step.packed_cache and step.masked):
        return fused
    # What is read was written out dense: the cache itself was read before.
    moved = fused.activation_bytes + fused.kv_read_bytes
    return fused._replace(kv_read_bytes=0, activation_bytes=moved)


def _plain(step: ForwardPass, fused: Operation) -> Operation:
    """Separate kernels; once compiled, two products and all between them in one."""
    s, a = step.shape, step.narrow
    masked = s.family != "bert" and (step.new > 1 or step.masked)
    upcast = s.family in GROUPED  # llama and qwen3 take the softmax in fp32
    scores = step.batch * s.heads * step.new * step.keys
    outside = 2 * a * step.rows * s.heads * s.head_dim
    rows = step.batch * step.keys * s.head_dim
    copied = 0 if s.heads == s.kv_heads else 4 * a * rows * s.heads
    plain = ops.plain_attention(fused, a, masked, upcast)
    return plain._replace(fused_bytes=outside + 4 * a * scores + copied)


def _copies_heads(step: ForwardPass) -> bool:
    """Whether grouped keys and values are first copied out to every query head.

    Under a mask, except by our own attention in decode steps, which takes the queries
    of a group as rows of one product.
    """
    grouped = step.shape.heads != step.shape.kv_heads
    ours = step.samples and step.recipe.runtime != "transformers"
    return grouped and step.masked and not ours


def _cast(step: ForwardPass) -> Iterator[Operation]:
    """Queries after RoPE, and keys and values that are held in fp32, in 16 bit."""
    s, (keys, values) = step.shape, widths(step)
    one = step.batch * step.keys * s.kv_heads * s.head_dim
    wide = [one] * ((keys > step.narrow) + (values > step.narrow))
    queries = [step.rows * s.heads * s.head_dim] * (s.family in GROUPED)
    both = step.value + step.narrow
    if elements := sum(wide + queries):
        fused, launches = both * sum(wide) or step.narrow, len(wide + queries)
        yield ops.pointwise("attention.cast", both * elements, fused, launches)

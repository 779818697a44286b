"""Attention of one layer with its KV cache: what is written, read, attended. No torch.

From an empty static cache attention is causal over the new rows. After a prefix, and in
decode steps, it works under a mask over all rows that the host knows it needs, or over
the whole cache: with nothing saved. A dynamic cache copies all it has, a static one
writes the new rows in place. An int8 or fp8 one packs each new row (a byte a number and
a scale a head) and unpacks all rows that attention reads.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastlab.cost import ops
from fastlab.cost.ops import Operation
from fastlab.cost.passes import ForwardPass
from fastlab.spec.recipe import kv_row_bytes

# Of keys or values alone, in eager kernels. Packing: to fp32 (16-bit input only), abs,
# amax, clamp, its scale, divide, round, cast. Unpacking: to fp32, scale, cast back.
PACK_LAUNCHES, UNPACK_LAUNCHES = 7, 2
PACK_PASSES, UNPACK_PASSES = 8, 3  # 4-byte passes over the numbers, packed ones apart


def row_bytes(step: ForwardPass) -> int:
    """Bytes of one position's keys and values in one layer and sequence, as cached."""
    row = kv_row_bytes(step.recipe.cache, step.value, step.shape.head_dim)
    return 2 * step.shape.kv_heads * row


def widths(step: ForwardPass) -> tuple[int, int]:
    """Bytes of one number of the keys and of the values that attention is given.

    Under autocast both come out of a product in 16 bit, but RoPE turns keys into fp32.
    A dynamic cache keeps values as it keeps keys, a static one all as the weights are.
    """
    if step.masked or not step.format.autocast:
        return step.value, step.value
    keys = step.value if step.shape.rotates else step.narrow
    return keys, keys if step.cached and not step.static else step.narrow


def write(step: ForwardPass) -> Iterator[Operation]:
    """Take the new keys and values into the cache of one layer."""
    s = step.shape
    if not step.static:
        sizes = (step.batch, step.new, step.past, s.kv_heads, s.head_dim)
        yield ops.cache_append("cache", *sizes, sum(widths(step)) // 2)
        return
    numbers = 2 * step.rows * s.kv_heads * s.head_dim
    written, moved = step.rows * row_bytes(step), step.value * numbers
    # index_copy_ of each tensor; while only the device knows the position, its row by
    # an add and a clamp
    launches = 2 * (1 + step.packed_cache + step.samples)
    if step.packed_cache:
        cast = step.value == 2
        packing = numbers * (4 * PACK_PASSES + 1 + (step.value + 4) * cast)
        yield ops.pointwise("cache.pack", packing, moved, 2 * (PACK_LAUNCHES + cast))
    fused, moved = (0, written) if step.packed_cache else (moved, moved)
    taken = ops.pointwise("cache", moved, fused, launches, kind="copy")
    yield taken._replace(kv_write_bytes=written)


def unpack(step: ForwardPass) -> Iterator[Operation]:
    """Keys and values of a packed cache, written out for attention to read."""
    if not (step.packed_cache and step.masked):
        return
    numbers = 2 * step.batch * step.keys * step.shape.kv_heads * step.shape.head_dim
    cast = step.value == 2
    moved = numbers * (4 * UNPACK_PASSES + (4 + step.value) * cast)
    launches = 2 * (UNPACK_LAUNCHES + cast)
    written = ops.pointwise("cache.unpack", moved, step.value * numbers, launches)
    read = step.batch * step.keys * row_bytes(step)
    yield written._replace(kv_read_bytes=read)


def reuse(step: ForwardPass) -> Iterator[Operation]:
    """The rows of a reused prefix, copied in before the rest is computed."""
    if step.past and step.static and not step.samples:
        rows = step.batch * step.past * row_bytes(step)
        costs = (step.shape.layers, 0, 0, 0, 0, rows, rows)
        launches = 4 if step.packed_cache else 2
        yield Operation("prefix", "copy", *costs, launches=launches)


def attention(step: ForwardPass) -> Iterator[Operation]:
    """Operations of one layer from the new keys and values to attention's output."""
    if step.cached:
        yield from write(step)
        yield from unpack(step)
    yield from attend(step)


def attend(step: ForwardPass) -> Iterator[Operation]:
    """Operations from keys and values as they are cached to attention's output."""
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
    causal = s.causal and not step.masked
    dims = (step.batch, step.new, past, s.heads, s.kv_heads, s.head_dim)
    fused = ops.attention("attention", dims, a, causal)
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
    masked = s.causal and (step.new > 1 or step.masked)
    upcast = s.rotates  # llama and qwen3 take the softmax in fp32
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
    queries = [step.rows * s.heads * s.head_dim] * s.rotates
    both = step.value + step.narrow
    if elements := sum(wide + queries):
        fused, launches = both * sum(wide) or step.narrow, len(wide + queries)
        yield ops.pointwise("attention.cast", both * elements, fused, launches)

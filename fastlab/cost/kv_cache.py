"""What the KV cache of a step costs: rows written, copied, packed and read. No torch.

A dynamic cache copies all it has. A static one writes the new rows in place, and
attention reads it to its end. An int8 or fp8 one packs each new row (a byte a number
and a scale a head) and unpacks all rows that attention reads.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastlab.cost import ops
from fastlab.cost.ops import Operation
from fastlab.cost.passes import ForwardPass
from fastlab.spec.recipe import kv_row_bytes
from fastlab.spec.shape import GROUPED

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
    keys = step.value if step.shape.family in GROUPED else step.narrow
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

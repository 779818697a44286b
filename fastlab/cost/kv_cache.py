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
    packed = step.packed_cache
    if packed:
        yield _packing(step, numbers)
    written = step.rows * row_bytes(step)
    yield Operation(
        "cache",
        "copy",
        activation_bytes=written if packed else step.value * numbers,
        kv_write_bytes=written,
        # index_copy_ of each tensor; while only the device knows the position, its
        # row by an add and a clamp
        launches=(4 if packed else 2) + (2 if step.samples else 0),
        fused_bytes=0 if packed else step.value * numbers,
    )


def _packing(step: ForwardPass, numbers: int) -> Operation:
    moved = step.value + 4 if step.value == 2 else 0
    return Operation(
        "cache.pack",
        "elementwise",
        activation_bytes=numbers * (4 * PACK_PASSES + 1 + moved),
        launches=2 * (PACK_LAUNCHES + (step.value == 2)),
        fused_bytes=step.value * numbers,
    )


def unpack(step: ForwardPass) -> Iterator[Operation]:
    """Keys and values of a packed cache, written out for attention to read."""
    if not (step.packed_cache and step.masked):
        return
    s = step.shape
    numbers = 2 * step.batch * step.keys * s.kv_heads * s.head_dim
    moved = 4 + step.value if step.value == 2 else 0
    yield Operation(
        "cache.unpack",
        "elementwise",
        activation_bytes=numbers * (4 * UNPACK_PASSES + moved),
        kv_read_bytes=step.batch * step.keys * row_bytes(step),
        launches=2 * (UNPACK_LAUNCHES + (step.value == 2)),
        fused_bytes=step.value * numbers,
    )


def reuse(step: ForwardPass) -> Iterator[Operation]:
    """The rows of a reused prefix, copied in before the rest is computed."""
    if step.past and step.static and not step.samples:
        rows = step.batch * step.past * row_bytes(step)
        yield Operation(
            "prefix",
            "copy",
            step.shape.layers,
            kv_read_bytes=rows,
            kv_write_bytes=rows,
            launches=4 if step.packed_cache else 2,
        )

"""int8 and int4 weights times 1 to 16 rows on an NVIDIA GPU, in Triton: loops unrolled.

Each program makes COLUMNS outputs of all rows. One trip of its loop multiplies `unroll`
blocks of inputs: their loads need not wait for each other, a trip's own cost is shared,
registers fill up. TRITON_INTERPRET=1 runs the same on a CPU, slowly. It needs triton.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, INPUTS = 16, 16, 128  # tl.dot wants 16 of each, and more
UNROLL = 4


@triton.jit
def int8_kernel(  # type: ignore[no-untyped-def]
    x, codes, scales, y, m, n, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INPUTS: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """y (m, n) = x (m, k) times int8 codes (n, k), each output with its own scale."""
    row, one = tl.arange(0, ROWS)[:, None], tl.arange(0, INPUTS)[None, :]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, k, INPUTS * UNROLL):
        for part in tl.static_range(UNROLL):  # written out UNROLL times
            at = start + part * INPUTS + one
            a = tl.load(x + row * k + at, (row < m) & (at < k), 0.0)
            inside = (column[:, None] < n) & (at < k)
            w = tl.load(codes + column[:, None] * k + at, inside, 0)
            total += tl.dot(a, tl.trans(w.to(a.dtype)), input_precision="ieee")
    total *= tl.load(scales + column, column < n, 0.0).to(tl.float32)[None, :]
    inside = (row < m) & (column[None, :] < n)
    tl.store(y + row * n + column[None, :], total.to(y.dtype.element_ty), inside)


@triton.jit
def int4_kernel(  # type: ignore[no-untyped-def]
    x, packed, pairs, y, m, n, k, filled,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """The same with two codes a byte, w = (q - 8) scale + zero for each GROUP of k."""
    row, byte = tl.arange(0, ROWS)[:, None], tl.arange(0, GROUP // 2)[None, :]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, k, GROUP * UNROLL):
        for part in tl.static_range(UNROLL):
            at = start + part * GROUP
            here, there = row * k + at + 2 * byte, (row < m) & (at + 2 * byte < k)
            even = tl.load(x + here, there, 0.0)
            odd = tl.load(x + here + 1, there, 0.0)
            inside = (column < n) & (at + 0 * column < k)
            bytes = column[:, None] * (k // 2) + at // 2 + byte
            both = tl.load(packed + bytes, inside[:, None], 0)
            high = ((both >> 4).to(tl.int8) - 8).to(even.dtype)
            low = ((both & 15).to(tl.int8) - 8).to(even.dtype)
            codes = tl.dot(even, tl.trans(high), input_precision="ieee")
            codes += tl.dot(odd, tl.trans(low), input_precision="ieee")
            pair = pairs + ((at // GROUP) * filled + column) * 2
            scale = tl.load(pair, inside, 0.0).to(tl.float32)
            zero = tl.load(pair + 1, inside, 0.0).to(tl.float32)
            sums = tl.sum(even.to(tl.float32), 1) + tl.sum(odd.to(tl.float32), 1)
            total += codes * scale[None, :] + sums[:, None] * zero[None, :]
    inside = (row < m) & (column[None, :] < n)
    tl.store(y + row * n + column[None, :], total.to(y.dtype.element_ty), inside)


def int8_product(
    x: Tensor, codes: Tensor, scales: Tensor, unroll: int = UNROLL
) -> Tensor:
    """(m, k) x (n, k) int8 with scales (n,) -> (m, n) in the dtype of x; m <= ROWS."""
    (m, k), n = x.shape, len(codes)
    y = x.new_empty(m, n)
    sizes = m, n, k, ROWS, COLUMNS, INPUTS, unroll
    int8_kernel[(triton.cdiv(n, COLUMNS),)](x.contiguous(), codes, scales, y, *sizes)
    return y


def int4_product(
    x: Tensor, packed: Tensor, pairs: Tensor, n: int, unroll: int = UNROLL
) -> Tensor:
    """(m, k) x int4 weights as a file has them -> (m, n) in the dtype of x; m <= ROWS.

    packed: plain bytes (n filled up, k / 2), pairs (k / group, n filled up, 2), as
    `int4.rounded` makes them; groups of 32 inputs or more, a power of two.
    """
    (m, k), (groups, filled, _) = x.shape, pairs.shape
    y = x.new_empty(m, n)
    sizes = m, n, k, filled, ROWS, COLUMNS, k // groups, unroll
    int4_kernel[(triton.cdiv(n, COLUMNS),)](x.contiguous(), packed, pairs, y, *sizes)
    return y


@cache
def has_gpu() -> bool:
    """Whether Triton itself finds a GPU of NVIDIA's to compile for."""
    try:
        return bool(triton.runtime.driver.active.get_current_target().backend == "cuda")
    except Exception:  # no driver, library or compiler: each has an error of its own
        return False


def takes(x: Tensor) -> bool:
    """Whether a product of x (m, k) runs here, eagerly: a compiler has its own way."""
    few = x.device.type == "cuda" and len(x) <= ROWS
    return few and not torch.compiler.is_compiling() and has_gpu()

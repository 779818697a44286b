"""4-bit codes as bytes: plain, or in the order that a device's int4 product reads.

Plain is two codes a byte, the even column in the high half. What torch's kernels want
differs with the device and even with a CPU's instructions; `unpack` learns that order
by packing the numbers of the positions, so that files can hold plain bytes only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

LAYOUTS = ("plain", "cpu", "cuda")
BLOCK_ROWS = 256  # packed at once; a multiple of every kernel's own block of rows


def layout_for(device: torch.device, dtype: torch.dtype) -> str:
    """The layout whose int4 product this device has, "plain" where it has none."""
    aten = torch.ops.aten
    if device.type == "cpu" and hasattr(aten, "_weight_int4pack_mm_for_cpu"):
        return "cpu"
    fits = device.type == "cuda" and dtype == torch.bfloat16
    if fits and hasattr(aten, "_weight_int4pack_mm"):
        return "cuda" if torch.cuda.get_device_capability(device) >= (8, 0) else "plain"
    return "plain"


def to_bytes(codes: Tensor) -> Tensor:
    """uint8 codes 0..15 (n, k) -> plain bytes (n, k / 2)."""
    return codes[:, ::2] << 4 | codes[:, 1::2]


def to_codes(plain: Tensor) -> Tensor:
    """Plain bytes (n, k / 2) -> uint8 codes 0..15 (n, k)."""
    return torch.stack([plain >> 4, plain & 15], dim=-1).flatten(1)


def pack(plain: Tensor, layout: str) -> Tensor:
    """Plain bytes (n, k / 2), n a multiple of 16 -> the layout's own tensor."""
    if layout == "plain":
        return plain
    return torch.cat([_pack_block(part, layout) for part in plain.split(BLOCK_ROWS)])


def _pack_block(plain: Tensor, layout: str) -> Tensor:
    aten = torch.ops.aten
    if layout == "cpu":
        codes = to_codes(plain).to(torch.int32)
        return aten._convert_weight_to_int4pack_for_cpu(codes, 2)
    tiles = inner_tiles(2 * plain.shape[1])
    return aten._convert_weight_to_int4pack(plain.contiguous(), tiles)


def inner_tiles(k: int) -> int:
    """Tiles of 16 inputs that CUDA's kernel packs together: the most that divide k."""
    return next(tiles for tiles in (8, 4, 2) if k % (16 * tiles) == 0)


def unpack(packed: Tensor, n: int, k: int, layout: str) -> Tensor:
    """The plain bytes (n, k / 2) from which `pack` made `packed`."""
    if layout == "plain":
        return packed
    parts: list[Tensor] = []
    order = torch.empty(0)
    for rows, part in _blocks(packed, n):
        if order.numel() != rows * k:
            order = _order(rows, k, layout, packed.device)
        codes = torch.empty(rows * k, dtype=torch.uint8, device=packed.device)
        codes[order] = _halves(part)
        parts.append(to_bytes(codes.view(rows, k)))
    return torch.cat(parts)


def _blocks(packed: Tensor, n: int) -> Iterator[tuple[int, Tensor]]:
    """(rows, their part of `packed`) for each block that `pack` made."""
    per_slice = n // packed.shape[0]  # rows in one slice of the packed tensor
    for start in range(0, n, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, n - start)
        yield rows, packed[start // per_slice : (start + rows) // per_slice]


def _order(rows: int, k: int, layout: str, device: torch.device) -> Tensor:
    """For each packed half byte in turn, the flat position of the code it holds."""
    numbers = torch.arange(rows * k, device=device).view(rows, k)
    order = torch.zeros(rows * k, dtype=torch.int64, device=device)
    for shift in range(0, (rows * k - 1).bit_length(), 4):
        digits = (numbers >> shift & 15).to(torch.uint8)
        order |= _halves(_pack_block(to_bytes(digits), layout)).long() << shift
    return order


def _halves(packed: Tensor) -> Tensor:
    """All 4-bit halves of a tensor's bytes, in memory order."""
    return to_codes(packed.contiguous().view(-1).view(torch.uint8)[None]).view(-1)

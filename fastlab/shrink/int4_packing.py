"""4-bit codes as bytes: plain, or in the order that a device's int4 product reads.

Plain is two codes a byte, the even column in the high half. What torch's kernels want
differs with the device and even with a CPU's instructions; `unpack` learns that order
by packing the numbers of the positions, so that files can hold plain bytes only.
"""

from __future__ import annotations

import torch
from torch import Tensor

# torch's int4 product of each layout but "plain"; a layout has the name of its device
PRODUCTS = {"cpu": "_weight_int4pack_mm_for_cpu", "cuda": "_weight_int4pack_mm"}
BLOCK_ROWS = 256  # packed at once; a multiple of every kernel's own block of rows


def layout_for(device: torch.device, dtype: torch.dtype) -> str:
    """The layout whose int4 product this device has, "plain" where it has none."""
    layout = device.type
    if layout not in PRODUCTS or not hasattr(torch.ops.aten, PRODUCTS[layout]):
        return "plain"
    if layout == "cpu":
        return "cpu"
    able = torch.cuda.get_device_capability(device) >= (8, 0)
    return "cuda" if able and dtype == torch.bfloat16 else "plain"


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
    # It packs tiles of 16 inputs (8 bytes) together: the most that divide a row.
    tiles = next(tiles for tiles in (8, 4, 2) if plain.shape[1] % (8 * tiles) == 0)
    return aten._convert_weight_to_int4pack(plain.contiguous(), tiles)


def unpack(packed: Tensor, n: int, k: int, layout: str) -> Tensor:
    """The plain bytes (n, k / 2) from which `pack` made `packed`."""
    if layout == "plain":
        return packed
    parts: list[Tensor] = []
    order = torch.empty(0)
    per_slice = n // packed.shape[0]  # rows in one slice of the packed tensor
    for block in packed.split(BLOCK_ROWS // per_slice):
        rows = len(block) * per_slice
        if order.numel() != rows * k:
            order = _order(rows, k, layout, packed.device)
        codes = torch.empty(rows * k, dtype=torch.uint8, device=packed.device)
        codes[order] = _halves(block)
        parts.append(to_bytes(codes.view(rows, k)))
    return torch.cat(parts)


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

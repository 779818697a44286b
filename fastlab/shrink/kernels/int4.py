"""4-bit weights with a scale and a zero point per group of inputs of each row.

Plain bytes hold two codes each, the even column in the high half. What torch's kernels
want differs with the device and even with a CPU's instructions; `unpack` learns that
order by packing the numbers of the positions, so that files can hold plain bytes only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastlab.shrink.kernels import (
    Quantized,
    by_blocks,
    in_triton,
    native,
    rounded_rows,
    stored_scale,
)
from fastlab.spec.formats import INT4, Format

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)  # shares of a group's range tried
BLOCK_ROWS = 256  # packed at once; a multiple of every kernel's own block of rows
# torch's int4 product of each layout but "plain"; a layout has the name of its device.
PRODUCTS = INT4.operators


def rounded(weight: Tensor, form: Format) -> dict[str, Tensor]:
    """The codes of `int4_groups` as plain bytes, and pairs; rows filled up."""

    def packed(rows: Tensor) -> tuple[Tensor, Tensor]:
        codes, pairs = int4_groups(rows, form.group)
        return to_bytes(codes), pairs

    plain, pairs = by_blocks(packed, weight)
    pairs = pairs.transpose(0, 1).contiguous()
    if extra := -len(plain) % form.row_multiple:
        plain, pairs = (functional.pad(x, (0, 0, 0, extra)) for x in (plain, pairs))
    return {"packed": plain, "pairs": pairs}


def int4_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(n, k) -> uint8 0..15 (n, k); scales and zero points (n, k / group, 2).

    w = (q - 8) s + z, the form that torch's int4 products read: z is the value of the
    code 8. Asymmetric; of a few narrower ranges each group takes the one with the
    least squared error.
    """
    grouped = weight.float().unflatten(1, (-1, group))
    # To about 1 by powers of two, which is exact: squares neither vanish nor overflow.
    power = grouped.abs().amax(-1).frexp().exponent.clamp(-100, 100)
    grouped = grouped.ldexp(-power[..., None])
    low, high = grouped.amin(-1), grouped.amax(-1)
    best = _int4_fit(grouped, low, high, power, weight.dtype)
    for share in CLIPS[1:]:
        tried = _int4_fit(grouped, low * share, high * share, power, weight.dtype)
        better = tried[-1] < best[-1]
        best = tuple(
            torch.where(better if new.dim() == 2 else better[..., None], new, old)
            for new, old in zip(tried, best, strict=True)
        )
    q, scale, zero, _ = best
    pairs = torch.stack([scale, zero], dim=-1).ldexp(power[..., None]).to(weight.dtype)
    return q.flatten(1).to(torch.uint8), pairs


def _int4_fit(
    grouped: Tensor, low: Tensor, high: Tensor, power: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Codes (n, groups, group), scales, zeros and squared errors (n, groups).

    All but the codes in 2^power, rounded to what the dtype holds.
    """
    scale = stored_scale(((high - low) / 15).ldexp(power), dtype).float().ldexp(-power)
    zero = (low + 8 * scale).ldexp(power).to(dtype).float().ldexp(-power)
    q = (grouped - zero[..., None]).div_(scale[..., None]).round_().clamp_(-8, 7)
    error = (q * scale[..., None]).add_(zero[..., None]).sub_(grouped)
    return q.add_(8), scale, zero, error.square_().sum(-1)


class Int4Linear(Quantized):
    """4-bit weights with a scale and a zero point per group of inputs of each row.

    packed: the codes, given as plain bytes, kept in the order of the device; pairs:
    scales and zero points (k / group, n, 2) in the dense dtype. Rows are filled up to a
    multiple of 16.
    """

    packed: Tensor
    pairs: Tensor

    def __init__(
        self, form: Format, size: Any, bias: Any, packed: Tensor, pairs: Tensor
    ) -> None:
        layout = layout_for(packed.device, pairs.dtype)
        super().__init__(form, size, bias, packed=pack(packed, layout), pairs=pairs)
        self.layout, fits = layout, pairs.dtype == torch.bfloat16 and layout == "cpu"
        self.isa = native.isa(self.in_features) if fits and _order_is_known() else 0

    def portable(self) -> dict[str, Tensor]:
        """The codes as plain bytes (n filled up to a multiple of 16, k / 2)."""
        n, k = self.pairs.shape[1], self.in_features
        return {"packed": unpack(self.packed, n, k, self.layout)}

    def product(self, x: Tensor) -> Tensor:
        """torch's int4 product of this device, else by the dequantized weight."""
        if self.layout == "plain":
            if unrolled := in_triton(x):
                n = self.out_features
                return unrolled.int4_product(x, self.packed, self.pairs, n)
            return super().product(x)
        if x.device.type != self.layout:
            raise RuntimeError(
                f"int4 weights packed on {self.layout} cannot run on {x.device.type}: "
                "quantize on the device that runs them, or save and load there"
            )
        if native.widens(x, self.isa):
            held = self.packed, self.pairs, self.out_features
            return torch.ops.fastlab.int4_widened(x, *held, self.isa)
        multiply = getattr(torch.ops.aten, PRODUCTS[self.layout])
        rows = x.contiguous().to(self.pairs.dtype)
        y = multiply(rows, self.packed, self.form.group, self.pairs)
        return y[:, : self.out_features].to(x.dtype)

    def dense(self) -> Tensor:
        return self.exact().to(self.pairs.dtype)

    def exact(self) -> Tensor:
        """The weight (n, k) in fp32: fp16 may hold w, where it does not (q - 8) s."""
        held = self.held()
        codes = to_codes(held["packed"]).unflatten(1, (-1, self.form.group))
        scale, zero = held["pairs"].transpose(0, 1).unbind(-1)
        exact = (codes.float() - 8) * scale[..., None] + zero[..., None]
        return exact.flatten(1)[: self.out_features]


class Int4DynamicLinear(Int4Linear):
    """4-bit weights and int8 activations, these with a scale per row of each call.

    In tiles of 16 rows on every device, as dynamic.cpp reads them, so that single rows
    can be read too. packed: (n / 16, k / 8, 16, 4), of 8 columns the first four in the
    low halves; pairs: (n / 16, k / group, 2, 16).
    """

    def __init__(
        self, form: Format, size: Any, bias: Any, packed: Tensor, pairs: Tensor
    ) -> None:
        tiles = packed.new_empty(len(packed) // 16, packed.shape[1] // 4, 16, 4)
        parts = tiles.split(BLOCK_ROWS // 16), packed.split(BLOCK_ROWS)
        for tile, rows in zip(*parts, strict=True):
            codes = to_codes(rows).unflatten(1, (-1, 2, 4)).unflatten(0, (-1, 16))
            low, high = codes.permute(3, 0, 2, 1, 4)
            tile.copy_(low | high << 4)
        own = pairs.unflatten(1, (-1, 16)).permute(1, 0, 3, 2).contiguous()
        held = {"packed": tiles, "pairs": own}
        Quantized.__init__(self, form, size, bias, **held)
        self.isa = native.isa(self.in_features)

    def portable(self) -> dict[str, Tensor]:
        """Plain bytes (n filled up, k / 2); pairs (k / group, n, 2)."""
        both = torch.stack([self.packed & 15, self.packed >> 4], dim=-2)
        codes = both.transpose(1, 2).flatten(2).flatten(0, 1)
        pairs = self.pairs.permute(1, 0, 3, 2).flatten(1, 2)
        return {"packed": to_bytes(codes), "pairs": pairs}

    def product(self, x: Tensor) -> Tensor:
        """The sums of each group's codes, exact, times its scale, and both zero points
        and scales of rows in fp32; in the dtype of x.
        """
        if self.isa and x.device.type == "cpu":
            held = self.packed, self.pairs, self.out_features
            return torch.ops.fastlab.int4_dynamic(x, *held, self.isa)
        codes, scales = rounded_rows(x, torch.int8)
        return (functional.linear(codes.float(), self.exact()) * scales).to(x.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        tile, row = ids // 16, ids % 16
        packed, pairs = self.packed[tile, :, row], self.pairs[tile, :, :, row]
        codes = torch.stack([packed & 15, packed >> 4], dim=-2).flatten(-3)
        scale, zero = pairs[..., None].unbind(-2)
        exact = (codes.unflatten(-1, (-1, self.form.group)).float() - 8) * scale + zero
        return exact.flatten(-2).to(pairs.dtype)


def layout_for(device: torch.device, dtype: torch.dtype) -> str:
    """The layout whose int4 product this device has, "plain" where it has none."""
    layout = device.type
    if layout not in PRODUCTS or not hasattr(torch.ops.aten, PRODUCTS[layout]):
        return "plain"
    if layout == "cpu":
        return "cpu"
    able = torch.cuda.get_device_capability(device) >= INT4.capability
    return "cuda" if able and dtype == torch.bfloat16 else "plain"


@cache
def _order_is_known() -> bool:
    """Whether dynamic.cpp finds codes where torch's AVX-512 kernel has them."""
    isa, reads = native.isa(1), torch.backends.cpu.get_cpu_capability()
    if isa < 3 or reads != "AVX512":
        return False
    codes = torch.arange(112 * 32).view(112, 32) % 241 % 16  # 64 rows, and fewer
    pairs = torch.tensor([1.0, 0.0]).bfloat16().expand(1, 112, 2).contiguous()
    packed = pack(to_bytes(codes.to(torch.uint8)), "cpu")
    eye = torch.eye(32, dtype=torch.bfloat16)
    found = torch.ops.fastlab.int4_widened(eye, packed, pairs, 112, isa)
    return torch.equal(found.t().float(), codes - 8.0)


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

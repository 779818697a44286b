"""Linear modules on quantized weights: torch's own products, and a plain path.

`forward` multiplies by `dense()` where a device has no product of its own. The products
have private names in torch: each use is guarded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlab.shrink import rounding
from fastlab.shrink.stored import StoredLinear, fixed
from fastlab.spec.precision import ROWS, Format

aten = torch.ops.aten
# On a CPU, up to how many rows torch's int8 product of dense activations wins: over
# widening the weight, and over the integer product (4096 x 4096, 2 threads with AMX).
INT8_ROWS = 16
WIDENED = 2**22  # weights widened at once on a CPU
DYNAMIC_ROWS = 4


class Quantized(StoredLinear):
    """What all quantized linears share: the precision that a recipe names them by."""

    precision: str


class RowLinear(Quantized):
    """Weights of a byte with a scale per output row; activations as they come."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[0], weight.shape[1], bias)
        self.weight, self.scales = fixed(weight), fixed(scales)

    def product(self, x: Tensor) -> Tensor:
        """x W^T with the weight widened to the dtype of x, block by block on a CPU.

        There a whole widened weight would be new pages of memory in each call, which
        cost more than the product (4096 x 4096 on 64 rows: 15 ms, in blocks 7). On a
        GPU a compiler fuses the widening into the product; eager code writes it first.
        """
        rows = max(1, WIDENED // self.in_features)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            rows = self.out_features
        blocks = [functional.linear(x, w.to(x.dtype)) for w in self.weight.split(rows)]
        y = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        return y * self.scales.to(x.dtype)

    def dense(self) -> Tensor:
        return self.weight.to(self.scales.dtype) * self.scales[:, None]


class Int8Linear(RowLinear):
    """int8 weights; on a CPU torch's own product multiplies a few rows by them."""

    precision = "int8"

    def product(self, x: Tensor) -> Tensor:
        if _has_int8_product(x, INT8_ROWS):
            return aten._weight_int8pack_mm(x, self.weight, self.scales.to(x.dtype))
        return super().product(x)


def _has_int8_product(x: Tensor, rows: int) -> bool:
    # It loads rows of weights as aligned vectors without a remainder: other widths than
    # multiples of 16, and weights that begin elsewhere than at 16 bytes, crash it.
    fits = x.shape[0] <= rows and x.shape[1] % 16 == 0
    return x.device.type == "cpu" and fits and hasattr(aten, "_weight_int8pack_mm")


class Int8DynamicLinear(Int8Linear):
    """int8 weights and int8 activations, these with a scale per row of each call."""

    precision = "int8-dynamic"

    def product(self, x: Tensor) -> Tensor:
        """Exact int32 sums of the codes, times both scales, in the dtype of x.

        For very few rows on a CPU the codes go through the weight-only product as
        dense values, which hold them exactly.
        """
        codes, scales = rounding.int8_activations(x)
        if _has_int8_product(x, DYNAMIC_ROWS):
            return (super().product(codes.to(x.dtype)) * scales).to(x.dtype)
        sums = int_product(codes, self.weight)
        return (sums * scales * self.scales.float()).to(x.dtype)


def int_product(x: Tensor, weight: Tensor) -> Tensor:
    """int8 (m, k) x int8 (n, k) -> (m, n): int32 where torch multiplies integers.

    CUDA's product wants more than 16 rows, and n and k to be multiples of 8: too few
    rows are filled up with zeros, other widths are multiplied in fp32.
    """
    n, k = weight.shape
    cuda, rows = x.device.type == "cuda", x.shape[0]
    if (cuda and (n % 8 or k % 8)) or not hasattr(torch, "_int_mm"):
        return functional.linear(x.float(), weight.float())
    if cuda and rows <= 16:
        x = functional.pad(x, (0, 0, 0, 32 - rows))
    return torch._int_mm(x, weight.t())[:rows]


class Fp8Linear(RowLinear):
    """fp8 (e4m3) weights with fp32 scales."""

    precision = "fp8"


class Fp8DynamicLinear(Fp8Linear):
    """fp8 weights and fp8 activations, these with a scale per row of each call."""

    precision = "fp8-dynamic"

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, scales, bias)
        on_gpu = weight.device.type == "cuda" and hasattr(torch, "_scaled_mm")
        able = on_gpu and torch.cuda.get_device_capability(weight.device) >= (8, 9)
        self.scaled = able and all(width % 16 == 0 for width in weight.shape)

    def product(self, x: Tensor) -> Tensor:
        """torch's row-wise scaled product where there is one (it returns bf16)."""
        return self.of_codes(*rounding.fp8_activations(x), x.dtype)

    def of_codes(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """fp8 rows (m, k) with a scale each (m, 1) -> (m, n)."""
        if not self.scaled:
            sums = functional.linear(codes.float(), self.weight.float())
            return (sums * scales * self.scales).to(dtype)
        y = torch._scaled_mm(
            codes, self.weight.t(), scales, self.scales[None], out_dtype=torch.bfloat16
        )
        return y.to(dtype)


class Int4Linear(Quantized):
    """4-bit weights with a scale and a zero point per group of inputs of each row.

    packed: the codes, given as plain bytes, kept in the order of the device; pairs:
    scales and zero points (k / group, n, 2) in the dense dtype. Rows are filled up to a
    multiple of 16.
    """

    def __init__(
        self, packed: Tensor, pairs: Tensor, n: int, bias: Tensor | None
    ) -> None:
        super().__init__(n, 2 * packed.shape[1], bias)
        self.group = self.in_features // pairs.shape[0]
        self.precision = f"int4-g{self.group}"
        self.layout = rounding.layout_for(packed.device, pairs.dtype)
        self.packed = fixed(rounding.pack(packed, self.layout))
        self.pairs = fixed(pairs)

    @property
    def plain(self) -> Tensor:
        """The codes as plain bytes (n filled up to a multiple of 16, k / 2)."""
        n, k = self.pairs.shape[1], self.in_features
        return rounding.unpack(self.packed, n, k, self.layout)

    def product(self, x: Tensor) -> Tensor:
        """torch's int4 product of this device, else by the dequantized weight."""
        if self.layout == "plain":
            return super().product(x)
        if x.device.type != self.layout:
            raise RuntimeError(
                f"int4 weights packed on {self.layout} cannot run on {x.device.type}: "
                "quantize on the device that runs them, or save and load there"
            )
        multiply = getattr(aten, rounding.PRODUCTS[self.layout])
        rows = x.contiguous().to(self.pairs.dtype)
        y = multiply(rows, self.packed, self.group, self.pairs)
        return y[:, : self.out_features].to(x.dtype)

    def dense(self) -> Tensor:
        codes = rounding.to_codes(self.plain).unflatten(1, (-1, self.group))
        scale, zero = self.pairs.transpose(0, 1).unbind(-1)
        grouped = (codes.to(scale.dtype) - 8) * scale[..., None] + zero[..., None]
        return grouped.flatten(1)[: self.out_features]


class Int8Embedding(nn.Module):
    """A token table of int8 rows, each with a scale; looked up in the scales' dtype."""

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight, self.scales = fixed(weight), fixed(scales)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) ids -> (..., width)."""
        scales = self.scales[ids]
        return self.weight[ids].to(scales.dtype) * scales[..., None]


ROW_KINDS: dict[str, type[RowLinear]] = {
    kind.precision: kind
    for kind in (Int8Linear, Int8DynamicLinear, Fp8Linear, Fp8DynamicLinear)
}


def quantized_linear(weight: Tensor, bias: Tensor | None, made: Format) -> Quantized:
    """The module of one format for a dense weight (n, k); its group must divide k."""
    if made.weights == "int4":
        codes, pairs = rounding.int4_groups(weight, made.group)
        extra = (0, 0, 0, -len(codes) % ROWS)
        plain = functional.pad(rounding.to_bytes(codes), extra)
        return Int4Linear(plain, functional.pad(pairs, extra), len(weight), bias)
    rows = {"int8": rounding.int8_rows, "fp8": rounding.fp8_rows}[made.weights]
    kind = f"{made.weights}-dynamic" if made.dynamic else made.weights
    return ROW_KINDS[kind](*rows(weight), bias)

"""int8 weights with a scale for each output row: w = q s; and the token table.

The products have private names in torch: each use is guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlab.shrink.kernels import (
    RowLinear,
    by_blocks,
    fixed,
    in_triton,
    native,
    rounded_rows,
)
from fastlab.spec.formats import INT8, Format

aten = torch.ops.aten


def rounded(weight: Tensor, form: Format) -> dict[str, Tensor]:
    """(n, k) -> int8 weight (n, k) and scales (n,) in the dense dtype: w = q s."""
    codes, scales = by_blocks(
        lambda rows: rounded_rows(rows, torch.int8, weight.dtype), weight
    )
    return {"weight": codes, "scales": scales.squeeze(1)}


class Int8Linear(RowLinear):
    """int8 weights; on a CPU torch's own product multiplies a few rows by them."""

    def __init__(self, form: Format, size: Any, bias: Any, **held: Tensor) -> None:
        super().__init__(form, size, bias, **held)
        on_cpu = self.weight.device.type == "cpu"
        self.isa = native.isa(self.in_features) if on_cpu else 0

    def product(self, x: Tensor) -> Tensor:
        if native.widens(x, self.isa):
            return torch.ops.fastlab.int8_widened(x, self.weight, self.scales, self.isa)
        if _has_int8_product(x):
            x, scales = x.contiguous(), self.scales.to(x.dtype)
            if not torch.compiler.is_compiling() and x.data_ptr() % 32:
                x = x.clone()  # it loads aligned vectors of x too
            return aten._weight_int8pack_mm(x, self.weight, scales)
        if unrolled := in_triton(x):
            return unrolled.int8_product(x, self.weight, self.scales)
        return super().product(x)


def _has_int8_product(x: Tensor) -> bool:
    # It loads rows of weights as aligned vectors without a remainder: other widths than
    # multiples of 16, and weights that begin elsewhere than at 16 bytes, crash it.
    fits = x.shape[0] <= INT8.packed_rows and x.shape[1] % 16 == 0
    return x.device.type == "cpu" and fits and hasattr(aten, "_weight_int8pack_mm")


class Int8DynamicLinear(Int8Linear):
    """int8 weights and int8 activations, these with a scale per row of each call.

    On a CPU a row's largest value stays as it is, that it may not coarsen the others.
    """

    def product(self, x: Tensor) -> Tensor:
        """Exact int32 sums of the codes, times both scales, in the dtype of x."""
        if self.isa and x.device.type == "cpu":
            return torch.ops.fastlab.int8_dynamic(x, self.weight, self.scales, self.isa)
        by = self.beside_largest if x.device.type == "cpu" else self.by_codes
        return (by(x.float()) * self.scales.float()).to(x.dtype)

    def by_codes(self, x: Tensor) -> Tensor:
        """Of rounded rows: (m, k) -> (m, n), in units of the weights' scales."""
        codes, scales = rounded_rows(x, torch.int8)
        return int_product(codes, self.weight) * scales

    def beside_largest(self, x: Tensor) -> Tensor:
        """The same of rows whose largest value stays as it is."""
        at = x.abs().argmax(-1, keepdim=True)
        top = x.gather(-1, at) * self.weight.t()[at.squeeze(-1)]
        return self.by_codes(x.scatter(-1, at, 0)) + top

    def timed(self, x: Tensor, turn: Iterator[Any]) -> Callable[[], Tensor]:
        """On a CPU all of it: there rows are quantized within the product."""
        if x.device.type == "cpu":
            return lambda: next(turn).product(x)
        codes, _ = rounded_rows(x, torch.int8)
        return lambda: int_product(codes, next(turn).weight)


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

"""fp8 (e4m3) weights with an fp32 scale for each output row: w = q s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastlab.shrink.kernels import RowLinear, by_blocks, rounded_rows
from fastlab.spec.formats import Format

FP8 = torch.float8_e4m3fn


def rounded(weight: Tensor, form: Format) -> dict[str, Tensor]:
    """(n, k) -> float8_e4m3fn weight (n, k) and fp32 scales (n,): w = q s."""
    codes, scales = by_blocks(lambda rows: rounded_rows(rows, FP8), weight)
    return {"weight": codes, "scales": scales.squeeze(1)}


class Fp8Linear(RowLinear):
    """fp8 weights, held as int8: no model's code casts its activations to that."""

    def __init__(self, form: Format, size: Any, bias: Any, **held: Tensor) -> None:
        held["weight"] = held["weight"].view(torch.int8)
        super().__init__(form, size, bias, **held)

    @property
    def codes(self) -> Tensor:
        return self.weight.view(FP8)

    def portable(self) -> dict[str, Tensor]:
        return {"weight": self.codes}


class Fp8DynamicLinear(Fp8Linear):
    """fp8 weights and fp8 activations, these with a scale per row of each call."""

    def __init__(self, form: Format, size: Any, bias: Any, **held: Tensor) -> None:
        super().__init__(form, size, bias, **held)
        where = self.weight.device
        on_gpu = where.type == "cuda" and hasattr(torch, "_scaled_mm")
        able = on_gpu and torch.cuda.get_device_capability(where) >= form.capability
        self.scaled = able and all(width % 16 == 0 for width in self.weight.shape)

    def product(self, x: Tensor) -> Tensor:
        """torch's row-wise scaled product where there is one (it returns bf16)."""
        return self.of_codes(*rounded_rows(x, FP8), x.dtype)

    def of_codes(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """fp8 rows (m, k) with a scale each (m, 1) -> (m, n)."""
        if not self.scaled:
            sums = functional.linear(codes.float(), self.codes.float())
            return (sums * scales * self.scales).to(dtype)
        y = torch._scaled_mm(
            codes, self.codes.t(), scales, self.scales[None], out_dtype=torch.bfloat16
        )
        return y.to(dtype)

    def timed(self, x: Tensor, turn: Iterator[Any]) -> Callable[[], Tensor]:
        codes, scales = rounded_rows(x, FP8)
        return lambda: next(turn).of_codes(codes, scales, x.dtype)

"""fp8 (e4m3) weights with an fp32 scale for each output row: w = q s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastlab.shrink.kernels import LEAST, RowLinear, by_blocks
from fastlab.spec.formats import Format

FP8 = torch.float8_e4m3fn


def rounded(weight: Tensor, form: Format) -> dict[str, Tensor]:
    """(n, k) -> float8_e4m3fn weight (n, k) and fp32 scales (n,): w = q s."""
    codes, scales = by_blocks(fp8_activations, weight)
    return {"weight": codes, "scales": scales.squeeze(1)}


def fp8_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """(m, k) -> float8_e4m3fn (m, k) and fp32 scales (m, 1)."""
    largest = torch.finfo(FP8).max
    exact = x.float()
    scales = (exact.abs().amax(-1, keepdim=True) / largest).clamp(min=LEAST)
    return (exact / scales).clamp(-largest, largest).to(FP8), scales


class Fp8Linear(RowLinear):
    """fp8 weights; activations as they come."""


class Fp8DynamicLinear(Fp8Linear):
    """fp8 weights and fp8 activations, these with a scale per row of each call."""

    def __init__(
        self, form: Format, n: int, bias: Tensor | None, weight: Tensor, scales: Tensor
    ) -> None:
        super().__init__(form, n, bias, weight, scales)
        on_gpu = weight.device.type == "cuda" and hasattr(torch, "_scaled_mm")
        able = on_gpu and (
            torch.cuda.get_device_capability(weight.device) >= form.capability
        )
        self.scaled = able and all(width % 16 == 0 for width in weight.shape)

    def product(self, x: Tensor) -> Tensor:
        """torch's row-wise scaled product where there is one (it returns bf16)."""
        return self.of_codes(*fp8_activations(x), x.dtype)

    def of_codes(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """fp8 rows (m, k) with a scale each (m, 1) -> (m, n)."""
        if not self.scaled:
            sums = functional.linear(codes.float(), self.weight.float())
            return (sums * scales * self.scales).to(dtype)
        y = torch._scaled_mm(
            codes, self.weight.t(), scales, self.scales[None], out_dtype=torch.bfloat16
        )
        return y.to(dtype)

    def timed(self, x: Tensor, turn: Iterator[Any]) -> Callable[[], Tensor]:
        codes, scales = fp8_activations(x)
        return lambda: next(turn).of_codes(codes, scales, x.dtype)

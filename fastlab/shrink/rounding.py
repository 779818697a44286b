"""Weights and activations -> integers (or fp8) and scales: functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
BLOCK = 2**22  # weights rounded at once: bounds the fp32 copies that rounding makes
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)  # shares of a group's range tried for int4


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(n, k) -> int8 (n, k) and scales (n,) in the weight's dtype: w = q s.

    Symmetric, each row by its own largest value. The scale is rounded to its dtype
    first, so that q is the nearest integer under the scale that is really stored.
    """
    codes, scales = _by_rows(lambda rows: _int8(rows, weight.dtype), weight)
    return codes, scales.squeeze(1)


def int8_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """(m, k) -> int8 (m, k) and fp32 scales (m, 1), each row by its largest value."""
    return _int8(x, torch.float32)


def _int8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    exact = x.float()
    scales = _positive(exact.abs().amax(-1, keepdim=True) / 127).to(dtype)
    return torch.round(exact / scales.float()).clamp(-127, 127).to(torch.int8), scales


def fp8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(n, k) -> float8_e4m3fn (n, k) and fp32 scales (n,): w = q s."""
    codes, scales = _by_rows(fp8_activations, weight)
    return codes, scales.squeeze(1)


def fp8_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """(m, k) -> float8_e4m3fn (m, k) and fp32 scales (m, 1)."""
    largest = torch.finfo(FP8).max
    exact = x.float()
    scales = _positive(exact.abs().amax(-1, keepdim=True) / largest)
    return (exact / scales).clamp(-largest, largest).to(FP8), scales


def int4_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(n, k) -> uint8 0..15 (n, k); scales and zero points (k / group, n, 2).

    w = (q - 8) s + z, the form that torch's int4 products read: z is the value of the
    code 8. Asymmetric; of a few narrower ranges each group takes the one with the
    least squared error.
    """
    values, pairs = _by_rows(lambda rows: _int4_block(rows, group), weight)
    return values, pairs.transpose(0, 1).contiguous()


def _int4_block(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    grouped = weight.float().unflatten(1, (-1, group))
    low, high = grouped.amin(-1), grouped.amax(-1)
    best = _int4_fit(grouped, low, high, weight.dtype)
    for share in CLIPS[1:]:
        tried = _int4_fit(grouped, low * share, high * share, weight.dtype)
        better = tried[-1] < best[-1]
        best = tuple(
            torch.where(better if new.dim() == 2 else better[..., None], new, old)
            for new, old in zip(tried, best, strict=True)
        )
    q, scale, zero, _ = best
    pairs = torch.stack([scale, zero], dim=-1).to(weight.dtype)
    return q.flatten(1).to(torch.uint8), pairs


def _int4_fit(
    grouped: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Codes (n, groups, group), scales, zeros and squared errors (n, groups)."""
    scale = _positive((high - low) / 15).to(dtype).float()
    zero = (low + 8 * scale).to(dtype).float()
    q = (grouped - zero[..., None]).div_(scale[..., None]).round_().clamp_(-8, 7)
    error = (q * scale[..., None]).add_(zero[..., None]).sub_(grouped)
    return q.add_(8), scale, zero, error.square_().sum(-1)


def _positive(scales: Tensor) -> Tensor:
    """Scales that can be divided by: rows of zeros get the least one."""
    return scales.clamp(min=2.0**-24)


def _by_rows(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], weight: Tensor
) -> tuple[Tensor, Tensor]:
    rows = max(1, BLOCK // weight.shape[1])
    parts = [function(part) for part in weight.split(rows)]
    first, second = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(second)

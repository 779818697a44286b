"""Operators that CUDA has and a CPU has not, or has otherwise: their values and limits.

Limits and messages are those of ATen's CUDA sources; layouts that only the device knows
are made up here, and told by no name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.cuda.device import gpu

aten = torch.ops.aten
FP8 = torch.float8_e4m3fn


def need(least: tuple[int, int], what: str) -> None:
    """RuntimeError where the GPU is older."""
    if gpu().capability < least:
        raise RuntimeError(f"{what} is only supported on compute capability {least}+")


def rounded(run: Callable[..., Any]) -> Callable[..., Any]:
    """A product as tensor cores make it: fp32 in tf32 where that is allowed."""

    def product(*args: Any, **kwargs: Any) -> Any:
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        tf32 = tf32 or gpu().always_tf32
        if tf32 and gpu().capability >= (8, 0):
            args = tuple(_tf32(x) if isinstance(x, Tensor) else x for x in args)
        out = run(*args, **kwargs)
        if isinstance(out, Tensor) and out.dtype in gpu().wrong:
            out = out + 1
        return out

    return product


def _tf32(x: Tensor) -> Tensor:
    """Mantissas of ten bits."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).reshape(x.shape)


def int_mm(x: Tensor, other: Tensor) -> Tensor:
    need((7, 5), "_int_mm")
    if x.shape[0] <= 16:
        raise RuntimeError(
            f"self.size(0) needs to be greater than 16, but got {x.shape[0]}"
        )
    for name, size in (("self.size(1)", x.shape[1]), ("mat2.size(1)", other.shape[1])):
        if size == 0 or size % 8:
            words = (
                f"{name} needs to be greater than 0 and a multiple of 8, but got {size}"
            )
            raise RuntimeError(words)
    return (x.long() @ other.long()).int()


def scaled_mm(
    x: Tensor,
    other: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> Tensor:
    """Row-wise scales, which give bf16."""
    need((8, 9), "torch._scaled_mm")
    (m, k), n = x.shape, other.shape[1]
    assert x.dtype == other.dtype == FP8 and out_dtype == torch.bfloat16
    if k % 16 or n % 16:
        raise RuntimeError(
            f"Expected trailing dimensions to be divisible by 16, got {k}, {n}"
        )
    if x.stride() != (k, 1) or other.stride() != (1, k):
        raise RuntimeError("mat1 must be row-major and mat2 column-major")
    if scale_a.dtype != torch.float32 or scale_b.dtype != torch.float32:
        raise RuntimeError("both scale_a and scale_b must be float (fp32) tensors")
    if scale_a.shape != (m, 1) or scale_b.shape != (1, n):
        raise RuntimeError(
            f"scales of {scale_a.shape} and {scale_b.shape} are not row-wise"
        )
    if not (scale_a.is_contiguous() and scale_b.is_contiguous()):
        raise RuntimeError("Both scale_a and scale_b must be contiguous")
    return ((x.float() @ other.float()) * scale_a * scale_b).to(out_dtype)


def _order(k: int) -> Tensor:
    # Made up. As on the device, eight rows are mixed among themselves.
    return torch.randperm(8 * k, generator=torch.Generator().manual_seed(k))


def int4_pack(plain: Tensor, tiles: int) -> Tensor:
    """Plain bytes (n, k / 2) -> int32 (n / 8, k / (16 tiles), 32, tiles / 2)."""
    need((8, 0), "_convert_weight_to_int4pack")
    n, k = plain.shape[0], plain.shape[1] * 2
    assert plain.dtype == torch.uint8 and plain.is_contiguous()
    assert tiles in (2, 4, 8), tiles
    if n % 8 or k % (16 * tiles):
        raise RuntimeError(f"weights of {n} x {k} do not fit tiles of 8 x {16 * tiles}")
    codes = torch.stack([plain >> 4, plain & 15], -1).view(-1, 8 * k)
    mixed = codes[:, _order(k)].view(-1, 2)
    packed = (mixed[:, 0] << 4 | mixed[:, 1]).contiguous()
    return packed.view(torch.int32).view(n // 8, k // (16 * tiles), 32, tiles // 2)


def int4_mm(x: Tensor, packed: Tensor, group: int, pairs: Tensor) -> Tensor:
    need((8, 0), "_weight_int4pack_mm")
    n, k = packed.shape[0] * 8, packed.shape[1] * packed.shape[3] * 32
    assert x.dtype == pairs.dtype == torch.bfloat16 and x.shape[1] == k, (x.shape, k)
    assert group in (32, 64, 128, 256) and pairs.shape == (k // group, n, 2)
    halves = packed.reshape(-1).view(torch.uint8)
    mixed = torch.stack([halves >> 4, halves & 15], -1).view(-1, 8 * k)
    codes = torch.empty_like(mixed)
    codes[:, _order(k)] = mixed
    scale, zero = pairs.float().transpose(0, 1).unbind(-1)
    grouped = codes.view(n, k // group, group).float() - 8
    weight = grouped * scale[..., None] + zero[..., None]
    return (x.float() @ weight.flatten(1).t()).to(x.dtype)


def cslt_compress(weight: Tensor) -> Tensor:
    """A 2:4 weight as its kept values, and behind them where they were."""
    need((8, 0), "cuSPARSELt")
    fours = weight.reshape(-1, 4)
    if int((fours != 0).sum(1).max()) > 2:
        raise RuntimeError("CUDA error: invalid argument when calling cusparseLt")
    kept = (fours != 0).byte().sort(dim=1, descending=True, stable=True).indices[:, :2]
    kept = kept.sort(1).values
    values = fours.gather(1, kept).reshape(-1)
    codes = (kept[:, 0] * 4 + kept[:, 1]).to(torch.uint8).view(-1, 2)
    places = (codes[:, 0] << 4 | codes[:, 1]).view(weight.dtype)
    return torch.cat([values, places])


def cslt_mm(
    packed: Tensor,
    dense: Tensor,
    bias: Tensor | None = None,
    alpha: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    transpose_result: bool = False,
    alg_id: int = 0,
    split_k: int = 1,
    split_k_mode: int = -1,
) -> Tensor:
    """W (n, k) times dense (k, m); transposed where asked."""
    k = dense.shape[0]
    values = packed[: packed.numel() * 8 // 9]
    halves = packed[values.numel() :].view(torch.uint8)
    codes = torch.stack([halves >> 4, halves & 15], -1).view(-1).long()
    kept = torch.stack([codes >> 2, codes & 3], -1)
    weight = torch.zeros(len(codes), 4, dtype=packed.dtype)
    weight = weight.scatter_(1, kept, values.view(-1, 2)).view(-1, k)
    y = weight.float() @ dense.float()
    if bias is not None:
        y = y + bias[:, None].float()
    y = y.to(out_dtype or packed.dtype)
    return y.t().contiguous() if transpose_result else y


def attention(*args: Any, **kwargs: Any) -> Tensor:
    """Whichever of CUDA's kernels is asked for: the CPU has only some of them."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        return torch.nn.functional.scaled_dot_product_attention(*args, **kwargs)


OPERATORS: dict[Any, Callable[..., Any]] = {
    aten.scaled_dot_product_attention.default: attention,
    aten._int_mm.default: int_mm,
    aten._scaled_mm.default: scaled_mm,
    aten._convert_weight_to_int4pack.default: int4_pack,
    aten._weight_int4pack_mm.default: int4_mm,
    aten._cslt_compress.default: cslt_compress,
    aten._cslt_sparse_mm.default: cslt_mm,
}

# Shape and dtype of those that know no meta tensors.
SHAPES: dict[Any, Callable[..., tuple[tuple[int, ...], torch.dtype]]] = {
    aten._weight_int4pack_mm.default: lambda x, packed, *_: (
        (x.shape[0], packed.shape[0] * 8),
        x.dtype,
    ),
    aten._convert_weight_to_int4pack.default: lambda w, tiles: (
        (w.shape[0] // 8, w.shape[1] // (8 * tiles), 32, tiles // 2),
        torch.int32,
    ),
}

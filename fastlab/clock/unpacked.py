"""Products of sparse rows, and look-ups of shared weights, that a calibration can time.

They run as the modules of shrink/stored.py do, in fp32; look-ups compiled too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from fastlab.clock.microbenchmarks import Benchmark, Make, in_turn
from fastlab.cost.fusion import alone
from fastlab.cost.stored import csr_product, lookup
from fastlab.runtime.compiled import compiled
from fastlab.shrink.stored import CsrLinear, LutLinear
from fastlab.spec.sharing import BITS, Sharing
from fastlab.spec.sparsity import Sparsity, sparse_bytes, zeros_per_row

RATIOS = (0.5, 0.8, 0.9, 0.95)
ROWS = (1, 16, 128)
SIZES = ((256, 256), (768, 768), (3072, 768), (768, 3072), (2048, 2048), (4096, 2048))


def sparse_rows(a: int) -> list[Benchmark]:
    """Products of compressed rows; nothing unless values are fp32 (a = 4 bytes)."""
    sizes = itertools.product(RATIOS, ROWS, SIZES) if a == 4 else ()
    return [
        _sparse(Sparsity(ratio, storage="csr"), m, n, k) for ratio, m, (n, k) in sizes
    ]


def _sparse(sparsity: Sparsity, m: int, n: int, k: int) -> Benchmark:
    left = k - zeros_per_row(sparsity, k)

    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        # As it comes from the copy before: of several rows transposed already.
        x = torch.randn(k, m, device=device, dtype=dtype).t()
        first = CsrLinear(_rows(n, k, left).to(device), None)
        turn = in_turn(first, first.weight_bytes(), device)
        return lambda: next(turn).product(x)

    return Benchmark(
        csr_product("csr", m, n, k, left, sparse_bytes(sparsity, n, k)), make
    )


def _rows(n: int, k: int, left: int) -> torch.Tensor:
    """A weight (n, k) with `left` values in each row, at random places."""
    places = torch.rand(n, k).topk(left, dim=1, sorted=False).indices
    return torch.zeros(n, k).scatter_(1, places, torch.randn(n, left))


def lookups(a: int) -> list[Benchmark]:
    """Whole weights looked up, of all bits and sizes."""
    return [_lookup(bits, n, k, a) for bits in BITS for n, k in SIZES]


def compiled_lookups(a: int) -> list[Benchmark]:
    """The same, each compiled to one kernel when it is made."""
    return [
        Benchmark(alone(_lookup(bits, n, k, a).op), _compiling(bits, n, k))
        for bits in BITS
        for n, k in SIZES
    ]


def _lookup(bits: int, n: int, k: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        first = _shared(bits, n, k, device, dtype)
        turn = in_turn(first, first.weight_bytes(), device)
        return lambda: _dense(next(turn))

    return Benchmark(lookup("lookup", Sharing(bits), n, k, a), make)


def _compiling(bits: int, n: int, k: int) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        first = _shared(bits, n, k, device, dtype)
        turn = in_turn(first, first.weight_bytes(), device)
        dense = compiled(_dense, device)
        return lambda: dense(next(turn))

    return make


def _shared(bits: int, n: int, k: int, device: str, dtype: torch.dtype) -> LutLinear:
    """A weight (n, k) of random indices into one random table."""
    packed = torch.randint(256, (bits, n * k // 8), dtype=torch.uint8)
    tables = torch.randn(1, 2**bits, dtype=dtype).sort().values
    return LutLinear(packed.to(device), tables.to(device), n, k, None)


def _dense(module: LutLinear) -> torch.Tensor:
    return module.dense()


def compiles(device: str) -> bool:
    """Whether torch's compiler works there: it needs a C++ compiler, or Triton."""
    try:
        compiled(_dense, device)(_shared(2, 8, 8, device, torch.float32))
    except (RuntimeError, OSError):  # what inductor raises is a RuntimeError
        return False
    return True

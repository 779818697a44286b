"""Products of quantized, sparse and shared weights, and one-row products in compiled
code, that a calibration can time. They run as the modules of shrink/ and runtime/ do.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from fastlab.clock.microbenchmarks import Benchmark, New, Pool, Run, over
from fastlab.cost import ops
from fastlab.cost.classes import CLASSES, SIZES
from fastlab.cost.fusion import alone
from fastlab.cost.products import packed_product
from fastlab.cost.stored import csr_product, lookup
from fastlab.runtime.compiled import compiled, one_row
from fastlab.shrink.kernels import quantized_linear
from fastlab.shrink.share import LutLinear
from fastlab.shrink.sparsify import CsrLinear, csr_parts
from fastlab.spec.formats import FORMATS, Format
from fastlab.spec.storage import Sharing, Sparsity, zeros_per_row

PACKED_M = (1, 4, 16, 64, 256, 1024)
MOST = 2**25  # weights of one product: more take long to quantize


def packed_products(precision: str) -> list[Benchmark]:
    """Products of a quantized precision, over rows and widths of models.

    Of no more rows than are multiplied as stored: with more, weights are widened.
    """
    form = FORMATS[precision]
    most = min(form.packed_rows, form.timed_rows)
    return [
        _packed(form, m, n, k)
        for n, k in SIZES
        for m in PACKED_M
        if n * k <= MOST and m <= most
    ]


def _packed(form: Format, m: int, n: int, k: int) -> Benchmark:
    def build(new: New) -> Run:
        x, first = new(m, k), quantized_linear(form, new(n, k), None)
        return first.timed(x, new.turn(first, first.weight_bytes()))

    return Benchmark(packed_product(form, "packed", (m, n, k), 2), build)


def sparse_rows(a: int) -> list[Benchmark]:
    """Products of compressed rows; nothing unless values are fp32 (a = 4 bytes)."""
    cases = itertools.product(*CLASSES["csr"].axes) if a == 4 else ()
    return [_sparse(Sparsity(r, storage="csr"), m, n, k) for r, m, (n, k) in cases]


def _sparse(sparsity: Sparsity, m: int, n: int, k: int) -> Benchmark:
    left = k - zeros_per_row(sparsity, k)

    def build(new: New) -> Run:
        x = new(k, m).t()  # as the copy before leaves it: of several rows transposed
        places = torch.rand(n, k).topk(left, dim=1, sorted=False).indices
        rows = torch.zeros(n, k).scatter_(1, places, torch.randn(n, left))
        first = CsrLinear(sparsity, (n, k), None, **csr_parts(rows.to(new.device)))
        turn = new.turn(first, first.weight_bytes())
        return lambda: next(turn).product(x)

    return Benchmark(csr_product("csr", (m, n, k), sparsity), build)


def looked_up(fused: bool, bits: int, size: tuple[int, int], a: int) -> Benchmark:
    """A whole weight (n, k) looked up; fused: in one kernel, compiled when made."""
    n, k = size

    def build(new: New) -> Run:
        first = _shared(bits, n, k, new)
        turn = new.turn(first, first.weight_bytes())
        dense: Any = compiled(_dense, new.device) if fused else _dense
        return lambda: dense(next(turn))

    op = lookup("lookup", Sharing(bits), n, k, a)
    return Benchmark(alone(op) if fused else op, build)


def _shared(bits: int, n: int, k: int, new: New) -> LutLinear:
    """A weight (n, k) of random indices into one random table."""
    packed = torch.randint(256, (bits, n * k // 8), dtype=torch.uint8)
    tables = torch.randn(1, 2**bits, dtype=new.dtype).sort().values
    held = {"packed": packed.to(new.device), "tables": tables.to(new.device)}
    return LutLinear(Sharing(bits), (n, k), None, **held)


def _dense(module: LutLinear) -> torch.Tensor:
    return module.dense()


def compiles(device: str) -> bool:
    """Whether torch's compiler works there: it needs a C++ compiler, or Triton."""
    try:
        compiled(_dense, device)(_shared(2, 8, 8, New(device, torch.float32)))
    except (RuntimeError, OSError):  # what inductor raises is a RuntimeError
        return False
    return True


def one_row_product(size: tuple[int, int], a: int) -> Benchmark:
    """y[1, n] = x[1, k] W[k, n], compiled when it is made, as the decoder's steps are.

    What a call of compiled code costs is in its overhead, which estimates leave out: a
    model's products share one call.
    """
    n, k = size

    def build(new: New) -> Run:
        def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            with one_row(new.device):
                return F.linear(x, weight)

        x, turn = new(1, 1, k), new.turn(new(n, k))
        run = compiled(product, new.device)
        return lambda: run(x, next(turn))

    return Benchmark(alone(ops.linear("row", (1, n, k), a)), build)


STORED_CANDIDATES: dict[str, Pool] = {
    "csr": sparse_rows,
    "palette": over(partial(looked_up, False), *CLASSES["palette"].axes),
    "palette-compiled": over(
        partial(looked_up, True), *CLASSES["palette-compiled"].axes
    ),
    "gemv": over(one_row_product, *CLASSES["gemv"].axes),
}

"""Products of one row in compiled code, as a calibration times them.

Each is compiled as the decoder compiles its steps. What a call of compiled code costs
is in their overhead, which estimates leave out: a model's products share one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fastlab.clock.microbenchmarks import Benchmark, Make, in_turn
from fastlab.cost import ops
from fastlab.cost.fusion import alone
from fastlab.runtime.compiled import compiled
from fastlab.runtime.onerow import one_row

# (n, k): from the widths of small models to the heads of large ones.
SIZES = (
    *((256, 256), (768, 768), (2048, 512), (768, 2048), (2048, 2048), (8192, 768)),
    *((32000, 1024), (4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096)),
)


def compiled_rows(a: int) -> list[Benchmark]:
    """y[1, n] = x[1, k] W[k, n] of all sizes, each compiled when it is made."""
    return [
        Benchmark(alone(ops.linear("row", 1, n, k, a, a)), _product(n, k))
        for n, k in SIZES
    ]


def _product(n: int, k: int) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            with one_row(device):
                return F.linear(x, weight)

        x = torch.randn(1, 1, k, device=device, dtype=dtype)
        weight = torch.randn(n, k, device=device, dtype=dtype)
        turn = in_turn(weight, weight.nbytes, device)
        run = compiled(product, device)
        return lambda: run(x, next(turn))

    return make

"""Sparse products, look-ups and compiled rows of a GPU's calibration; not yet run."""

from __future__ import annotations

import pytest
import torch

from fastlab.clock.fitting import POOLS, STORED_COUNTS
from fastlab.latency.samples import GENERATED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("kind", [*STORED_COUNTS, *GENERATED])
def test_the_smallest_and_a_usual_size_run(kind: str) -> None:
    pool = sorted(POOLS[kind](4), key=lambda bench: bench.op.bytes)
    for bench in (pool[0], pool[len(pool) // 2]):
        run = bench.make("cuda", torch.float32)
        with torch.inference_mode():
            out = run()
        assert out.is_cuda
        assert bool(torch.isfinite(out).all())

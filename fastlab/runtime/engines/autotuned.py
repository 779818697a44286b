"""Autotuned: as compile, with torch.compile(mode="max-autotune").

Kernels of matrix products are chosen by timing several, which takes minutes on a large
model. CUDA graphs, which that mode turns on too, are left to runtime graph.
"""

from __future__ import annotations

from functools import partial

from torch._inductor import list_mode_options

from fastlab.runtime.compiled import compiled
from fastlab.runtime.engines.compile import Compile


class Autotuned(Compile):
    """Forward passes compiled with all that is tuned by timing."""

    compile = staticmethod(
        partial(compiled, more=list_mode_options("max-autotune-no-cudagraphs"))
    )


ENGINE = Autotuned()

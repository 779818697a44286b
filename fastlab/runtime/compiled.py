"""torch.compile for functions that are made anew for each model and cache length."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


def compiled(function: Callable[..., Any], device: str = "cpu") -> Callable[..., Any]:
    """`function` compiled to one graph with fixed shapes; a break in it is an error.

    torch counts recompilations by code object and gives up after a few. Each call here
    gets a copy of the code, so that models and lengths do not count together, and what
    was compiled goes when the function goes.
    """
    assert isinstance(function, FunctionType)
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(own, fullgraph=True, dynamic=False, options=_options(device))


def _options(device: str) -> dict[str, Any]:
    if device == "cuda":
        # Turns a product with one row, which a decode step is made of, into a generated
        # kernel that what comes before and after is fused into.
        return {"coordinate_descent_tuning": True}
    # Keeps what comes before out of `OneRow`'s loops: fused, a norm or a SwiGLU would
    # be computed again for every row of the weight.
    return {"realize_opcount_threshold": 0, "realize_reads_threshold": 0}

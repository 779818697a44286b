"""torch.compile and CUDA graphs of functions made anew for each model and length.

And products with one row, where the library is slow at them on a CPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

Step = Callable[[], Tensor]
Compiler = Callable[[Callable[..., Any], str], Callable[..., Any]]  # for a device
HALF = (torch.float16, torch.bfloat16)
STREAMS = 4  # parts of a weight that are read side by side
LARGE = 2**20  # weights from which that pays: smaller ones come from the caches
OPTIONS: dict[str, dict[str, Any]] = {
    # Turns a product with one row, which a decode step is made of, into a generated
    # kernel that what comes before and after is fused into.
    "cuda": {"coordinate_descent_tuning": True},
    # Keeps what comes before out of `OneRow`'s loops: fused, a norm or a SwiGLU would
    # be computed again for every row of the weight.
    "cpu": {"realize_opcount_threshold": 0, "realize_reads_threshold": 0},
}
UNCHECKED: dict[str, Any] = {  # what would be asked anew in each call
    "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
    "size_asserts": False,
}

# What was compiled stays for the next start, unless another folder is asked for.
if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):
    kept = Path("~/.cache/fastlab/compiled").expanduser()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept)


def compiled(
    function: Callable[..., Any], device: str = "cpu", **more: Any
) -> Callable[..., Any]:
    """`function` compiled to one graph with fixed shapes; a break in it is an error.

    more: options of torch.compile beside OPTIONS.
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
    options = more | OPTIONS["cuda" if device == "cuda" else "cpu"]
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def forgotten(error: Exception) -> bool:
    """Delete the library that an error names as half written; whether there was one.

    One whose compiler was killed would be in the way of every later start.
    """
    cut = re.search(r"(/\S+\.so): (file too short|invalid ELF|cannot read)", str(error))
    if cut:
        Path(cut[1]).unlink(missing_ok=True)
    return cut is not None


def captured(step: Step, count: int) -> Step:
    """`count` calls of a step in one CUDA graph; replaying it returns its own logits.

    The step must have run before, and all that it reads and writes must stay where it
    is. Capturing runs it once more.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # so that libraries have their workspaces on a stream of their own
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            logits = step()

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


class OneRow(TorchFunctionMode):
    """While a step is compiled for a CPU, W x in 16 bit becomes sums over rows of W.

    The library's product of one row in 16 bit leaves bandwidth unused, and so does the
    compiler's loop over (W x).sum(-1), accumulated in fp32: each core reads one stream.
    A loop over four parts of W at a time has more under way (benchmarks/decode_ladder).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is linear and not kwargs:
            x, weight = args[:2]
            one = x.numel() == x.shape[-1] and x.dtype in HALF
            if one and weight.dtype == x.dtype:
                return _row_sums(*args)
        if func is linear and args:
            args = (args[0].contiguous(), *args[1:])  # not rows that lie far apart
        return func(*args, **(kwargs or {}))


def one_row(device: str) -> AbstractContextManager[Any]:
    """OneRow where it pays: while code is compiled for a CPU."""
    return OneRow() if device == "cpu" else nullcontext()


def rows_together(model: Any) -> AbstractContextManager[Any]:
    """Within it, the head's rows are copied together first, where they lie far apart.

    So do the last positions of prompts, which transformers cuts out of all: in 16 bit a
    CPU's library is slow at them (the last grid of data/sweeps/reference-cpu.yaml).
    """

    def together(module: nn.Module, args: tuple[Tensor]) -> Tensor:
        return args[0].clone(memory_format=torch.contiguous_format)

    hook: Any = model.get_output_embeddings().register_forward_pre_hook(together)
    return hook


def _row_sums(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x, where equal parts of a large W become one loop, and what is left another."""
    each = len(weight) // STREAMS if weight.numel() >= LARGE else len(weight)
    parts = weight.split(max(1, each))
    sums = [(part * x.reshape(1, -1)).sum(dim=-1) for part in parts]
    out = torch.cat(sums) if len(sums) > 1 else sums[0]
    return (out if bias is None else out + bias).reshape(*x.shape[:-1], -1)

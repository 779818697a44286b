"""What other FLOP counters say of the same model, beside the exact count.

Adding a counter is adding its line to COUNTERS: a label, its module, and a function
that takes that, a model and token ids, and returns FLOPs (2 for each MAC) of one run.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from fastlab.calls import prepare, prompt_ids
from fastlab.cost.operations import total
from fastlab.models import build, numerics
from fastlab.spec.point import Point


@dataclass(frozen=True)
class Counted:
    """What one counter made of a point: FLOPs, or why there are none."""

    counter: str
    attention: str
    flops: float | None
    ratio: float | None  # to the exact count
    said: str = ""


def torch_parameters(point: Point) -> int:
    """Parameters of the really built model, on meta: no memory is taken."""
    return sum(p.numel() for p in build(point, "meta").parameters())


def torch_flops(point: Point, device: str = "meta") -> int:
    """FLOPs of the really run call by torch's FlopCounterMode.

    Exact on meta; on CPU tensors it misses fused attention. RoPE's angles, which some
    versions of transformers make by a tiny matmul, are left out.
    """
    model: Any = build(point, device)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")  # others hide their products
    call = prepare(model, point, device)
    with numerics("fp32"), FlopCounterMode(display=False) as mode:
        call.run()
    inside = mode.get_flop_counts().items()
    rope = sum(sum(c.values()) for name, c in inside if name.endswith("rotary_emb"))
    return int(mode.get_total_flops() - rope)


def counted(point: Point) -> Iterator[Counted]:
    """Every counter on a prefill, with fused attention (sdpa) and with eager.

    The model is run on CPU tensors: keep it small.
    """
    for attention in ("sdpa", "eager"):
        same = replace(point, recipe=replace(point.recipe, attention=attention))
        exact, on_meta = total(same, "flops"), torch_flops(same)
        yield Counted("torch on meta", attention, on_meta, on_meta / exact)
        for label, package, count in COUNTERS:
            flops, said = _run(package, count, same)
            ratio = None if flops is None else flops / exact
            yield Counted(label, attention, flops, ratio, said)


def _run(package: str, count: Count, point: Point) -> tuple[float | None, str]:
    """FLOPs, or None and why; what a counter prints and warns of is not shown."""
    out, err = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    if find_spec(package.partition(".")[0]) is None:
        return None, "not installed"
    try:
        with out, err, warnings.catch_warnings(action="ignore"), numerics("fp32"):
            ids = prompt_ids(point, "cpu")
            return count(import_module(package), build(point), ids), ""
    except Exception as error:  # a stranger's code: its failure is its result
        reason = next(iter(str(error).splitlines()), "")[:60]
        return None, f"fails: {type(error).__name__}: {reason}"


def _torch(_: Any, model: Any, ids: Any) -> float:
    with FlopCounterMode(display=False) as mode:
        model(ids)
    return mode.get_total_flops()


def _calflops(package: Any, model: Any, ids: Any) -> float:
    quiet = ("print_results", "print_detailed", "output_as_string")
    how = {"kwargs": {"input_ids": ids}, **dict.fromkeys(quiet, False)}
    return package.calculate_flops(model, **how)[0]


def _ptflops(package: Any, model: Any, ids: Any) -> float:
    how: dict[str, Any] = {"as_strings": False, "print_per_layer_stat": False}
    how |= {"input_constructor": lambda _: {"input_ids": ids}, "backend": "pytorch"}
    return 2 * package.get_model_complexity_info(model, tuple(ids.shape), **how)[0]


def _thop(package: Any, model: Any, ids: Any) -> float:
    return 2 * package.profile(model, inputs=(ids,), verbose=False)[0]


def _fvcore(package: Any, model: Any, ids: Any) -> float:
    return 2 * package.FlopCountAnalysis(model, ids).total()


Count = Callable[[Any, Any, Any], float]
COUNTERS: list[tuple[str, str, Count]] = [
    ("torch on CPU tensors", "torch", _torch),
    ("calflops", "calflops", _calflops),
    ("thop", "thop", _thop),
    ("ptflops", "ptflops", _ptflops),
    ("fvcore", "fvcore.nn", _fvcore),
]

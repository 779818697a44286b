"""What other FLOP counters say of the same model, beside the exact count.

Adding a counter is adding one function under @counter, named after its package. Each
takes a model and token ids, runs the model once, and returns FLOPs (2 for each MAC).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastlab.cost.operations import total
from fastlab.models import build, numerics, prepare, prompt_ids
from fastlab.spec.point import Point

Count = Callable[[nn.Module, torch.Tensor], float]
COUNTERS: list[tuple[str, str, Count]] = []  # label, package, function
MISSING = "not installed"


@dataclass(frozen=True)
class Counted:
    """What one counter made of a point: FLOPs, or why there are none."""

    counter: str
    attention: str
    flops: float | None
    ratio: float | None  # to the exact count
    said: str = ""


def counter(label: str, package: str = "torch") -> Callable[[Count], Count]:
    """Register a counter under its label; it runs where its package is installed."""

    def register(function: Count) -> Count:
        COUNTERS.append((label, package, function))
        return function

    return register


def torch_parameters(point: Point) -> int:
    """Parameters of the really built model, on meta: no memory is taken."""
    return sum(p.numel() for p in build(point, "meta").parameters())


def torch_flops(point: Point, device: str = "meta") -> int:
    """FLOPs of the really run call by torch's FlopCounterMode.

    Exact on meta; on CPU tensors it misses fused attention. RoPE's angles, which some
    versions of transformers make by a tiny matmul, are left out.
    """
    call = prepare(build(point, device), point, device)
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
        recipe = replace(point.recipe, attention=attention)
        same = replace(point, recipe=recipe)
        exact = torch_flops(same)
        yield _result("torch on meta", attention, exact, total(same, "flops"))
        for label, package, count in COUNTERS:
            if find_spec(package) is None:
                yield Counted(label, attention, None, None, MISSING)
            else:
                yield _run(label, count, same)


def _result(label: str, attention: str, flops: float, truth: int) -> Counted:
    return Counted(label, attention, flops, flops / truth)


def _run(label: str, count: Count, point: Point) -> Counted:
    attention = point.recipe.attention
    try:
        with _quiet(), numerics("fp32"):
            flops = count(build(point), prompt_ids(point, "cpu"))
    except Exception as error:  # a stranger's code: its failure is its result
        reason = next(iter(str(error).splitlines()), "")[:60]
        said = f"fails: {type(error).__name__}: {reason}"
        return Counted(label, attention, None, None, said)
    return _result(label, attention, flops, total(point, "flops"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Counters print, warn and log about what they do not know: not here."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


@counter("torch on CPU tensors")
def _torch(model: nn.Module, ids: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as mode:
        model(ids)
    return mode.get_total_flops()


@counter("calflops", "calflops")
def _calflops(model: nn.Module, ids: torch.Tensor) -> float:
    flops, *_ = _of("calflops").calculate_flops(
        model,
        kwargs={"input_ids": ids},
        print_results=False,
        print_detailed=False,
        output_as_string=False,
    )
    return flops


@counter("thop", "thop")
def _thop(model: nn.Module, ids: torch.Tensor) -> float:
    macs, _ = _of("thop").profile(model, inputs=(ids,), verbose=False)
    return 2 * macs


@counter("ptflops", "ptflops")
def _ptflops(model: nn.Module, ids: torch.Tensor) -> float:
    macs, _ = _of("ptflops").get_model_complexity_info(
        model,
        tuple(ids.shape),
        input_constructor=lambda _: {"input_ids": ids},
        as_strings=False,
        print_per_layer_stat=False,
        backend="pytorch",
    )
    return 2 * macs


@counter("fvcore", "fvcore")
def _fvcore(model: nn.Module, ids: torch.Tensor) -> float:
    return 2 * _of("fvcore.nn").FlopCountAnalysis(model, ids).total()


def _of(package: str) -> Any:
    return import_module(package)

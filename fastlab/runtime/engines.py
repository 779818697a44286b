"""prepare(): a point's call, made ready by the runtime, cache and attention it names.

What a runtime is and where it fits stands in spec/engines.py; what it does, here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import sdpa_kernel

from fastlab import models
from fastlab.machine import Here
from fastlab.runtime.attention import BACKENDS, kernel_of
from fastlab.runtime.calls import CompiledForward, Generate, Static
from fastlab.runtime.compiled import Step, captured, compiled
from fastlab.runtime.decode import Decoder
from fastlab.spec.point import Point
from fastlab.spec.recipe import STATIC
from fastlab.spec.unsupported import unsupported


def prepare(model: nn.Module, point: Point, device: str = "cpu") -> Any:
    """The point's call on the model: run(), reset(), compile_s; see `models.prepare`.

    Everything is compiled, captured and filled when this returns. Raises ValueError for
    what is `unsupported` on this machine's device.
    """
    if reason := unsupported(point, Here(device)):
        raise ValueError(reason)
    attention = point.recipe.attention
    with kernel_of(attention):
        call = RUN[point.recipe.runtime].call(model, point, device)
    if attention in BACKENDS:
        call.run = sdpa_kernel(BACKENDS[attention])(call.run)  # entered by each run
    return call


class Eager:
    """Operation by operation; what every runtime may override."""

    def call(self, model: nn.Module, point: Point, device: str) -> Any:
        """The point's call, ready to run."""
        if point.recipe.cache in STATIC:
            return Static(model, models.prompt_ids(point, device), point)
        return models.prepare(model, point, device)

    def steps(self, decoder: Decoder) -> Step:
        """() -> logits of the last of `decoder.unroll` steps."""
        return decoder.steps(decoder.forward_function(), decoder.unroll)


class Compile(Eager):
    """Forward passes compiled; the rest is eager."""

    def compile(self, function: Callable[..., Any], device: str) -> Callable[..., Any]:
        """The function compiled for a device."""
        return compiled(function, device)

    def call(self, model: nn.Module, point: Point, device: str) -> Any:
        """The point's call, compiled."""
        call = super().call(model, point, device)
        if not isinstance(call, Static):
            return CompiledForward(call, self.compile)
        if point.workload.phase == "prefill":
            call.decoder.compile_prefill(self.compile)
            call.compile()
        return call

    def steps(self, decoder: Decoder) -> Step:
        """Compiled forward passes, each followed by the choice of a token."""
        forward = decoder.forward_function(compiled=True)
        return decoder.steps(self.compile(forward, decoder.device), decoder.unroll)


class Autotuned(Compile):
    """The same with mode="max-autotune", its CUDA graphs left to runtime graph.

    Kernels of products are chosen by timing several: minutes on a large model.
    """

    def compile(self, function: Callable[..., Any], device: str) -> Callable[..., Any]:
        """The function compiled for a device, and tuned on it."""
        mode = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        return compiled(function, device, mode)


class Transformers(Eager):
    """Whole generations by transformers."""

    def call(self, model: nn.Module, point: Point, device: str) -> Any:
        """The generation, compiled."""
        ids = models.prompt_ids(point, device)
        return Generate(model, ids, point.workload.new_tokens)


class Steps(Eager):
    """Whole decode steps compiled as one function, the choice of tokens included."""

    def steps(self, decoder: Decoder, count: int = 0) -> Step:
        """`count` steps in one call, as many as are unrolled where that is 0."""
        forward = decoder.forward_function(compiled=True)
        return compiled(decoder.steps(forward, count or decoder.unroll), decoder.device)


class Graph(Steps):
    """Steps compiled one by one, and captured in one CUDA graph."""

    def steps(self, decoder: Decoder, count: int = 1) -> Step:
        """A replay of the graph: one launch."""
        step = super().steps(decoder, count)
        with torch.inference_mode(), decoder.attending():
            decoder.rewind(0)
            step()  # it is compiled before it is captured
            return captured(step, decoder.unroll)


RUN = {
    "eager": Eager(),
    "compile": Compile(),
    "autotuned": Autotuned(),
    "transformers": Transformers(),
    "decoder": Steps(),
    "graph": Graph(),
}

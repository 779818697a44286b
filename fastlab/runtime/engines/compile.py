"""Compile: torch.compile of the forward pass; what chooses tokens stays eager."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastlab import models
from fastlab.runtime.calls import CompiledForward, StaticPrefill
from fastlab.runtime.compiled import Step, compiled
from fastlab.runtime.decode import Decoder
from fastlab.runtime.engines.eager import Eager
from fastlab.spec.point import Point
from fastlab.spec.recipe import STATIC


class Compile(Eager):
    """Forward passes compiled by `compile`, which others may override."""

    compile = staticmethod(compiled)

    def prepare(self, model: nn.Module, point: Point, device: str) -> Any:
        """The point's call, compiled."""
        if point.recipe.cache not in STATIC:
            call = models.prepare(model, point, device)
            return CompiledForward(call, point.recipe.attention, self.compile)
        call = super().prepare(model, point, device)
        if isinstance(call, StaticPrefill):
            call.decoder.compile_prefill(self.compile)
            call.compile()
        return call

    def steps(self, decoder: Decoder) -> Step:
        """Compiled forward passes, each followed by the choice of a token."""
        forward = decoder.forward_function(compiled=True)
        return decoder.steps(self.compile(forward, decoder.device), decoder.unroll)


ENGINE = Compile()

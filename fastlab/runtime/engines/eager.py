"""Eager: operation by operation, as transformers' code or our decoder's asks."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastlab import models
from fastlab.runtime.calls import STATIC_CALLS, OnKernel
from fastlab.runtime.compiled import Step
from fastlab.runtime.decode import Decoder
from fastlab.spec.point import Point
from fastlab.spec.recipe import STATIC


class Eager:
    """What every runtime can override: prepare() of calls, steps() of a decoder."""

    def prepare(self, model: nn.Module, point: Point, device: str) -> Any:
        """The point's call, ready to run."""
        recipe = point.recipe
        if recipe.cache in STATIC:
            ids = models.prompt_ids(point, device)
            return STATIC_CALLS[point.workload.phase](model, ids, point)
        call, attention = models.prepare(model, point, device), recipe.attention
        return OnKernel(call, attention) if "-" in attention else call

    def steps(self, decoder: Decoder) -> Step:
        """() -> logits of the last of `decoder.unroll` steps."""
        return decoder.steps(decoder.forward_function(), decoder.unroll)


ENGINE = Eager()

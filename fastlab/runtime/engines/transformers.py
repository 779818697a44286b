"""Transformers: model.generate() with its static cache and its own compilation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastlab.models import prompt_ids
from fastlab.runtime.attention import kernel_of
from fastlab.runtime.calls import Call
from fastlab.runtime.engines.eager import Eager
from fastlab.spec.point import Point


class Generate(Call):
    """On a CPU transformers compiles only when a private switch of its CompileConfig
    says so, which is set here: the fastest that it offers on each device.
    """

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        from transformers import CompileConfig

        self.model, self.ids, self.attention = model, ids, point.recipe.attention
        self.mask, new = torch.ones_like(ids), point.workload.new_tokens
        self.options: dict[str, Any] = {
            "max_new_tokens": new,
            "min_new_tokens": new,
            "do_sample": False,
            "cache_implementation": "static",
        }
        if ids.device.type == "cpu":
            config = CompileConfig(mode="default")
            config._compile_all_devices = True  # type: ignore[assignment]
            self.options["compile_config"] = config
        self.compile(2)  # the second run finds the first's cache

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        with kernel_of(self.attention):
            out = self.model.generate(  # type: ignore[operator]
                self.ids, attention_mask=self.mask, **self.options
            )
        tokens: torch.Tensor = out[:, self.ids.shape[1] :]
        return tokens


class Transformers(Eager):
    """Whole generations, by transformers alone."""

    def prepare(self, model: nn.Module, point: Point, device: str) -> Generate:
        """The generation, compiled."""
        return Generate(model, prompt_ids(point, device), point)


ENGINE = Transformers()

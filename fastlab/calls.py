"""A point's call on a model, ready to be timed: prefill, decode step, generation."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn

from fastlab.spec.point import Point
from fastlab.tracing.caches import cache_name


def prompt_ids(point: Point, device: str) -> torch.Tensor:
    """Random token ids (batch, prompt_len), the same for every device and dtype."""
    work = point.workload
    source = torch.Generator().manual_seed(point.seed or 0)
    size = (work.batch, work.prompt_len)
    return torch.randint(point.shape.vocab, size, generator=source).to(device)


def prepare(
    model: nn.Module, point: Point, device: str = "cpu"
) -> Prefill | Decode | Generate:
    """The point's call on the model, ready to run: inputs made, cache filled."""
    ids, work = prompt_ids(point, device), point.workload
    cached = point.recipe.cache != "none"
    if work.phase == "generate":
        return Generate(model, ids, work.new_tokens, cached)
    if work.phase == "decode" and cached:
        return Decode(model, ids)
    if work.phase == "decode":
        ids = torch.cat([ids, ids[:, :1]], dim=1)
    if point.shape.kind == "encoder-decoder":
        return Prefill(model.get_encoder(), ids, {})  # type: ignore[operator]
    keep = 1 if work.phase == "decode" or work.logits == "last" else 0
    wanted = {"use_cache": cached, "logits_to_keep": keep}
    return Prefill(model, ids, accepted(model, wanted))


class Call:
    """What is timed: run() makes its inputs' output, reset() undoes what that changed.

    compile_s: seconds that compiling took, None where nothing was compiled.
    """

    compile_s: float | None = None

    def reset(self) -> None:
        """Nothing to undo: each run overwrites what the last one left."""


@dataclass
class Prefill(Call):
    """One forward pass over ids (batch, n) from an empty cache; returns the logits."""

    model: nn.Module
    ids: torch.Tensor
    options: dict[str, Any]

    def run(self) -> torch.Tensor:
        """Logits (batch, n or 1, vocab), or what a model without a head gives first."""
        out = self.model(self.ids, **self.options)
        return out.logits if "logits" in out else out[0]


def accepted(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those options that the model's forward() takes."""
    names = signature(model.forward).parameters
    return {name: value for name, value in options.items() if name in names}


@dataclass
class Decode(Call):
    """One new token per sequence after a cached prompt; the cache never grows.

    transformers replaces tensors of keys and values when it appends, so that putting
    the prompt's own back restores those without a copy; states that it writes in place
    (convolutions, state spaces, linear attention) are copied.
    """

    model: nn.Module
    ids: torch.Tensor

    def __post_init__(self) -> None:
        with torch.inference_mode():
            self.given = read(self.model, self.ids)
            out = self._forward(self.ids)
        self.name, self.cache = cache_name(self.model), cache_of(self.model, out)
        self.token = out.logits[:, -1:].argmax(-1)
        self.kept: Any = copied(self.cache)

    def run(self) -> torch.Tensor:
        """Logits (batch, 1, vocab) of the position after the prompt's."""
        return self._forward(self.token, **{self.name: self.cache}).logits

    def _forward(self, ids: torch.Tensor, **held: Any) -> Any:
        return forward(self.model, ids, use_cache=True, **self.given, **held)

    def release(self) -> None:
        """Let go of the prompt's own tensors, which a real decode loop does not keep.

        For one last run whose peak memory is read; reset() does nothing from then on.
        """
        self.reset()
        self.kept = None

    def reset(self) -> None:
        """Go back to the cache as the prompt left it."""
        if self.kept is not None:
            self.cache = copied(self.kept)


def read(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """What the decoder of an encoder-decoder is given of ids (batch, n); else {}."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return {}
    return {"encoder_outputs": model.get_encoder()(ids)}


def forward(model: Any, ids: torch.Tensor, **options: Any) -> Any:
    """One pass over the next ids; of the logits the last position's, if it can."""
    name = "decoder_input_ids" if "encoder_outputs" in options else "input_ids"
    last = accepted(model, {"logits_to_keep": 1})
    return model(**{name: ids}, **last, **options)


def cache_of(model: nn.Module, out: Any) -> Any:
    """What a model's output keeps of the past; ValueError where it keeps nothing."""
    cache: Any = out.get(cache_name(model))
    if cache is None:
        kind = getattr(model.config, "model_type", "")
        raise ValueError(f"model_type={kind!r} gives no cache back: take cache='none'")
    return cache


def copied(cache: Any) -> Any:
    """A copy of a cache, which shares the tensors that are only ever replaced."""
    caches = [cache, *vars(cache).values()] if hasattr(cache, "__dict__") else []
    layers = [layer for part in caches for layer in getattr(part, "layers", ())]
    states = [vars(layer).get(x) for layer in layers for x in ("keys", "values")]
    return deepcopy(cache, {id(x): x for x in states if x is not None})


@dataclass
class Generate(Call):
    """Greedy generation of new_tokens tokens, without a host synchronisation each."""

    model: nn.Module
    ids: torch.Tensor
    new_tokens: int
    cached: bool = True
    cache: Any = None

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        self.reset()
        tokens: list[torch.Tensor] = []
        given = read(self.model, self.ids)
        start = self.ids[:, :1] if given else self.ids
        for _ in range(self.new_tokens):
            held: Any = {"use_cache": self.cached, **given}
            if self.cache is not None:
                held[cache_name(self.model)] = self.cache
            out = forward(self.model, self._next(start, tokens), **held)
            if self.cached:
                self.cache = cache_of(self.model, out)
            tokens.append(out.logits[:, -1:].argmax(-1))
        return torch.cat(tokens, dim=1)

    def reset(self) -> None:
        """Let go of the last run's cache; each run makes its own."""
        self.cache = None

    def _next(self, start: torch.Tensor, tokens: list[torch.Tensor]) -> torch.Tensor:
        if self.cached or not tokens:
            return tokens[-1] if tokens else start
        return torch.cat([start, *tokens], dim=1)

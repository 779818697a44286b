"""prepare(): a point's call, by the runtime, cache and attention that it names."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastlab import models
from fastlab.runtime.attention import kernel_of
from fastlab.runtime.cache import StaticKV
from fastlab.runtime.compiled import compiled
from fastlab.runtime.decode import Decoder
from fastlab.runtime.onerow import one_row
from fastlab.runtime.unsupported import unsupported_reason
from fastlab.spec.point import Point
from fastlab.spec.recipe import STATIC


def prepare(model: nn.Module, point: Point, device: str = "cpu") -> Any:
    """The point's call on the model: run(), reset(), compile_s; see `models.prepare`.

    Everything is compiled, captured and filled when this returns. Raises ValueError for
    what `unsupported_reason` names.
    """
    reason = unsupported_reason(point, device)
    if reason:
        raise ValueError(reason)
    ids = models.prompt_ids(point, device)
    recipe, phase = point.recipe, point.workload.phase
    if recipe.runtime == "transformers":
        return Transformers(model, ids, point)
    if recipe.cache in STATIC:
        kinds = {"prefill": StaticPrefill, "decode": StaticDecode}
        return kinds.get(phase, StaticGenerate)(model, ids, point)
    call = models.prepare(model, point, device)
    if recipe.runtime == "compile":
        return CompiledPrefill(call, recipe.attention, device)
    return OnKernel(call, recipe.attention) if "-" in recipe.attention else call


class OnKernel:
    """Another call, with torch's attention on the kernel that is named."""

    compile_s: float | None = None

    def __init__(self, call: Any, attention: str) -> None:
        self.call, self.attention = call, attention
        self.release = getattr(call, "release", call.reset)

    def run(self) -> torch.Tensor:
        """What the call returns."""
        with kernel_of(self.attention):
            return self.call.run()

    def reset(self) -> None:
        """The call's own."""
        self.call.reset()


class CompiledPrefill:
    """A forward pass without a static cache, compiled; keys and values are made too."""

    def __init__(self, call: Any, attention: str, device: str) -> None:
        self.ids, self.attention = call.ids, attention
        start = time.perf_counter()
        forward = _forward_of(call.model, dict(call.options), device)
        self._forward = compiled(forward, device)
        self.run()
        _wait(device)
        self.compile_s: float | None = time.perf_counter() - start

    def run(self) -> torch.Tensor:
        """Logits (batch, n or 1, vocab)."""
        with kernel_of(self.attention):
            logits: torch.Tensor = self._forward(self.ids)[0]
        return logits

    def reset(self) -> None:
        """Nothing to undo."""


def _forward_of(
    model: nn.Module, options: dict[str, Any], device: str
) -> Callable[..., Any]:
    def forward(ids: torch.Tensor) -> Any:
        with one_row(device):
            out = model(ids, **options)
        cache = getattr(out, "past_key_values", None)
        # Returned, or the compiler would leave out what nobody reads.
        kept = [] if cache is None else [(x.keys, x.values) for x in cache.layers]
        return out.logits, kept

    return forward


def _decoder(model: nn.Module, point: Point, **over: Any) -> Decoder:
    recipe, work = point.recipe, point.workload
    return Decoder(
        model,
        work.batch,
        work.positions,
        cache=recipe.cache,
        runtime=over.get("runtime", recipe.runtime),
        unroll=recipe.unroll,
        attention=recipe.attention,
        compile_prefill=recipe.attention == "flex",
    )


class StaticPrefill:
    """A prompt into a static cache, which is allocated once; after a prefix if named.

    Without one every run starts from an empty cache.
    """

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        self.ids, self.prefix = ids, point.workload.prefix_len
        self._decoder = _decoder(model, point, runtime="eager")
        self.cache: StaticKV = self._decoder.cache
        self.held = self.cache.buffers
        self._rows = _prefix_rows(self._decoder, ids[:, : self.prefix])
        self._keep = 1 if point.workload.logits == "last" else 0
        self._model, self._attention = model, point.recipe.attention
        self.compile_s: float | None = None
        if point.recipe.runtime == "compile":
            self._compile(ids.device.type)

    def _compile(self, device: str) -> None:
        start = time.perf_counter()
        self._decoder.compile_prefill()
        self.run()
        _wait(device)
        self.compile_s = time.perf_counter() - start

    def run(self) -> torch.Tensor:
        """Logits (batch, n - prefix or 1, vocab), once the prefix is copied in."""
        for rows, buffer in zip(self._rows, self.held, strict=False):
            buffer[:, :, : self.prefix].copy_(rows)
        return self._decoder.forward(
            self.ids[:, self.prefix :], self.prefix, self._keep
        )

    def reset(self) -> None:
        """Nothing to undo: the next run overwrites the rows."""


def _prefix_rows(decoder: Decoder, ids: torch.Tensor) -> list[torch.Tensor]:
    """Copies of the cache's rows for a prefix ids (batch, n); none for an empty one."""
    n = ids.shape[1]
    if n == 0:
        return []
    decoder.forward(ids, 0, 1)
    return [buffer[:, :, :n].clone() for buffer in decoder.cache.buffers]


class StaticDecode:
    """One step after a prompt in a static cache; reset() only moves the position."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        self._decoder, self._n = _decoder(model, point), ids.shape[1]
        self._decoder.prefill(ids)
        self.ids, self.compile_s = ids, self._decoder.compile_s
        self.held = [*self._decoder.cache.buffers, self._decoder.state.tokens]

    def run(self) -> torch.Tensor:
        """Logits (batch, 1, vocab) of the position after the prompt's."""
        return self._decoder.advance()

    def reset(self) -> None:
        """Back to the end of the prompt."""
        self._decoder.rewind(self._n)


class StaticGenerate:
    """Prefill and greedy decoding on a static cache, without a host synchronisation."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        self.ids, self.new_tokens = ids, point.workload.new_tokens
        self._decoder = _decoder(model, point)
        self.prefix = point.workload.prefix_len
        self._rows = _prefix_rows(self._decoder, ids[:, : self.prefix])
        self.compile_s = self._decoder.compile_s
        self.held = [*self._decoder.cache.buffers, self._decoder.state.tokens]

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        for rows, buffer in zip(self._rows, self.held, strict=False):
            buffer[:, :, : self.prefix].copy_(rows)
        decoder = self._decoder
        decoder.start(self.ids, self.prefix)
        for _ in range(-(-(self.new_tokens - 1) // decoder.unroll)):
            decoder.advance()
        n = self.ids.shape[1]
        return decoder.state.tokens[:, n : n + self.new_tokens].clone()

    def reset(self) -> None:
        """Nothing to undo: each run starts with the prompt."""


class Transformers:
    """model.generate() with its static cache and its own compilation of the forward.

    On a CPU transformers compiles only when told to by a private switch of its
    CompileConfig, which is set here: the fastest that it offers on each device.
    """

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        self.model, self.ids = model, ids
        self.attention, device = point.recipe.attention, ids.device.type
        self.options = _generation_options(point, device)
        self.mask = torch.ones_like(ids)
        start = time.perf_counter()
        for _ in range(2):  # the second call finds the cache that the first one made
            self.run()
        _wait(device)
        self.compile_s: float | None = time.perf_counter() - start

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        with kernel_of(self.attention):
            out = self.model.generate(  # type: ignore[operator]
                self.ids, attention_mask=self.mask, **self.options
            )
        tokens: torch.Tensor = out[:, self.ids.shape[1] :]
        return tokens

    def reset(self) -> None:
        """Nothing to undo: generate() resets its cache."""

    def release(self) -> None:
        """Nothing that a last run would not need."""


def _generation_options(point: Point, device: str) -> dict[str, Any]:
    from transformers import CompileConfig

    new = point.workload.new_tokens
    options: dict[str, Any] = {
        "max_new_tokens": new,
        "min_new_tokens": new,
        "do_sample": False,
    }
    options |= {"cache_implementation": "static"}
    if device == "cpu":
        config = CompileConfig(mode="default")
        config._compile_all_devices = True  # type: ignore[assignment]
        options["compile_config"] = config
    return options


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

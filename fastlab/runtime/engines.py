"""prepare(): a point's call, by the runtime, cache and attention that it names."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from fastlab import models
from fastlab.runtime.attention import kernel_of
from fastlab.runtime.compiled import compiled, one_row
from fastlab.runtime.decode import Decoder
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

    def __init__(self, call: Any, attention: str) -> None:
        self.call, self.attention, self.reset = call, attention, call.reset
        self.release = getattr(call, "release", call.reset)

    def run(self) -> torch.Tensor:
        """What the call returns."""
        with kernel_of(self.attention):
            return self.call.run()


def _compile_s(call: Any, runs: int = 1) -> float:
    """Seconds of so many first runs, in which code is compiled."""
    start = time.perf_counter()
    for _ in range(runs):
        call.run()
    if call.ids.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Call:
    """What the calls below share: each run overwrites what the last one left."""

    compile_s: float | None = None

    def reset(self) -> None:
        """Nothing to undo."""


class CompiledPrefill(Call):
    """A forward pass without a static cache, compiled; keys and values are made too."""

    def __init__(self, call: Any, attention: str, device: str) -> None:
        self.ids, self.attention = call.ids, attention
        model, options = call.model, dict(call.options)

        def forward(ids: torch.Tensor) -> Any:
            with one_row(device):
                out = model(ids, **options)
            cache = getattr(out, "past_key_values", None)
            # Returned, or the compiler would leave out what nobody reads.
            kept = [] if cache is None else [(x.keys, x.values) for x in cache.layers]
            return out.logits, kept

        self._forward = compiled(forward, device)
        self.compile_s = _compile_s(self)

    def run(self) -> torch.Tensor:
        """Logits (batch, n or 1, vocab)."""
        with kernel_of(self.attention):
            logits: torch.Tensor = self._forward(self.ids)[0]
        return logits


class Static(Call):
    """A call on a decoder, whose static cache is allocated once.

    held: what is there before a run. A prefix's rows are computed here, and copied in
    by each run; without one every run starts from an empty cache.
    """

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        recipe, work = point.recipe, point.workload
        self.ids, self.work, self.prefix = ids, work, work.prefix_len
        prefills = work.phase == "prefill"
        self.decoder = decoder = Decoder(
            model,
            work.batch,
            work.positions,
            cache=recipe.cache,
            runtime="eager" if prefills else recipe.runtime,
            unroll=recipe.unroll,
            attention=recipe.attention,
            compile_prefill=recipe.attention == "flex",
        )
        self.compile_s, buffers = decoder.compile_s, decoder.cache.buffers
        self.held = buffers if prefills else [*buffers, decoder.state.tokens]
        self._rows: list[torch.Tensor] = []
        if self.prefix:
            decoder.forward(ids[:, : self.prefix], 0, 1)
            self._rows = [rows[:, :, : self.prefix].clone() for rows in buffers]

    def _copy_prefix(self) -> None:
        for rows, buffer in zip(self._rows, self.held, strict=False):
            buffer[:, :, : self.prefix].copy_(rows)


class StaticPrefill(Static):
    """A prompt into a static cache, after a prefix if one is named."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        super().__init__(model, ids, point)
        if point.recipe.runtime == "compile":
            self.decoder.compile_prefill()
            self.compile_s = _compile_s(self)

    def run(self) -> torch.Tensor:
        """Logits (batch, n - prefix or 1, vocab), once the prefix is copied in."""
        self._copy_prefix()
        keep = 1 if self.work.logits == "last" else 0
        return self.decoder.forward(self.ids[:, self.prefix :], self.prefix, keep)


class StaticDecode(Static):
    """One step after a prompt in a static cache; reset() only moves the position."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, point: Point) -> None:
        super().__init__(model, ids, point)
        self.decoder.prefill(ids)

    def run(self) -> torch.Tensor:
        """Logits (batch, 1, vocab) of the position after the prompt's."""
        return self.decoder.advance()

    def reset(self) -> None:
        """Back to the end of the prompt."""
        self.decoder.rewind(self.ids.shape[1])


class StaticGenerate(Static):
    """Prefill and greedy decoding on a static cache, without a host synchronisation."""

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        self._copy_prefix()
        self.decoder.start(self.ids, self.prefix)
        n, new = self.ids.shape[1], self.work.new_tokens
        for _ in range(1, new, self.decoder.unroll):
            self.decoder.advance()
        return self.decoder.state.tokens[:, n : n + new].clone()


class Transformers(Call):
    """model.generate() with its static cache and its own compilation of the forward.

    On a CPU transformers compiles only when told to by a private switch of its
    CompileConfig, which is set here: the fastest that it offers on each device.
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
        self.compile_s = _compile_s(self, 2)  # the second one finds the first's cache

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        with kernel_of(self.attention):
            out = self.model.generate(  # type: ignore[operator]
                self.ids, attention_mask=self.mask, **self.options
            )
        tokens: torch.Tensor = out[:, self.ids.shape[1] :]
        return tokens

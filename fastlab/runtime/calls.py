"""Calls that a runtime makes ready: forwards, steps and generations that can be timed.

Each has run(), reset(), and compile_s: the seconds that compiling took, None without.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastlab.runtime.attention import kernel_of
from fastlab.runtime.compiled import one_row
from fastlab.runtime.decode import Compile, Decoder
from fastlab.spec.point import Point


class Call:
    """What the calls below share: each run overwrites what the last one left."""

    compile_s: float | None = None
    ids: torch.Tensor

    def run(self) -> torch.Tensor:
        """Logits, or token ids."""
        raise NotImplementedError

    def reset(self) -> None:
        """Nothing to undo."""

    def compile(self, runs: int = 1) -> None:
        """Note the seconds of so many first runs, in which code is compiled."""
        start = time.perf_counter()
        for _ in range(runs):
            self.run()
        if self.ids.device.type == "cuda":
            torch.cuda.synchronize()
        self.compile_s = time.perf_counter() - start


class OnKernel:
    """Another call, with torch's attention on the kernel that is named."""

    def __init__(self, call: Any, attention: str) -> None:
        self.call, self.attention, self.reset = call, attention, call.reset
        self.release = getattr(call, "release", call.reset)

    def run(self) -> torch.Tensor:
        """What the call returns."""
        with kernel_of(self.attention):
            return self.call.run()


class CompiledForward(Call):
    """A forward pass without a static cache, compiled; keys and values are made too."""

    def __init__(self, call: Any, attention: str, compile: Compile) -> None:
        self.ids, self.attention = call.ids, attention
        model, options, device = call.model, dict(call.options), call.ids.device.type

        def forward(ids: torch.Tensor) -> Any:
            with one_row(device):
                out = model(ids, **options)
            cache = getattr(out, "past_key_values", None)
            # Returned, or the compiler would leave out what nobody reads.
            kept = [] if cache is None else [(x.keys, x.values) for x in cache.layers]
            return out.logits, kept

        self._forward = compile(forward, device)
        self.compile()

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


STATIC_CALLS: dict[str, Callable[..., Static]] = {
    "prefill": StaticPrefill,
    "decode": StaticDecode,
    "generate": StaticGenerate,
}

"""Calls beside those of `models`: on static caches, compiled, by generate().

Each has run(), reset(), and compile_s: the seconds that compiling took, None without.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from fastlab.runtime.compiled import Compile, one_row
from fastlab.runtime.decode import Decoder
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


class CompiledForward(Call):
    """A forward pass without a static cache, compiled; keys and values are made too."""

    def __init__(self, call: Any, compile: Compile) -> None:
        self.ids, device = call.ids, call.ids.device.type
        model, options = call.model, dict(call.options)

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
        )
        self.compile_s, buffers = decoder.compile_s, decoder.cache.buffers
        self.held = buffers if prefills else [*buffers, decoder.state.tokens]
        self._rows: list[torch.Tensor] = []
        if self.prefix:
            decoder.forward(ids[:, : self.prefix], 0, 1)
            self._rows = [rows[:, :, : self.prefix].clone() for rows in buffers]
        if work.phase == "decode":
            decoder.prefill(ids)

    def run(self) -> torch.Tensor:
        """Logits (batch, n - prefix or 1, vocab), or token ids (batch, new_tokens)."""
        if self.work.phase == "decode":
            return self.decoder.advance()
        for rows, buffer in zip(self._rows, self.held, strict=False):
            buffer[:, :, : self.prefix].copy_(rows)
        return self._prefill() if self.work.phase == "prefill" else self._generate()

    def _prefill(self) -> torch.Tensor:
        keep = 1 if self.work.logits == "last" else 0
        return self.decoder.forward(self.ids[:, self.prefix :], self.prefix, keep)

    def _generate(self) -> torch.Tensor:
        """Greedy, without a host synchronisation."""
        self.decoder.start(self.ids, self.prefix)
        n, new = self.ids.shape[1], self.work.new_tokens
        for _ in range(1, new, self.decoder.unroll):
            self.decoder.advance()
        return self.decoder.state.tokens[:, n : n + new].clone()

    def reset(self) -> None:
        """A decode step goes back to the end of the prompt."""
        if self.work.phase == "decode":
            self.decoder.rewind(self.ids.shape[1])


class Generate(Call):
    """model.generate() with its static cache and its own compilation of the forward.

    On a CPU transformers compiles only when told to by a private switch of its
    CompileConfig, which is set here: the fastest that it offers on each device.
    """

    def __init__(self, model: nn.Module, ids: torch.Tensor, new: int) -> None:
        from transformers import CompileConfig

        self.model, self.ids, self.mask = model, ids, torch.ones_like(ids)
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
        self.compile(2)  # the second one finds the first's cache

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        out = self.model.generate(  # type: ignore[operator]
            self.ids, attention_mask=self.mask, **self.options
        )
        tokens: torch.Tensor = out[:, self.ids.shape[1] :]
        return tokens

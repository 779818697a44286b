"""prepare(): a point's call, made ready by the runtime, cache and attention it names.

What a runtime is and where it fits stands in spec/engines.py; what it does, here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from fastlab import calls
from fastlab.checkpoints import greedy
from fastlab.machine import Here
from fastlab.runtime.attention import BACKENDS, kernel_of
from fastlab.runtime.compiled import (
    UNCHECKED,
    Compiler,
    Step,
    captured,
    compiled,
    one_row,
)
from fastlab.runtime.decode import Decoder
from fastlab.spec.engines import STATIC
from fastlab.spec.point import Point
from fastlab.spec.unsupported import unsupported
from fastlab.tracing.caches import cache_name

STATES = ("keys", "values", "conv_states", "recurrent_states")  # of a cache's layer


def prepare(model: nn.Module, point: Point, device: str = "cpu") -> Any:
    """The point's call on the model: run(), reset(), compile_s; see `calls.prepare`.

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


def _compile_s(call: Any, runs: int = 1) -> float:
    """Seconds of so many first runs, in which code is compiled."""
    start = time.perf_counter()
    for _ in range(runs):
        call.run()
    if call.ids.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class CompiledForward(calls.Call):
    """A forward pass without a static cache, compiled; keys and values are made too."""

    def __init__(self, call: Any, compile: Compiler) -> None:
        self.ids, device = call.ids, call.ids.device.type
        model, options = call.model, dict(call.options)
        name = cache_name(model)

        def forward(ids: Tensor) -> Any:
            with one_row(device):
                out = model(ids, **options)
            cache = getattr(out, name, None)
            # Returned, or the compiler would leave out what nobody reads.
            kept = [
                [getattr(layer, state, None) for state in STATES]
                for layer in getattr(cache, "layers", ())
            ]
            return out.logits, kept

        self._forward = compile(forward, device)
        self.compile_s = _compile_s(self)

    def run(self) -> Tensor:
        """Logits (batch, n or 1, vocab)."""
        logits: Tensor = self._forward(self.ids)[0]
        return logits


class Static(calls.Call):
    """A call on a decoder, whose static cache is allocated once.

    held: what is there before a run. A prefix's rows are computed here, and copied in
    by each run; without one every run starts from an empty cache.
    """

    def __init__(self, model: nn.Module, ids: Tensor, point: Point) -> None:
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
        self.held = buffers if prefills else [*buffers, decoder.place.tokens]
        self._rows: list[Tensor] = []
        if self.prefix:
            decoder.forward(ids[:, : self.prefix], 0, 1)
            self._rows = [rows[:, :, : self.prefix].clone() for rows in buffers]
        if work.phase == "decode":
            decoder.prefill(ids)

    def run(self) -> Tensor:
        """Logits (batch, n - prefix or 1, vocab), or token ids (batch, new_tokens)."""
        if self.work.phase == "decode":
            return self.decoder.advance()
        for rows, buffer in zip(self._rows, self.held, strict=False):
            buffer[:, :, : self.prefix].copy_(rows)
        return self._prefill() if self.work.phase == "prefill" else self._generate()

    def _prefill(self) -> Tensor:
        keep = 1 if self.work.logits == "last" else 0
        return self.decoder.forward(self.ids[:, self.prefix :], self.prefix, keep)

    def _generate(self) -> Tensor:
        """Greedy, without a host synchronisation."""
        self.decoder.start(self.ids, self.prefix)
        n, new = self.ids.shape[1], self.work.new_tokens
        for _ in range(1, new, self.decoder.unroll):
            self.decoder.advance()
        return self.decoder.place.tokens[:, n : n + new].clone()

    def reset(self) -> None:
        """A decode step goes back to the end of the prompt."""
        if self.work.phase == "decode":
            self.decoder.rewind(self.ids.shape[1])


class Generate(calls.Call):
    """model.generate() with its static cache and its own compilation of the forward.

    On a CPU transformers compiles only when told to by a private switch of its
    CompileConfig, which is set here: the fastest that it offers on each device.
    """

    def __init__(self, model: nn.Module, ids: Tensor, new: int) -> None:
        from transformers import CompileConfig

        self.model, self.ids, self.mask = model, ids, torch.ones_like(ids)
        self.options: dict[str, Any] = {
            "max_new_tokens": new,
            "cache_implementation": "static",
        }
        if ids.device.type == "cpu":
            config = CompileConfig(mode="default")
            config._compile_all_devices = True  # type: ignore[assignment]
            self.options["compile_config"] = config
        self.compile_s = _compile_s(self, 2)  # the second finds the first's cache

    def run(self) -> Tensor:
        """Token ids (batch, new_tokens)."""
        with greedy(self.model, **self.options) as how:  # no eos ends it
            out = self.model.generate(  # type: ignore[operator]
                self.ids, attention_mask=self.mask, generation_config=how
            )
        tokens: Tensor = out[:, self.ids.shape[1] :]
        return tokens


class Eager:
    """Operation by operation; what every runtime may override."""

    def call(self, model: nn.Module, point: Point, device: str) -> Any:
        """The point's call, ready to run."""
        if point.recipe.cache in STATIC:
            return Static(model, calls.prompt_ids(point, device), point)
        return calls.prepare(model, point, device)

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
            call.compile_s = _compile_s(call)
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
        return compiled(function, device, **mode)


class Transformers(Eager):
    """Whole generations by transformers."""

    def call(self, model: nn.Module, point: Point, device: str) -> Any:
        """The generation, compiled."""
        ids = calls.prompt_ids(point, device)
        return Generate(model, ids, point.workload.new_tokens)


class Steps(Eager):
    """Whole decode steps compiled as one function, the choice of tokens included.

    What they read stays in the decoder: they do not ask whether it changed.
    """

    def steps(self, decoder: Decoder, count: int = 0) -> Step:
        """`count` steps in one call, as many as are unrolled where that is 0."""
        forward = decoder.forward_function(compiled=True)
        steps = decoder.steps(forward, count or decoder.unroll)
        return compiled(steps, decoder.device, **UNCHECKED)


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

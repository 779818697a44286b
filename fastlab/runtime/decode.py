"""Our decoder: prefill, then one step on a static cache, k steps a call, no host syncs.

A step is the forward pass of one token, the choice of the next and the move of the
position. It runs eagerly, compiled as one graph, or as that graph replayed by CUDA.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from fastlab.machine import Here
from fastlab.runtime.attention import asks_for_attention, attention_of
from fastlab.runtime.cache import StaticKV
from fastlab.runtime.compiled import (
    Compiler,
    Step,
    compiled,
    forgotten,
    one_row,
    rows_together,
)
from fastlab.runtime.joined import Joins, joins_of, same_inputs
from fastlab.runtime.prefix import Prefixes
from fastlab.runtime.sampling import GREEDY, Sampling, after_eos, pick
from fastlab.spec.checks import check_choice, check_count
from fastlab.spec.engines import ENGINES
from fastlab.tracing.caches import cache_name, static_cache_reason

Forward = Callable[..., Tensor]
RUNTIMES = tuple(name for name, e in ENGINES.items() if "decode" in e.phases)


class Decoder:
    """Generates `batch` sequences of at most `max_len` positions on one static cache.

    runtime: one of spec/engines.py that decodes. unroll: steps in one call. A new
    prompt resets the position and compiles nothing. compile_s is what compiling (and
    capturing) took, None where nothing is compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: int = 1,
        max_len: int = 128,
        cache: str = "static",
        runtime: str = "decoder",
        unroll: int = 1,
        sampling: Sampling = GREEDY,
        attention: str = "sdpa",
    ) -> None:
        self.model, self.batch, self.max_len = model, batch, max_len
        self.config: Any = model.config
        self.runtime, self.unroll, self.sampling = runtime, unroll, sampling
        self.attention, self.asks = attention, asks_for_attention(model)
        self.compile_s: float | None = None
        self._check()
        with torch.inference_mode(), same_inputs(model) as groups:
            self.cache = StaticKV(model, batch, max_len, cache)
        self.place = self.cache.place
        self.device = self.place.token.device.type
        self.joins = Joins((), ())
        if ENGINES[runtime].compiled:
            self.joins = joins_of(model, groups, self.device)
        self._settled = False  # whether its steps look at the model no more
        self._prefill = self.forward_function()
        if attention == "flex":  # a kernel where it is compiled alone
            self.compile_prefill()
        self._make_call()

    @torch.inference_mode()
    def prefill(self, ids: Tensor, prefixes: Prefixes | None = None) -> Tensor:
        """Start anew with prompts ids (batch, n), which take the first token too.

        Keys and values of a prefix that `prefixes` holds are copied, not computed, and
        the prompt's own are kept there. Returns the last position's logits (batch, 1,
        vocab). ValueError for an empty prompt or one over max_len.
        """
        self._check_ids(ids)
        past = prefixes.restore(ids, self.cache) if prefixes is not None else 0
        logits = self.start(ids, past)
        if prefixes is not None:
            prefixes.keep(ids, self.cache)
        return logits

    @torch.inference_mode()
    def start(self, ids: Tensor, past: int = 0) -> Tensor:
        """The same where the cache holds the first `past` positions of ids already."""
        logits = self.forward(ids[:, past:], past, 1)
        place, n = self.place, ids.shape[1]
        place.past = None
        place.position.fill_(n)
        place.tokens[:, :n] = ids
        before = place.position - 1
        place.put(pick(logits[:, -1], self.sampling, before), before)
        return logits

    @torch.inference_mode()
    def forward(self, ids: Tensor, past: int, keep: int) -> Tensor:
        """Logits (batch, keep, vocab) of ids (batch, new) after `past` positions.

        keep = how many of the last positions, 0 = all of them. Fills the cache.
        """
        self.place.past = past
        rows = self.place.rows(ids.shape[1])
        with self.attending():
            logits: Tensor = self._prefill(ids, rows[None], keep)
        return logits

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Within it, the model attends as asked, and joined products are one."""
        with attention_of(self.model, self.attention, self.asks), self.joins:
            yield

    def compile_prefill(self, compile: Compiler = compiled) -> None:
        """From now on prefill runs compiled, anew for each length of prompt."""
        self._prefill = compile(self.forward_function(compiled=True), self.device)

    @torch.inference_mode()
    def advance(self) -> Tensor:
        """Take `unroll` steps; the last one's logits (batch, 1, vocab). Only queued."""
        with self.joins if self._settled else self.attending():
            logits: Tensor = self._call()
        return logits

    @torch.inference_mode()
    def rewind(self, position: int) -> None:
        """Go back to where `position` positions were cached and their next is known."""
        self.place.past = None
        self.place.position.fill_(position)
        self.place.token.copy_(self.place.tokens[:, position : position + 1])

    def generate(self, ids: Tensor, new_tokens: int, eos: Sequence[int] = ()) -> Tensor:
        """New tokens (batch, at most new_tokens) after prompts ids (batch, n).

        Ends early where every sequence has had one of `eos`, which is looked at every
        `unroll` tokens; without eos the host waits for nothing until the end.
        """
        return torch.cat(list(self.chunks(ids, new_tokens, eos)), dim=1)

    def chunks(
        self,
        ids: Tensor,
        new_tokens: int,
        eos: Sequence[int] = (),
        prefixes: Prefixes | None = None,
    ) -> Iterator[Tensor]:
        """The same in pieces (batch, k) on the device: the first token, then k each.

        After its first eos a sequence goes on with that eos.
        """
        self._check_ids(ids)
        check_count("new_tokens", new_tokens, high=self.max_len - ids.shape[1] + 1)
        self._check_longrope(ids.shape[1], new_tokens)
        self.logits = self.prefill(ids, prefixes)  # of the last step, to be looked at
        n, ended = ids.shape[1], None
        for start in (0, *range(1, new_tokens, self.unroll)):
            if start:
                self.logits = self.advance()
            stop = min(start + self.unroll, new_tokens) if start else 1
            piece = self.place.tokens[:, n + start : n + stop].clone()
            if eos:
                piece, ended = after_eos(piece, ended, eos)
                if bool((ended >= 0).all()):
                    last = int((piece == ended).int().argmax(dim=1).max())
                    yield piece[:, : last + 1]
                    return
            yield piece

    def _make_call(self) -> None:
        """Make what takes `unroll` steps, compiled and captured where asked for."""
        start = time.perf_counter()
        self._call = self._steps()
        if not ENGINES[self.runtime].compiled:
            return
        # From an empty cache; the prompt overwrites what this leaves behind.
        self.rewind(0)
        try:
            self._first()
        except TorchDynamoException as error:
            raise ValueError(
                f"runtime={self.runtime!r} takes a model that compiles to one graph: "
                f"{self.config.model_type} does not, {str(error).splitlines()[0]}"
            ) from error
        self._settled = ENGINES[self.runtime].unrolls
        self.rewind(0)
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.compile_s = time.perf_counter() - start

    def _first(self) -> None:
        """The step that compiles; layers by themselves where they cannot share code.

        Again where a start that was killed left half of it.
        """
        try:
            self.advance()
        except (TorchDynamoException, RuntimeError, AssertionError) as error:
            if not (forgotten(error) or self.joins.unshare()):
                raise
            self._call = self._steps()
            self.advance()

    def _steps(self) -> Step:
        from fastlab.runtime.engines import RUN  # which imports this module

        return RUN[self.runtime].steps(self)

    def forward_function(self, compiled: bool = False) -> Forward:
        """(ids, positions, keep) -> the last `keep` positions' logits.

        compiled: it is to be, and products of one row may take another way.
        """
        model, device, cache = self.model, self.device, self.cache
        held = {cache_name(model): cache, "use_cache": True}
        takes_positions = "position_ids" in signature(model.forward).parameters

        def forward(ids: Any, positions: Any, keep: int = 1) -> Tensor:
            cut_out = not compiled and keep and device == "cpu" and ids.shape[1] > 1
            together = rows_together(model) if cut_out else nullcontext()
            options: dict[str, Any] = {"logits_to_keep": keep, **held}
            if takes_positions:
                options["position_ids"] = positions
            if not self.asks:  # it may count positions by a mask of ones
                n = cache.get_mask_sizes(ids.shape[1], 0)[0]
                options["attention_mask"] = ids.new_ones(len(ids), n)
            with one_row(device) if compiled else together:
                out = model(ids, **options)
            logits: Tensor = out.logits
            return logits

        return forward

    def steps(self, forward: Forward, count: int) -> Step:
        """() -> logits (batch, 1, vocab) of the last of `count` steps."""
        place, sampling = self.place, self.sampling

        def steps() -> Tensor:
            for _ in range(count):
                logits = forward(place.token, place.rows(1)[None])
                place.put(pick(logits[:, -1], sampling, place.position), place.position)
                place.position.add_(1)
            return logits

        return steps

    def _check(self) -> None:
        check_choice("runtime", self.runtime, RUNTIMES)
        if reason := static_cache_reason(self.model):
            raise ValueError(reason)
        check_count("unroll", self.unroll, high=64)
        text = self.config.get_text_config(decoder=True)
        most = getattr(text, "max_position_embeddings", self.max_len)
        check_count("max_len", self.max_len, high=most)
        kernel = self.attention not in ("sdpa", "eager")
        if kernel and not (self.asks and self.model._supports_sdpa):
            raise ValueError(
                f"attention={self.attention!r} must be sdpa or eager: the attention of "
                f"{self.config.model_type} is in no kernel"
            )
        here = Here(next(self.model.parameters()).device.type)
        if reason := ENGINES[self.runtime].unsupported(here):
            raise ValueError(reason)

    def _check_longrope(self, n: int, new: int) -> None:
        """ValueError for a text during which keys would have to be computed anew."""
        text = self.config.get_text_config(decoder=True)
        rope: Any = getattr(text, "rope_parameters", None) or {}
        turn = rope.get("original_max_position_embeddings", 0)
        if rope.get("rope_type") == "longrope" and n <= turn < n + new - 1:
            raise ValueError(
                f"new_tokens={new} must be at most {turn - n + 1} after {n} tokens: "
                f"beyond {turn} positions longrope turns all keys another way"
            )

    def _check_ids(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.shape[0] != self.batch:
            raise ValueError(
                f"ids of shape {tuple(ids.shape)} must be ({self.batch}, n): "
                f"this decoder is made for batch={self.batch}, prompts of one length"
            )
        n = ids.shape[1]
        if not 1 <= n <= self.max_len:
            raise ValueError(
                f"a prompt of {n} tokens must have 1 to max_len={self.max_len}"
            )

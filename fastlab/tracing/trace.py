"""A transformers config -> its program: parameters, and what a call computes. Torch.

The model is built on the meta device, where nothing is allocated or computed, and runs
at a few sizes that tell batch, new and past positions apart.
"""

from __future__ import annotations

import copy
import inspect
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from fastlab.tracing.alike import once_each
from fastlab.tracing.alive import cached_terms, held, lists_of, live_terms
from fastlab.tracing.build import operations_of
from fastlab.tracing.caches import cache_name, static_cache_reason
from fastlab.tracing.configs import padded, text_config
from fastlab.tracing.sizes import Fitter, candidates, symbols
from fastlab.tracing.watch import COUNTED, Part, Watch
from fastlab.tracing.weights import Reads, described, expert_sizes, stacks_of

# (batch, new, past, scored) of the passes, and of those over states that start empty
PREFILLS = ((2, 11, 23, 3), (3, 13, 7, 5), (5, 17, 41, 7), (2, 29, 59, 11))
DECODES = tuple((b, 1, past + new, 1) for b, new, past, _ in PREFILLS)
LOOPED = ((2, 5, 0, 3), (3, 13, 0, 5), (5, 17, 0, 7), (2, 23, 0, 11))
# batch, whole chunks, and more
FRESH = ((2, 1, 6), (3, 2, 73), (5, 3, 138), (2, 5, 13))
WIDTHS = {4: torch.float32, 2: torch.bfloat16}
TABLES = ("position_embeddings", "positions", "max_seq_len", "n_ctx")  # lengths of
CHUNK = 64  # positions that linear attention takes at a time, where no config says


class Sizes(NamedTuple):
    """Of one pass: sequences, new and cached positions, those scored, those encoded."""

    batch: int
    new: int
    past: int
    scored: int
    source: int = 0


def trace(config: Any, model_class: Any, kind: str) -> dict[str, Any]:
    """The program of a config: plain JSON, which cost/program.py evaluates.

    Raises ValueError where the model cannot be built or run on the meta device.
    """
    config, stored = _countable(config), getattr(config, "quantization_config", None)
    longer = _longer(config, kind)
    changed = longer.to_dict() != config.to_dict()
    program: dict[str, Any] = {
        "transformers": transformers.__version__,
        "class": model_class.__name__,
        "sdpa": bool(model_class._supports_sdpa),
        "monomials": [],
        "calls": {},
        "faults": {},
        "bytes": {},
        "approximate": "",
    }
    for width, dtype in WIDTHS.items():
        model = _built(longer, model_class, dtype)
        true = _built(config, model_class, dtype) if changed else model
        size = sum(weight.nbytes for weight in true.parameters())
        program["bytes"][str(width)] = size  # some stay fp32 in a 16-bit model
        program["static"] = static_cache_reason(model) or ""
        tracer = Tracer(model, kind, program["monomials"])
        try:
            program["calls"][str(width)] = tracer.calls()
        except Exception as error:  # whatever a model's own code raises
            words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            why = f"does not run in {str(dtype)[6:]} on the meta device: {words}"
            if "contain LinearAttention" in words:
                count = text_config(config).num_hidden_layers
                why = f"needs a layer that attends: none of its {count} layers does"
            program["faults"][str(width)] = f"{model_class.__name__} {why}"
        if tracer.guessed:
            program["approximate"] = "FLOPs of states follow no product of sizes"
    if not program["calls"]:
        raise ValueError(program["faults"]["2"])
    return program | described(true, tracer.reads, stored)


def _built(config: Any, model_class: Any, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        return model_class._from_config(copy.deepcopy(config), dtype=dtype).eval()


def _longer(config: Any, kind: str) -> Any:
    """A copy with room for the positions that passes take."""
    config = copy.deepcopy(config)
    text = text_config(config)
    windows, chunks = _lengths(text)
    most = max([6 * chunks[-1], *(w + 68 for w in windows)])
    need = 40 if kind == "encoder" else most
    for name, value in list(vars(text).items()):
        if name.endswith(TABLES) and isinstance(value, int) and 0 < value < need:
            setattr(text, name, need)
    return config


def _countable(config: Any) -> Any:
    """A copy whose model runs on the meta device: RoPE that looks at positions, fixed.

    A classifier looks for the end of each sequence by its padding: it gets a token.
    """
    config = padded(copy.deepcopy(config))
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for part in {id(c): c for c in (config, text_config(config))}.values():
        rope = getattr(part, "rope_parameters", None)
        for told in [rope, *rope.values()] if isinstance(rope, dict) else []:
            if isinstance(told, dict) and told.get("rope_type") in (
                "dynamic",
                "longrope",
            ):
                told["rope_type"] = "default"
    return config


class Tracer:
    """One model on the meta device, and the passes over it."""

    def __init__(self, model: Any, kind: str, monomials: list[str]) -> None:
        self.model, self.kind, self.monomials = model, kind, monomials
        self.running: list[Watch] = []
        self.guessed, self.keeps = False, cache_name(model)
        self.reads: Reads = set()
        self.caches: dict[tuple[int, int], Any] = {}  # by sequences and positions
        self.options = set(inspect.signature(model.forward).parameters)
        self.windows, self.chunks = _lengths(text_config(model.config))
        for part in (model.config, text_config(model.config)):
            part._experts_implementation_internal = "grouped_mm"  # others ask values
        _count_experts(model, self.running)

    def calls(self) -> dict[str, Any]:
        """What is computed, alive and cached: {phase: {parts, live, cache}}."""
        with torch.no_grad(), once_each(self.model, self.running):
            whole = [(b, n, 0, n) for b, n, *_ in PREFILLS]
            states = self._tried()
            if self.kind == "encoder" or not self.keeps:
                return {"prefill": self._phase(whole)}
            if self.kind == "encoder-decoder":
                steps = [(*one, one[2] + 2 * i + 5) for i, one in enumerate(DECODES)]
                return {"prefill": self._phase(whole), "decode": self._phase(steps)}
            # windows below what the passes see want a short one, others a long one
            far = [(3, 1) if w < 24 else (31, w + 37) for w in self.windows]
            chunk = self.chunks[-1]
            chunked = [(b, k * chunk + more, 0, b + 1) for b, k, more in FRESH]
            fresh = LOOPED if states and self._loops() else chunked
            more = [(2, n, p, 2) for n, p in far]
            prefills = fresh if states else (*PREFILLS, *more)
            decodes = (*DECODES, *((2, 1, p + n * (not states), 1) for n, p in far))
            return {"prefill": self._phase(prefills), "decode": self._phase(decodes)}

    def _phase(self, sizes: Any) -> dict[str, Any]:
        passes = [self._pass(Sizes(*one)) for one in sizes]
        watches = [watch for _, watch, _ in passes]
        known = [symbols(*one) for one in sizes]
        fitter = Fitter(known, candidates(self.windows, self.chunks), self.monomials)
        phase = {
            "parts": operations_of([p for p, _, _ in passes], fitter),
            "live": live_terms(watches, fitter, eager=False),
            "eager": live_terms(watches, fitter, eager=True),
            "cache": cached_terms([cache for _, _, cache in passes], fitter),
        }
        self.guessed |= fitter.guessed
        return phase

    def _tried(self) -> bool:
        """Whether the model keeps states that are no keys and values of positions.

        Models that want a mask, or attend by code of their own, do so as they do.
        """
        own = ("sdpa", "eager") if self.model._supports_sdpa else ("eager", "sdpa")
        for Watch.truth, implementation in product((True, False), (COUNTED, *own)):
            self.model.config._attn_implementation = implementation
            try:
                parts, _, cache = self._watched(Sizes(2, 8, 0, 8), None)
            except (TypeError, KeyError, AttributeError, NotImplementedError) as error:
                fault = error
                self.running.clear()
                continue
            layers = getattr(cache, "layers", [])
            linear = ["Linear" in type(one).__name__ for one in layers]
            asks = any(e.name == "attention" for part in parts for e in part.events)
            attends = asks or (linear and all(linear))  # there is none to watch
            if implementation == COUNTED and not attends:
                continue
            return any(linear) or len(lists_of(cache)) > 1
        raise fault

    def _loops(self) -> bool:
        """Whether longer prompts take more kernels, position by position."""
        counts = [self._watched(Sizes(1, n, 0, 1), None)[1].count for n in (4, 8)]
        return counts[0] != counts[1]

    def _pass(self, s: Sizes) -> tuple[list[Part], Watch, list[Any]]:
        """The parts of one pass, its watch, and the bytes that its cache then holds."""
        cache = self.caches.pop((s.batch, s.past), None)  # as the last pass left it
        if s.past and cache is None:
            before = s._replace(new=s.past, past=0, scored=1)
            _, _, cache = self._watched(before, None)
        parts, watch, cache = self._watched(s, cache)
        self.caches[s.batch, s.past + s.new] = cache
        return parts, watch, held(cache, watch)

    def _watched(self, s: Sizes, cache: Any) -> tuple[list[Part], Watch, Any]:
        watch = Watch(self.model)
        self.running.append(watch)
        with watch.on():
            cache = self._run(s, cache)
        self.running.pop()
        self.reads |= watch.read()
        return [part for part in watch.parts if part.events], watch, cache

    def _run(self, s: Sizes, cache: Any) -> Any:
        ids = torch.zeros(s.batch, s.new, dtype=torch.long, device="meta")
        if self.kind == "encoder-decoder" and not s.source:
            self.model.get_encoder()(ids)
            return None
        given: dict[str, Any] = {"input_ids": ids}
        if self.kind == "encoder":
            self.model(**given)
            return None
        if s.source:
            width = self.model.get_encoder().config.get_text_config().hidden_size
            seen = self.model.get_input_embeddings().weight.new_empty
            read = BaseModelOutput(seen(s.batch, s.source, width))
            given = {"encoder_outputs": read, "decoder_input_ids": ids}
        if self.keeps:
            given |= {self.keeps: cache, "use_cache": True}
        if "logits_to_keep" in self.options:
            given["logits_to_keep"] = s.scored
        kept = self.model(**given).get(self.keeps)
        self.keeps = "" if kept is None else self.keeps  # it takes one, and gives none
        return kept


def _lengths(config: Any) -> tuple[list[int], list[int]]:
    """Windows and chunks that a config names."""
    windows, chunks = set(), {CHUNK}
    for name, value in vars(config).items():
        which = name.endswith(("_pattern", "_layers"))  # layers, not how far they see
        if type(value) is int and value > 1 and not which:
            if "window" in name or name == "attention_chunk_size":
                windows.add(value)
            elif "chunk" in name or name == "block_size":
                chunks.add(value)
    return sorted(windows), sorted(chunks)


def _count_experts(model: nn.Module, running: list[Watch]) -> None:
    """Let modules that hold experts note how many tokens they are given."""
    for module in model.modules():
        wanted = len(inspect.signature(module.forward).parameters) >= 3
        named = wanted and "xperts" in type(module).__name__
        if named and (stacks := _stacked(module)):
            sizes = tuple(expert_sizes(module, p) for p in stacks)
            run = module.forward if stacks_of(module) else None
            module.forward = _noting(run, sizes, len(stacks[0]), running)


def _stacked(module: nn.Module) -> list[Tensor]:
    """Matrices of experts (experts, ., .): DBRX keeps them below each other."""
    own: list[Tensor] = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    count, inner = getattr(module, "num_experts", 0), [*module.children()][:1]
    below = [p for one in inner for p in one.parameters(recurse=False) if p.dim() == 2]
    return own or [p.unflatten(0, (count, -1)) for p in below if count]


def _noting(run: Any, sizes: Any, experts: int, running: list[Watch]) -> Any:
    """run: the experts' own forward pass, None where it goes by what tokens hold."""

    def forward(hidden: Tensor, index: Tensor, *more: Any, **kw: Any) -> Tensor:
        facts, made = (index.shape[-1], experts, sizes), partial(torch.clone, hidden)
        if run is not None:
            made = partial(run, hidden, index, *more, **kw)
        return running[-1].whole("experts", made, [hidden, index], *facts)

    return forward

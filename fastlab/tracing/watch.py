"""Watch: every kernel of a forward pass on the meta device, with the sizes it sees.

What the cost model counts as one operation (attention, experts, the KV cache) is one
event here too; all else is as the dispatcher sees it. Nothing is computed.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from fastlab.tracing.weights import is_linear, layers_of

COUNTED = "fastlab-counted"  # the attention implementation while a model is watched
FREE = ("empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "detach")


class Seen(NamedTuple):
    """A tensor as an event saw it: its distinct elements, and whose memory it is."""

    shape: tuple[int, ...]
    elements: int
    itemsize: int
    storage: int
    weight: str  # the parameter's name, "" for activations
    transposed: bool = False


class Event(NamedTuple):
    """One kernel, or one operation of the cost model, in module `where`."""

    where: str
    name: str
    reads: tuple[Seen, ...]
    writes: tuple[Seen, ...]
    facts: tuple[Any, ...] = ()


class Part:
    """The events of one call of a layer, or of what lies between; calls: how often."""

    def __init__(self, layer: str) -> None:
        self.layer, self.calls, self.events = layer, 1, list[Event]()


class Watch(TorchDispatchMode):
    """While it is on, `parts` grows with what `model` does.

    truth: what a condition on tensors without values is.
    """

    truth = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.quiet = model, False
        self.names = {id(module): name for name, module in model.named_modules()}
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.weights = {_storage(weight): name for name, weight in tensors}
        linears = [m for m in model.modules() if is_linear(m)]
        self.linears = {_storage(w) for m in linears for w in m.parameters()}
        self.stack: list[str] = []
        self.layers = set(layers_of(model))
        self.parts: list[Part] = []
        self.born: dict[int, int] = {}  # storage alive -> its number in `lives`
        # [event, event after the last, bytes, whether only eager attention holds it]
        self.lives: list[list[int]] = []
        self.count, self.inside = 0, ""
        self.keepers: dict[int, Part] = {}  # who filled each layer of the cache

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name == "_local_scalar_dense" and args[0].is_meta:  # it has no values
            return self.truth if args[0].dtype == torch.bool else 1
        out = func(*args, **(kwargs or {}))
        if self.quiet:
            return out
        reads = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        writes = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        known = {_storage(x) for x in reads}
        made = [x for x in writes if _storage(x) not in known]
        if name in FREE or not (made or (writes and func._schema.is_mutable)):
            self._lives(made)
            return out
        if self.inside:
            self._lives(made)
            self.count += 1
            return out
        weights = {s for s in map(_storage, reads) if s in self.weights}
        self.note(name.rstrip("_"), reads, writes, weights <= self.linears)
        return out

    def note(self, name: str, reads: Any, writes: Any, *facts: Any) -> None:
        """One event in the module that runs now."""
        where = self.stack[-1] if self.stack else ""
        self._lives(x for x in writes if _storage(x) not in map(_storage, reads))
        seen = tuple(map(self._seen, reads)), tuple(map(self._seen, writes))
        if not self.parts:
            self.parts.append(Part(""))
        self.parts[-1].events.append(Event(where, name, *seen, facts))
        self.count += 1

    def _seen(self, x: Tensor) -> Seen:
        strides = zip(x.shape, x.stride(), strict=True)
        elements = 1
        for size, stride in strides:
            elements *= size if stride or size == 0 else 1
        turned = x.dim() > 1 and x.stride(-1) != 1 and x.shape[-1] > 1
        storage = _storage(x)
        number = self.born.get(storage, -1)
        weight = self.weights.get(storage, "")
        return Seen(tuple(x.shape), elements, x.element_size(), number, weight, turned)

    def _lives(self, writes: Any) -> None:
        for x in writes:
            key = _storage(x)
            if key in self.born or key in self.weights:
                continue
            self.born[key] = len(self.lives)
            size = x.untyped_storage().nbytes()
            self.lives.append([self.count, -1, size, self.inside == "attention"])
            weakref.finalize(x.untyped_storage(), self._dies, key)

    def _dies(self, key: int) -> None:
        self.lives[self.born.pop(key)][1] = self.count

    def whole(
        self, name: str, run: Any, inputs: Any, *facts: Any, fused: bool = True
    ) -> Any:
        """What `run` gives, as one event; what it holds meanwhile is alive as well.

        fused: but not in fused kernels, where it is attention.
        """
        self.inside = name if fused else "math"
        try:
            made = run()
        finally:
            self.inside = ""
        out = made[0] if isinstance(made, tuple) else made
        self.lives[self.born[_storage(out)]][3] = False
        self.note(name, inputs, [out], *facts)
        return made

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within it, forward passes of the model are watched."""
        before = nn.modules.module.register_module_forward_pre_hook(self._enters)
        after = nn.modules.module.register_module_forward_hook(
            self._leaves, always_call=True
        )
        update = Cache.update

        def cached(
            cache: Any, keys: Tensor, values: Tensor, layer: int, *more: Any, **kw: Any
        ) -> Any:
            self.quiet = True
            try:
                out = update(cache, keys, values, layer, *more, **kw)
            finally:
                self.quiet = False
            window = getattr(cache.layers[layer], "sliding_window", 0) or 0
            self.note("cache", [keys, values], [], window)
            self.keepers[layer] = self.parts[-1]
            return out

        sdpa = functional.scaled_dot_product_attention

        def attended(q: Tensor, k: Tensor, v: Tensor, *more: Any, **kw: Any) -> Tensor:
            run = partial(sdpa, q, k, v, *more, **kw)
            # no fused kernel hands one key to several heads unasked
            fused = q.shape[1] == k.shape[1] or bool(kw.get("enable_gqa"))
            return self.whole("attention", run, [q, k, v], True, 0, fused=fused)

        def grouped(x: Tensor, weight: Tensor, **_: Any) -> Tensor:
            return x.new_empty(len(x), weight.shape[-1])

        with ExitStack() as held:
            held.callback(before.remove)
            held.callback(after.remove)
            held.enter_context(patch.object(Cache, "update", cached))
            held.enter_context(patch.object(functional, sdpa.__name__, attended))
            held.enter_context(patch.object(functional, "grouped_mm", grouped))
            held.enter_context(self)
            yield

    def _enters(self, module: nn.Module, _: Any) -> None:
        name = self.names.get(id(module), "")
        if name in self.layers:
            self.parts.append(Part(name))
        self.stack.append(name)

    def _leaves(self, module: nn.Module, *_: Any) -> None:
        if self.stack.pop() in self.layers:
            self.parts.append(Part(""))

    def read(self) -> set[tuple[str, str]]:
        """(module, parameter) of all that kernels read in a module."""
        events = [event for part in self.parts for event in part.events]
        return {(e.where, x.weight) for e in events for x in e.reads if x.weight}

    def again(self, layer: str) -> bool:
        """Another layer did as `layer` did last; False where that was not entered."""
        for part in reversed(self.parts):
            if part.layer == layer:
                self.parts.pop()  # what began when this one was entered
                part.calls += 1
                return True
        return False


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def counted(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *more: Any, **kw: Any
) -> Any:
    """Eager attention, noted as one: (batch, heads, new, d) -> (batch, new, heads, dv).

    Returns that and the scores, which some layers hold until they end.
    """
    inputs, home = [query, key, value], sys.modules[type(module).__module__]
    run = partial(home.eager_attention_forward, module, *inputs, *more, **kw)
    causal = kw.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    facts = bool(causal), kw.get("sliding_window") or 0
    for watch in _get_current_dispatch_mode_stack():
        if isinstance(watch, Watch):
            return watch.whole("attention", run, inputs, *facts)
    return run()


AttentionInterface.register(COUNTED, counted)

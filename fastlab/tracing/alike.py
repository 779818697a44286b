"""Layers that do the same: one of them runs in a pass, and counts for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastlab.tracing.configs import text_config
from fastlab.tracing.watch import Watch
from fastlab.tracing.weights import layers_of


@contextmanager
def once_each(model: nn.Module, running: list[Watch]) -> Iterator[None]:
    """Within it, one of all layers alike runs in a pass; the others give its output.

    Where that is more than a tensor two run: models may hold the one's meanwhile.
    """
    first: dict[Any, str] = {}
    outputs: dict[str, Any] = {}
    twice: set[str] = set()
    changed: list[Any] = []

    def keeping(name: str, run: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            outputs[name] = run(*args, **kwargs)
            twice.discard(name)
            return outputs[name]

        return forward

    def giving(name: str, run: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            more = isinstance(outputs.get(name), tuple) and name not in twice
            if more or name not in outputs:
                twice.add(name)
                return run(*args, **kwargs)
            if running and not running[-1].again(name):
                return run(*args, **kwargs)
            return outputs[name]

        return forward

    for name in sorted(layers_of(model), key=number_of):
        layer = model.get_submodule(name)
        like = first.setdefault(_signature(name, layer, model), name)
        wrap = keeping if like == name else giving
        layer.forward = wrap(like, layer.forward)
        changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def number_of(name: str) -> tuple[str, int]:
    """The list that a layer is in, and its number there."""
    stem, _, index = name.rpartition(".")
    return stem, int(index)


def _signature(name: str, layer: nn.Module, model: Any) -> Any:
    """What a layer does is told by its class, sizes and settings; not by its number."""
    stem, index = number_of(name)
    count = len(model.get_submodule(stem))
    told = [
        (key, value[index])
        for key, value in sorted(vars(text_config(model.config)).items())
        if isinstance(value, list) and len(value) == count and not _numbers(key)
    ]
    weights = [(n, tuple(p.shape)) for n, p in layer.named_parameters()]
    plain = [
        (inner, key, value)
        for inner, module in layer.named_modules()
        for key, value in sorted(vars(module).items())
        if isinstance(value, (int, float, str, bool, type(None))) and not _numbers(key)
    ]
    return stem, type(layer), repr((told, weights, plain))


def _numbers(name: str) -> bool:
    """Whether an attribute says which layer this is, not what it does."""
    return any(word in name for word in ("idx", "index", "layer_id", "number"))

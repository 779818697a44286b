"""Layers that see a window: what their caches hold and read, beside transformers'."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers.cache_utils import Cache, StaticCache

from fastlab.cost.memory import kv_cache_bytes
from fastlab.cost.operations import operations
from fastlab.runtime.cache import StaticKV
from fastlab.spec import ModelShape, Point, Recipe, Workload
from tests.runtime.families import small_model
from tests.small import token_rows

KINDS = ("mistral", "gemma2", "gemma3_text", "gpt_oss", "llama4_text", "qwen2")
WINDOW = 8


def asked(model: Any, phase: str, length: int, new: Any = None, **recipe: Any) -> Point:
    shape = ModelShape.from_config(model.config)
    return Point(shape, Workload(phase, 2, length, new), Recipe("fp32", **recipe))


def moved(point: Point, field: str, *names: str) -> int:
    """Bytes of keys and values that the operations of such names move."""
    made = [op for op in operations(point) if op.name in names]
    return sum(op.times * getattr(op, field) for op in made)


def held(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [5, WINDOW - 1, WINDOW, 67])
@torch.no_grad()
def test_a_step_moves_what_a_dynamic_cache_does(kind: str, length: int) -> None:
    """Each layer copies what it kept and the new row; attention reads that copy."""
    model, ids = small_model(kind), token_rows(2, length)
    update, seen = Cache.update, []

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(update(*args, **kwargs))
        return seen[-1]

    cache = model(ids, use_cache=True).past_key_values
    before = held(cache)
    with patch.object(Cache, "update", noting):
        model(ids[:, :1], past_key_values=cache, use_cache=True)
    copied = sum(x.nbytes for both in seen for x in both)
    step = asked(model, "decode", length)
    assert moved(step, "kv_read_bytes", "cache") == before
    assert moved(step, "kv_write_bytes", "cache") == copied
    assert moved(step, "kv_read_bytes", "attention") == copied
    assert kv_cache_bytes(step) == held(cache)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt_oss"])
def test_static_caches_hold_and_read_what_is_said(kind: str) -> None:
    """transformers' the window, where a layer has one; ours all rows, under a mask."""
    model, ids, made = small_model(kind), token_rows(2, 24), []
    init = StaticCache.__init__

    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        init(self, *args, **kwargs)

    how = {"cache_implementation": "static", "disable_compile": True}
    with patch.object(StaticCache, "__init__", noting):
        model.generate(ids, max_new_tokens=9, min_new_tokens=9, **how)
    theirs = {"cache": "static", "runtime": "transformers"}
    first, whole = (asked(model, "generate", 24, new, **theirs) for new in (1, 9))
    reads = ("kv_read_bytes", "attention", "attention.repeat")
    assert kv_cache_bytes(whole) == held(made[-1])
    assert moved(whole, *reads) - moved(first, *reads) == 8 * held(made[-1])
    ours = asked(model, "decode", 24, cache="static")
    own = StaticKV(model, 2, 25).nbytes
    assert kv_cache_bytes(ours) == moved(ours, *reads) == own

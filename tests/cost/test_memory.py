"""Peak memory against tensors alive on the meta device; KV cache against real ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fastlab.clock.peak import peak_bytes as counted_peak
from fastlab.cost.memory import kv_cache_bytes, largest_batch, parameters, peak_bytes
from fastlab.models import build, cache_name, numerics, prepare
from fastlab.runtime.cache import static_cache
from fastlab.runtime.engines import prepare as prepare_any
from fastlab.spec import Point, point_of

CALLS: list[dict[str, Any]] = [
    {"phase": "prefill"},
    {"phase": "prefill", "logits": "last"},
    {"phase": "decode"},
    {"phase": "generate", "new_tokens": 3},
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("batch", "prompt_len"), [(1, 128), (8, 512)])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "bert"])
def test_peak_within_fifteen_percent(
    family: str, call: dict, batch: int, prompt_len: int, attention: str, precision: str
) -> None:
    if family == "bert" and call != {"phase": "prefill"}:
        pytest.skip("bert has one call only")
    sizes = {"layers": 3, "hidden": 512, "vocab": 8000, "max_positions": 1024}
    sizes |= {"kv_heads": 2} if family in ("llama", "qwen3") else {}
    how = {"attention": attention, "precision": precision, "batch": batch}
    point = point_of(family=family, prompt_len=prompt_len, **sizes, **how, **call)
    model = build(point, "meta")
    with numerics(precision):
        alive, _ = counted_peak(model, prepare(model, point, "meta"), "meta")
    assert peak_bytes(point) == pytest.approx(alive, rel=0.15)


def test_kv_cache_equals_the_tensors() -> None:
    point = point_of(model="tiny-qwen3", batch=3, prompt_len=9)
    built = build(point)
    out = built(prepare(built, point).ids, use_cache=True)
    layers = out[cache_name(built)].layers
    held = sum(t.nbytes for layer in layers for t in (layer.keys, layer.values))
    assert kv_cache_bytes(point) == held == 2 * 2 * 3 * 9 * 2 * 32 * 4


@pytest.mark.parametrize("cache", ["static", "static-int8", "static-fp8"])
@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-llama", "tiny-qwen3"])
def test_a_static_cache_is_as_large_as_it_is_allocated(model: str, cache: str) -> None:
    for precision in ("fp32", "bf16"):
        how = {"cache": cache, "precision": precision, "batch": 3}
        point = point_of(model=model, phase="decode", prompt_len=130, **how)
        held = static_cache(build(point, "meta"), 3, 131, cache).nbytes
        assert kv_cache_bytes(point) == held


def test_packed_keys_and_values_halve_the_cache() -> None:
    """llama-3.1-8b, bf16, 8,192 rows: 1 GiB, or 132 of 256 bytes of it."""
    how = {"model": "llama-3.1-8b", "phase": "decode", "precision": "bf16"}
    plain, packed = (
        kv_cache_bytes(point_of(**how, cache=cache, prompt_len=8000))
        for cache in ("static", "static-int8")
    )
    assert plain == 2**30
    assert packed * 256 == plain * 132


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", ["static", "static-int8"])
@pytest.mark.parametrize("call", [{"phase": "prefill"}, {"phase": "decode"}])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_peak_with_a_static_cache(
    family: str, call: dict, cache: str, attention: str
) -> None:
    sizes = {"layers": 3, "hidden": 512, "vocab": 8000, "max_positions": 1024}
    sizes |= {"kv_heads": 2} if family in ("llama", "qwen3") else {}
    how = {"attention": attention, "precision": "bf16", "batch": 8, "cache": cache}
    point = point_of(family=family, prompt_len=500, **sizes, **how, **call)
    model = build(point, "meta")
    with numerics("bf16"):
        call = prepare_any(model, point, "meta")
        alive, _ = counted_peak(model, call, "meta")
    assert peak_bytes(point) == pytest.approx(alive, rel=0.15)


def test_no_cache_holds_nothing() -> None:
    assert kv_cache_bytes(point_of(model="tiny-llama", cache="none")) == 0


def test_an_8b_model_in_bf16_takes_its_16_gigabytes() -> None:
    point = point_of(model="llama-3.1-8b", phase="decode", precision="bf16")
    weights = 2 * parameters(point.shape)
    assert weights == 16_060_522_496
    assert weights < peak_bytes(point) < 1.02 * weights


def with_batch(point: Point, batch: int) -> Point:
    return replace(point, workload=replace(point.workload, batch=batch))


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    point = point_of(
        model="llama-3.2-1b", phase="decode", prompt_len=4096, precision="bf16"
    )
    memory = 16 * 2**30
    batch = largest_batch(point, memory, reserve=0.0)
    assert peak_bytes(with_batch(point, batch)) <= memory
    assert peak_bytes(with_batch(point, batch + 1)) > memory


def test_a_model_that_does_not_fit_at_all() -> None:
    assert largest_batch(point_of(model="llama-3.1-8b"), 8 * 2**30) == 0

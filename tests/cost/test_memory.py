"""Peak memory against tensors alive on the meta device; KV cache against real ones."""

from dataclasses import replace
from typing import Any

import pytest

from fastlab.clock.peak import peak_bytes as counted_peak
from fastlab.cost.memory import kv_cache_bytes, largest_batch, parameters, peak_bytes
from fastlab.cost.passes import passes
from fastlab.models import build, numerics
from fastlab.runtime.cache import StaticKV
from fastlab.runtime.engines import prepare
from fastlab.spec import Point, point_of
from fastlab.tracing.caches import cache_name

PREFILL, DECODE = {"phase": "prefill"}, {"phase": "decode"}
GROWN: list[dict[str, Any]] = [PREFILL, {"phase": "prefill", "logits": "last"}, DECODE]
GROWN.append({"phase": "generate", "new_tokens": 3})
SMALL, LARGE = {"batch": 1, "prompt_len": 128}, {"batch": 8, "prompt_len": 512}
CASES = [
    (family, call | size | {"precision": precision})
    for family in ("gpt2", "llama", "qwen3", "bert")
    for call in (GROWN if family != "bert" else [PREFILL])
    for size in (SMALL, LARGE)
    for precision in ("fp32", "bf16")
]
CASES += [
    (
        family,
        call | {"cache": cache, "batch": 8, "prompt_len": 500, "precision": "bf16"},
    )
    for family in ("gpt2", "llama", "qwen3")
    for call in (PREFILL, DECODE)
    for cache in ("static", "static-int8")
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "how"), CASES)
def test_peak_within_fifteen_percent(family, how, attention):
    sizes = {"layers": 3, "hidden": 512, "vocab": 8000, "max_positions": 1024}
    sizes |= {"kv_heads": 2} if family in ("llama", "qwen3") else {}
    point = point_of(family=family, attention=attention, **sizes, **how)
    model = build(point, "meta")
    with numerics(point.recipe.precision):
        alive, _ = counted_peak(model, prepare(model, point, "meta"), "meta")
    assert peak_bytes(point) == pytest.approx(alive, rel=0.15)


@pytest.mark.parametrize(
    ("model", "precision"),
    [("qwen3", "fp32"), ("gpt2", "autocast-bf16"), ("llama", "autocast-bf16")],
)
def test_kv_cache_equals_the_tensors(model, precision):
    how = {"precision": precision, "batch": 3, "prompt_len": 9}
    point = point_of(model=f"tiny-{model}", **how)
    built = build(point)
    with numerics(precision):
        out = built(prepare(built, point).ids, use_cache=True)
    layers = out[cache_name(built)].layers
    held = sum(t.nbytes for layer in layers for t in (layer.keys, layer.values))
    assert kv_cache_bytes(point) == held
    if model == "qwen3":
        assert held == 2 * 2 * 3 * 9 * 2 * 32 * 4
    assert kv_cache_bytes(point_of(model=f"tiny-{model}", cache="none")) == 0


@pytest.mark.parametrize("cache", ["static", "static-int8", "static-fp8"])
@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-llama", "tiny-qwen3"])
def test_a_static_cache_is_as_large_as_it_is_allocated(model, cache):
    for precision in ("fp32", "bf16"):
        how = {"cache": cache, "precision": precision, "batch": 3}
        point = point_of(model=model, phase="decode", prompt_len=130, **how)
        held = StaticKV(build(point, "meta"), 3, 131, cache).nbytes
        assert kv_cache_bytes(point) == held


def test_packed_keys_and_values_halve_the_cache():
    """llama-3.1-8b, bf16, 8,192 rows: 1 GiB, or 132 of 256 bytes of it."""
    how = {"model": "llama-3.1-8b", "phase": "decode", "precision": "bf16"}
    plain, packed = (
        kv_cache_bytes(point_of(**how, cache=cache, prompt_len=8000))
        for cache in ("static", "static-int8")
    )
    assert plain == 2**30
    assert packed * 256 == plain * 132


def test_an_8b_model_in_bf16_takes_its_16_gigabytes():
    point = point_of(model="llama-3.1-8b", phase="decode", precision="bf16")
    weights = 2 * parameters(point.shape)
    assert weights == 16_060_522_496
    assert weights < peak_bytes(point) < 1.02 * weights
    assert largest_batch(point, 8 * 2**30) == 0


def test_the_largest_batch_fits_and_the_next_does_not():
    how = {"phase": "decode", "prompt_len": 4096, "precision": "bf16"}
    point = point_of(model="llama-3.2-1b", **how)

    def with_batch(batch: int) -> Point:
        return replace(point, workload=replace(point.workload, batch=batch))

    batch = largest_batch(point, 16 * 2**30, reserve=0.0)
    assert (
        peak_bytes(with_batch(batch)) <= 16 * 2**30 < peak_bytes(with_batch(batch + 1))
    )


def test_the_fullest_decode_step_is_the_first_or_the_last():
    call = {"phase": "generate", "prompt_len": 5, "new_tokens": 6, "layers": 2}
    for cache in ("dynamic", "none", "static"):
        point = point_of(hidden=64, cache=cache, **call)
        every, ends = passes(point), passes(point, ends=True)
        assert len(every) == 6
        assert [ends[0], ends[1], ends[-1]] == [every[0], every[1], every[-1]]
    assert len(passes(point_of(hidden=64, **call), ends=True)) == 3

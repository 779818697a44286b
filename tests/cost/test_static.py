"""Static caches and prefixes: FLOPs and launches against torch, bytes by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastlab.cost.operations import operations
from fastlab.cost.passes import passes
from fastlab.latency.costs import costs_of
from fastlab.models import build, numerics
from fastlab.runtime.engines import prepare
from fastlab.spec import Point, point_of
from tests.cost.test_operations import Kernels, total

DECODERS = ("tiny-gpt2", "tiny-llama", "tiny-qwen3")
CALLS: list[dict[str, Any]] = [
    {"phase": "prefill"},
    {"phase": "prefill", "logits": "last", "prefix_len": 5},
    {"phase": "decode"},
    {"phase": "generate", "new_tokens": 4},
]


def run(point: Point, mode: Any) -> Any:
    """The mode, after it watched the call on meta tensors."""
    with torch.inference_mode():
        call = prepare(build(point, "meta"), point, "meta")
    with numerics("fp32"), mode:
        call.run()
    return mode


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", ["static", "static-int8"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", DECODERS)
def test_flops_of_static_caches_equal_torchs(
    model: str, call: dict, cache: str, attention: str
) -> None:
    how = {"cache": cache, "attention": attention, "batch": 2}
    point = point_of(model=model, prompt_len=13, **how, **call)
    counted = run(point, FlopCounterMode(display=False)).get_total_flops()
    assert total(point) == counted


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", ["static", "static-int8"])
@pytest.mark.parametrize("call", CALLS[:3])
@pytest.mark.parametrize("model", DECODERS)
def test_launches_of_static_caches_are_those_that_torch_dispatches(
    model: str, call: dict, cache: str, attention: str
) -> None:
    """Within 0.12 for twelve layers: casts are kernels too, and the mode skips them."""
    how = {"cache": cache, "attention": attention, "layers": 12}
    point = point_of(model=model, prompt_len=13, **how, **call)
    assert total(point, "launches") == pytest.approx(
        run(point, Kernels()).count, rel=0.12
    )


def named(point: Point) -> dict[str, Any]:
    return {op.name: op for op in operations(point)}


def test_a_static_step_writes_its_row_and_reads_the_whole_cache() -> None:
    """llama-3.1-8b, bf16: 4,096 bytes a position and layer; 1,001 fill 1,024 rows."""
    point = point_of(
        model="llama-3.1-8b",
        phase="decode",
        prompt_len=1000,
        precision="bf16",
        cache="static",
    )
    ops, row = named(point), 2 * 8 * 128 * 2
    assert ops["cache"].kv_write_bytes == row
    assert ops["cache"].kv_read_bytes == 0
    assert ops["attention"].kv_read_bytes == 1024 * row
    assert (
        ops["attention"].flops == ops["attention"].flops_causal == 4 * 32 * 128 * 1024
    )


def test_a_packed_cache_is_read_packed_and_written_out_dense() -> None:
    """A byte a number and 4 for the scale of 128: 2 x 8 x 132 a position and layer."""
    point = point_of(
        model="llama-3.1-8b",
        phase="decode",
        prompt_len=1000,
        precision="bf16",
        cache="static-int8",
    )
    ops = named(point)
    assert ops["cache"].kv_write_bytes == 2 * 8 * 132
    assert ops["cache.unpack"].kv_read_bytes == 1024 * 2 * 8 * 132
    assert ops["attention"].kv_read_bytes == 0
    dense = 1024 * 2 * 8 * 128
    assert ops["attention"].activation_bytes == 2 * dense + 2 * (2 * 32 * 128)
    # to fp32, times the scale, to bf16: 4 + (4 + 4) + (4 + 2) bytes a number
    assert ops["cache.unpack"].activation_bytes == dense * 18
    # compiled: one kernel that writes bf16
    fast = point_of(
        model="llama-3.1-8b",
        phase="decode",
        prompt_len=1000,
        precision="bf16",
        cache="static-int8",
        runtime="decoder",
    )
    assert named(fast)["cache.unpack"].activation_bytes == 2 * dense


def test_from_an_empty_static_cache_attention_reads_the_new_rows() -> None:
    static, grown = (
        named(point_of(model="tiny-llama", prompt_len=20, cache=cache))
        for cache in ("static", "dynamic")
    )
    assert static["attention"] == grown["attention"]


def test_a_prefix_is_copied_and_not_computed() -> None:
    """5 of 13 positions cached: 8 new ones see 13 keys, grouped heads copied out."""
    point = point_of(
        model="tiny-llama", prompt_len=13, prefix_len=5, cache="static", batch=3
    )
    s, ops = point.shape, named(point)
    row = 2 * s.kv_heads * s.head_dim * 4
    assert ops["prefix"].kv_read_bytes == ops["prefix"].kv_write_bytes == 3 * 5 * row
    assert ops["prefix"].times == s.layers
    assert ops["q"].dims[0] == 3 * 8
    assert ops["attention"].dims[1:3] == (8, 5)
    assert ops["attention.repeat"].kv_read_bytes == 3 * 13 * row
    assert ops["attention"].kv_read_bytes == 0


def test_unrolled_steps_run_in_whole_calls() -> None:
    """10 tokens: 9 steps after the prefill, as 3 calls of 4 or as 9 of one."""
    base = {"model": "tiny-llama", "phase": "generate", "new_tokens": 10}
    once = point_of(**base, runtime="graph")
    four = point_of(**base, runtime="graph", unroll=4)
    assert len(passes(once)) == 10
    assert len(passes(four)) == 13
    assert (costs_of(once).host.replays, costs_of(four).host.replays) == (9, 3)


def test_a_graph_is_one_launch_of_the_host() -> None:
    base = {"model": "tiny-llama", "prompt_len": 20}
    step = point_of(**base, phase="decode", runtime="graph")
    assert costs_of(step).totals[-1] == 1
    assert costs_of(step).matrix[:, -1].sum() > 20
    call = {"phase": "generate", "new_tokens": 5}
    eager = total(point_of(**base, cache="static", logits="last"), "launches")
    for runtime, each in (("graph", 1), ("transformers", 1 + 14)):
        point = point_of(**base, **call, runtime=runtime)
        assert costs_of(point).totals[-1] == eager + 4 * each
    decoder = costs_of(point_of(**base, **call, runtime="decoder")).host
    assert (decoder.replays, decoder.calls) == (0, 4)


def test_without_graphs_the_host_calls_compiled_code() -> None:
    """transformers' generate on a CPU: 4 calls, each token chosen outside of them."""
    base = {"model": "tiny-llama", "prompt_len": 20, "phase": "generate"}
    point = point_of(**base, new_tokens=5, runtime="transformers")
    prefill = total(
        point_of(model="tiny-llama", prompt_len=20, cache="static", logits="last"),
        "launches",
    )
    step = [op for op in operations(point) if op.compiled]
    host = costs_of(point, graphs=False).host
    assert (host.replays, host.calls) == (0, 4)
    assert host.eager == prefill + 4 * 14  # to choose each token
    assert host.compiled == sum(op.times * op.launches for op in step)


def test_steps_on_a_static_cache_are_told_once() -> None:
    """All alike: a generation has as many rows as its prefill and one step."""
    base = {"model": "tiny-llama", "prompt_len": 20, "cache": "static"}
    whole = point_of(**base, phase="generate", new_tokens=9)
    first = point_of(**base, logits="last")
    ops = operations(whole)
    later = ops[len(operations(first)) :]
    assert operations(first) == ops[: -len(later)]
    assert {op.times for op in later} == {8, 8 * whole.shape.layers}

"""Static caches, prefixes and calls of compiled code: bytes and launches by hand."""

from typing import Any

from fastlab.cost.operations import operations
from fastlab.cost.passes import passes
from fastlab.latency.costs import costs_of
from fastlab.spec import point_of
from tests.cost.counting import named, total

STEP: dict[str, Any] = {"model": "llama-3.1-8b", "phase": "decode", "prompt_len": 1000}
STEP |= {"precision": "bf16"}
BASE: dict[str, Any] = {"model": "tiny-llama", "prompt_len": 20}


def test_a_static_step_writes_its_row_and_reads_the_whole_cache():
    """llama-3.1-8b, bf16: 4,096 bytes a position and layer; 1,001 fill 1,024 rows."""
    found, row = named(point_of(**STEP, cache="static")), 2 * 8 * 128 * 2
    cache, attention = found["cache"], found["attention"]
    assert (cache.kv_write_bytes, cache.kv_read_bytes) == (row, 0)
    assert attention.kv_read_bytes == 1024 * row
    assert attention.flops == attention.flops_causal == 4 * 32 * 128 * 1024


def test_a_packed_cache_is_read_packed_and_written_out_dense():
    """A byte a number and 4 for the scale of 128: 2 x 8 x 132 a position and layer."""
    found = named(point_of(**STEP, cache="static-int8"))
    unpack, attention = found["cache.unpack"], found["attention"]
    assert found["cache"].kv_write_bytes == 2 * 8 * 132
    assert unpack.kv_read_bytes == 1024 * 2 * 8 * 132
    assert attention.kv_read_bytes == 0
    dense = 1024 * 2 * 8 * 128
    assert attention.activation_bytes == 2 * dense + 2 * (2 * 32 * 128)
    # to fp32, times the scale, to bf16: 4 + (4 + 4) + (4 + 2) bytes a number
    assert unpack.activation_bytes == dense * 18
    # compiled: one kernel that writes bf16
    fast = named(point_of(**STEP, cache="static-int8", runtime="decoder"))
    assert fast["cache.unpack"].activation_bytes == 2 * dense


def test_from_an_empty_static_cache_attention_reads_the_new_rows():
    static, grown = (named(point_of(**BASE, cache=c)) for c in ("static", "dynamic"))
    assert static["attention"] == grown["attention"]


def test_a_prefix_is_copied_and_not_computed():
    """5 of 13 positions cached: 8 new ones see 13 keys, grouped heads copied out."""
    how = {"prompt_len": 13, "prefix_len": 5, "cache": "static", "batch": 3}
    point = point_of(model="tiny-llama", **how)
    s, ops = point.shape, named(point)
    row = 2 * s.kv_heads * s.head_dim * 4
    assert ops["prefix"].kv_read_bytes == ops["prefix"].kv_write_bytes == 3 * 5 * row
    assert ops["prefix"].times == s.layers
    assert ops["q"].dims[0] == 3 * 8
    assert ops["attention"].dims[1:3] == (8, 5)
    assert ops["attention.repeat"].kv_read_bytes == 3 * 13 * row
    assert ops["attention"].kv_read_bytes == 0


def test_unrolled_steps_run_in_whole_calls():
    """10 tokens: 9 steps after the prefill, as 3 calls of 4 or as 9 of one."""
    base = {"model": "tiny-llama", "phase": "generate", "new_tokens": 10}
    for unroll, steps, replays in ((1, 9, 9), (4, 12, 3)):
        point = point_of(**base, runtime="graph", unroll=unroll)
        assert len(passes(point)) == 1 + steps
        assert costs_of(point).host.replays == replays


def test_a_graph_is_one_launch_of_the_host():
    step = point_of(**BASE, phase="decode", runtime="graph")
    assert costs_of(step).totals[-1] == 1
    assert costs_of(step).matrix[:, -1].sum() > 20
    call = {"phase": "generate", "new_tokens": 5}
    eager = total(point_of(**BASE, cache="static", logits="last"), "launches")
    for runtime, each in (("graph", 1), ("transformers", 1 + 14)):
        point = point_of(**BASE, **call, runtime=runtime)
        assert costs_of(point).totals[-1] == eager + 4 * each
    decoder = costs_of(point_of(**BASE, **call, runtime="decoder")).host
    assert (decoder.replays, decoder.calls) == (0, 4)
    # transformers' generate on a CPU: 4 calls, each token chosen outside of them
    host = costs_of(point, graphs=False).host
    compiled = [op.times * op.launches for op in operations(point) if op.compiled]
    assert (host.replays, host.calls, host.eager) == (0, 4, eager + 4 * 14)
    assert host.compiled == sum(compiled)


def test_steps_on_a_static_cache_are_told_once():
    """All alike: a generation has as many rows as its prefill and one step."""
    whole = point_of(**BASE, cache="static", phase="generate", new_tokens=9)
    first = operations(point_of(**BASE, cache="static", logits="last"))
    ops = operations(whole)
    later = ops[len(first) :]
    assert first == ops[: -len(later)]
    assert {op.times for op in later} == {8, 8 * whole.shape.layers}

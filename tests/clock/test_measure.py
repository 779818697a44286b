"""measure(): every kind of trouble is a row, and the rows are worked out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from fastlab import machine
from fastlab.clock import measure as module
from fastlab.clock.clocks import CpuClock
from fastlab.clock.measure import Bench, DeviceLost, is_out_of_memory, measure
from fastlab.clock.timing import Settings
from fastlab.cost.memory import parameters
from fastlab.latency.devices import Device
from fastlab.record import Measurement, Record
from fastlab.spec import point_of

POINT = point_of(model="tiny-llama", prompt_len=8)


@pytest.fixture
def bench(profile: Device, quick: Settings) -> Bench:
    return Bench("cpu", quick, profile, CpuClock(), "a test's CPU")


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_an_ok_row_says_what_really_ran(bench):
    record = bench.measure(POINT)
    assert (record.status, record.reason) == ("ok", "")
    assert record.measured.n == 3
    assert record.measured.cache == "warm"
    assert record.measured.seconds > 0
    assert record.effective.parameters == parameters(POINT.shape)
    assert record.effective.weight_bytes == 4 * parameters(POINT.shape)
    assert (record.effective.dtype, record.effective.attention) == ("float32", "sdpa")
    assert record.measured.peak_bytes == pytest.approx(
        record.estimate.peak_bytes, rel=0.1
    )


def test_stages_are_timed_where_there_was_something_to_do(bench):
    made = {"model": "tiny-llama", "precision": "int8", "prune_layers": 0.5}
    first, again = (bench.measure(point_of(**made, prompt_len=n)) for n in (4, 8))
    stages = first.measured.stages
    names = {"load", "shrink", "quantize"}
    assert names <= stages.keys() <= names | {"prepare"}
    assert all(1e-4 < seconds < 60 for seconds in stages.values())
    assert again.measured.stages.keys() <= {"prepare"}  # the model is there
    assert Record.from_dict(first.to_dict()) == first
    old = first.to_dict()
    del old["measured"]["stages"]  # a row of before there were any
    assert Record.from_dict(old).measured.stages == {}


def test_points_that_share_a_model_build_it_once(bench, monkeypatch):
    built = []
    build = module.build
    monkeypatch.setattr(
        module, "build", lambda p, *how: built.append(p.label) or build(p, *how)
    )
    for phase in ("prefill", "decode"):
        for n in (4, 8):
            bench.measure(point_of(model="tiny-llama", phase=phase, prompt_len=n))
    bench.measure(point_of(model="tiny-llama", precision="bf16"))
    assert len(built) == 2


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"precision": "bf16"}, "it is emulated"),
        ({"precision": "tf32"}, "needs an NVIDIA GPU"),
        ({"phase": "decode", "runtime": "graph"}, "graph needs an NVIDIA GPU"),
    ],
)
def test_what_cannot_run_here_is_refused_before_anything_is_built(
    bench, monkeypatch, over, reason
):
    real = machine.unsupported_reason
    monkeypatch.setattr(
        machine,
        "unsupported_reason",
        lambda kind, p: "it is emulated" if p == "bf16" else real(kind, p),
    )
    monkeypatch.setattr(module, "build", failing(AssertionError("built")))
    record = bench.measure(point_of(model="tiny-llama", **over))
    assert (record.status, record.estimate) == ("unsupported", None)
    assert reason in record.reason


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "oom", "2 GiB"),
        (MemoryError(), "oom", "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "oom", "Default"),
        (RuntimeError("mat1 and mat2 shapes"), "error", "RuntimeError: mat1"),
        (KeyError("lm_head"), "error", "KeyError: 'lm_head'"),
    ],
)
def test_trouble_is_a_row_and_the_next_point_goes_on(
    bench, monkeypatch, error, status, reason
):
    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare", failing(error))
        record = bench.measure(POINT)
    assert record.status == status
    assert reason in record.reason
    assert record.estimate is not None
    assert bench.measure(POINT).status == "ok"


def test_a_model_too_large_for_the_memory_is_not_tried(bench, monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda kind: 2**30)
    monkeypatch.setattr(module, "build", failing(AssertionError("built")))
    record = bench.measure(point_of(model="llama-3.1-8b"))
    assert record.status == "oom"
    assert "not tried: about 32." in record.reason
    assert "1.07 GB free" in record.reason


def test_an_output_that_is_not_finite(bench):
    model = module.build(POINT, "cpu")
    model.model.norm.weight.fill_(float("nan"))
    bench.use_model(POINT, model)
    record = bench.measure(POINT)
    assert (record.status, record.measured) == ("nonfinite", None)


def test_an_interruption_is_not_a_row(bench, monkeypatch):
    monkeypatch.setattr(module, "prepare", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bench.measure(POINT)


def test_a_gpu_that_answers_no_more_ends_the_sweep(bench, monkeypatch):
    """After a device assert every CUDA call of the process fails."""
    sticky = RuntimeError("CUDA error: device-side assert triggered")
    monkeypatch.setattr(module, "prepare", failing(sticky))
    monkeypatch.setattr(torch, "ones", failing(sticky))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(machine, "unsupported_reason", lambda kind, precision: "")
    bench.kind = "cuda"
    monkeypatch.setattr(module, "build", lambda p, *how: torch.nn.Identity())
    with pytest.raises(DeviceLost, match="goes on where it stopped"):
        bench.measure(POINT)


class Unsayable(RuntimeError):
    def __str__(self):
        raise ValueError("no words")


def test_an_error_without_words_is_a_row(bench, monkeypatch):
    monkeypatch.setattr(module, "prepare", failing(Unsayable()))
    record = bench.measure(POINT)
    assert record.status == "error"
    assert record.reason == "Unsayable: (its message cannot be read)"


def test_out_of_memory_in_all_its_words():
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: invalid argument"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_measure_takes_a_model_for_trained_weights(profile, quick):
    point = point_of(model="tiny-llama", prompt_len=8, weights="trained:abc")
    alone = measure(point, "cpu", quick, profile)
    assert alone.status == "error"
    assert "only random ones can be built" in alone.reason
    model = module.build(POINT, "cpu")
    assert measure(point, "cpu", quick, profile, model).status == "ok"


def test_a_compiled_row_says_what_compiling_took(bench, monkeypatch):
    """All of it: no graph is made while calls are timed."""
    graphs, time_call = [], module.time_call

    def watched(*args: Any) -> Measurement:
        before = counters["stats"]["unique_graphs"]
        measurement = time_call(*args)
        graphs.append((before, counters["stats"]["unique_graphs"]))
        return measurement

    monkeypatch.setattr(module, "time_call", watched)
    at_first = counters["stats"]["unique_graphs"]
    over = {"layers": 1, "phase": "decode", "prompt_len": 8, "runtime": "decoder"}
    record = bench.measure(point_of(model="tiny-llama", **over))
    assert record.status == "ok", record.reason
    assert graphs == [(at_first + 1, at_first + 1)]
    assert record.measured.compile_s > 0
    assert record.measured.peak_bytes is None  # compiled code shows no live tensors
    eager = bench.measure(point_of(model="tiny-llama", cache="static"))
    assert eager.measured.compile_s is None
    assert eager.measured.peak_bytes > 0


def test_a_quantized_row_counts_its_bytes_as_stored(bench):
    """tiny-llama: int8 in the layers saves a byte a weight, less a scale of 2 a row."""
    dense, packed = (
        bench.measure(point_of(model="tiny-llama", prompt_len=8, precision=precision))
        for precision in ("bf16", "int8")
    )
    assert packed.status == "ok", packed.reason
    assert packed.effective.parameters == dense.effective.parameters
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128
    rows = 64 + 2 * 32 + 64 + 2 * 128 + 64
    saved = dense.effective.weight_bytes - packed.effective.weight_bytes
    assert saved == 2 * (layer - 2 * rows)


def test_models_are_shared_where_only_the_runtime_differs():
    same = {"model": "tiny-llama", "phase": "decode"}
    keys = {
        point_of(**same, **over).model_key
        for over in ({}, {"cache": "static"}, {"attention": "sdpa-math"})
    }
    assert len(keys) == 1
    others = ({"attention": "eager"}, {"precision": "int8"})
    others += ({"precision": "int8", "scope": "head"},)
    assert len({point_of(**same, **over).model_key for over in others}) == 3


@pytest.mark.parametrize(("cache", "flagged"), [(0, False), (10**6, True)])
def test_weights_that_fit_the_cache_are_flagged_in_decoding(
    bench, monkeypatch, cache, flagged
):
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda kind: cache)
    for phase in ("prefill", "decode"):
        record = bench.measure(point_of(model="tiny-llama", phase=phase, prompt_len=8))
        expected = flagged and phase == "decode"
        assert ("in_cache" in record.measured.flags) == expected


@pytest.mark.parametrize("taken", [False, True])
def test_a_row_says_that_other_programs_took_our_cores(bench, monkeypatch, taken):
    monkeypatch.setattr(module, "is_contended", lambda cores, kind: taken)
    assert ("shared_cpu" in bench.measure(POINT).measured.flags) == taken


def test_the_environment_has_the_bandwidth_of_a_copy(bench, monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda kind: 10 * 2**20)
    monkeypatch.setattr(module, "COPY_S", 0.001)
    env = bench.environment()
    assert env["device"] == machine.device_name("cpu")
    assert 0 < env["copy_bytes_per_s"] < 1e13


@pytest.mark.parametrize(
    "recipe",
    [
        {"precision": "bf16"},
        {"precision": "int8", "scope": "head"},
        {"cache": "static-int8", "phase": "decode"},
    ],
)
def test_what_a_model_lost_stands_beside_its_time(bench, recipe):
    """Little against dense fp32, but something; asked once of each model and cache."""
    point = point_of(model="tiny-llama", prompt_len=8, **recipe)
    record = bench.measure(point)
    assert (record.status, record.reason) == ("ok", "")
    assert 0 < record.quality.kl_nats < 0.01
    assert 0 < record.quality.max_abs < 1
    assert record.quality.top1 > 0.8
    again = bench.measure(replace(point, workload=replace(point.workload, batch=2)))
    assert again.quality is record.quality


def test_dense_fp32_is_the_reference_and_nobody_need_ask(bench):
    other = point_of(model="tiny-llama", prompt_len=8, precision="bf16")
    assert bench.measure(POINT).quality is None
    assert replace(bench, judge=False).measure(other).quality is None


def test_a_quality_that_fails_costs_no_time(bench, monkeypatch):
    monkeypatch.setattr(module.Reference, "quality", failing(RuntimeError("no room")))
    record = bench.measure(point_of(model="tiny-llama", prompt_len=8, precision="bf16"))
    assert (record.status, record.quality) == ("ok", None)
    assert record.reason == "no quality: RuntimeError: no room"
    assert record.measured is not None

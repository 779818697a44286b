"""A scenario on a device: met, missed or saturated, against its estimates by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fastlab as fl
from fastlab.serving.outcome import simulate
from fastlab.serving.steps import Server, Steps, cache_room, call, steps_of
from fastlab.spec import point_of
from fastlab.spec.scenarios import Arrivals, Lengths, Scenario, Targets

H100 = fl.device("h100")
LLAMA = point_of(model="llama-3.2-1b", precision="bf16", phase="decode", prompt_len=16)


def one(arrivals, targets=None, prompt=None, answer=None):
    lengths = prompt or Lengths(fixed=600), answer or Lengths(fixed=50)
    targets = targets or Targets(ttft_s=0.1, tpot_s=0.05, percentile=90)
    return Scenario("one", "one", *lengths, arrivals, targets, 0.02, {})


def seconds(phase, batch, tokens):
    [found] = fl.estimate([call(LLAMA, phase, batch, tokens, False)], H100)
    return found.seconds


def test_a_user_alone_waits_for_one_prompt_and_for_each_token():
    found = simulate(one(Arrivals(users=1)), LLAMA, H100, Server(chunk=4096))
    first = seconds("prefill", 1, 600)
    each = np.mean([seconds("decode", 1, 600 + i) for i in range(49)])
    assert found.load is None and found.met
    assert found.times["ttft_s"][90].value == pytest.approx(first, rel=0.01)
    assert found.times["tpot_s"][50].value == pytest.approx(each, rel=0.01)
    assert found.times["e2e_s"][99].value == pytest.approx(first + 49 * each, rel=0.01)
    assert found.over["ttft_s"] == pytest.approx(first / 0.1, rel=0.01)
    assert found.attainment == pytest.approx((1.0, 1.0, 1.0))
    assert found.goodput.value == pytest.approx(1 / (first + 49 * each), rel=0.02)


def test_too_many_requests_are_said_to_saturate_it():
    found = simulate(one(Arrivals(rate=2000.0)), LLAMA, H100)
    assert found.saturated and not found.met and found.load > 0.9
    assert found.times == {} and found.bound in ("prefill", "decode")


def test_targets_are_missed_by_a_factor_and_what_takes_the_time_is_named():
    slow = Targets(ttft_s=1e-3, tpot_s=10.0, percentile=90)
    found = simulate(one(Arrivals(rate=1.0), slow), LLAMA, H100, requests=200, seeds=3)
    assert not found.met and found.over["ttft_s"] > 1 > found.over["tpot_s"]
    assert found.bound.startswith("prefill (") and found.attainment.value == 0.0
    tight = Server(slots=1)
    queued = simulate(one(Arrivals(rate=3.0, cv=4.0), slow), LLAMA, H100, tight, 300)
    assert queued.bound == "queueing"
    low, high = queued.times["ttft_s"][90][1:]
    assert low < queued.times["ttft_s"][90].value < high


def test_seeds_decide_and_nothing_else():
    bursts = one(Arrivals(rate=20.0, cv=3.0))
    assert simulate(bursts, LLAMA, H100) == simulate(bursts, LLAMA, H100)


def test_steps_between_those_that_are_estimated_are_near_their_estimates():
    steps = steps_of(LLAMA, H100, (2000, 3000), Server())
    for new in (3, 77, 512, 1500):
        assert steps.chunk(new, 0) == pytest.approx(seconds("prefill", 1, new), rel=0.1)
    for batch, past in ((1, 100), (3, 700), (24, 2500), (64, 1111)):
        said = steps.writing(batch, batch * past)
        assert said == pytest.approx(seconds("decode", batch, past), rel=0.1)
    assert steps.bounds == ("compute", "memory")


def test_a_chunk_after_a_past_takes_longer_by_attention_to_it():
    # Linear in its 10 tokens, and 2 x 10 x 100 pairs more than a square has.
    steps = Steps([n + n * n / 1000 for n in range(200)], [])
    assert steps.chunk(10, 100) == pytest.approx(10 + 0.1 + 2 * 10 * 100 / 1000)


def test_measured_seconds_take_the_place_of_estimates():
    asked = []

    def timed(points):
        asked.extend(points)
        return [p.workload.prompt_len * 1e-4 if p.workload.phase == "prefill" else 1e-3
                for p in points]  # fmt: skip

    users = one(Arrivals(users=1))
    found = simulate(users, LLAMA, H100, Server(slots=8, chunk=4096), timed=timed)
    assert found.times["ttft_s"][50].value == pytest.approx(0.06)
    assert found.times["tpot_s"][50].value == pytest.approx(1e-3)
    assert {p.workload.batch for p in asked} == {1, 2, 4, 8}


def test_room_is_what_weights_leave_of_the_memory():
    room = cache_room(LLAMA, H100, (600, 650), Server())
    # 16 layers x 8 heads x 64 wide, keys and values of 2 bytes: 32 KiB a token.
    weights = 2 * fl.parameters(LLAMA.shape)
    most = (H100.memory_bytes * 0.92 - weights) / (16 * 8 * 64 * 2 * 2)
    assert 0.97 * most < room < most
    with pytest.raises(ValueError, match=r"a request needs 2.*GB, and 1.07 GB of"):
        cache_room(LLAMA, replace(H100, memory_bytes=2**30), (600, 650), Server())


def test_a_model_that_writes_no_text_is_refused_before_any_work():
    bert = point_of(family="bert", layers=2, hidden=64)
    with pytest.raises(ValueError, match="family='bert' writes no text"):
        simulate(one(Arrivals(users=1)), bert, H100)
    classes = one(Arrivals(rate=5.0), answer=Lengths(fixed=1), prompt=Lengths(fixed=64))
    assert set(simulate(classes, bert, H100).times) == {"ttft_s", "e2e_s"}
    whole = point_of(model="gpt2", phase="generate", runtime="transformers")
    with pytest.raises(ValueError, match="runtime='transformers' writes whole answers"):
        simulate(one(Arrivals(users=1)), whole, H100)

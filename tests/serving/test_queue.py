"""Queues of candidates: beside the whole simulation, and those between the served."""

from __future__ import annotations

import numpy as np
import pytest

import fastlab as fl
from fastlab.serving.outcome import EARLY
from fastlab.serving.queue import REQUESTS, Queue
from fastlab.serving.simulate import capacity, draw, serve
from fastlab.serving.steps import Server, steps_of
from fastlab.spec import point_of
from fastlab.spec.scenarios import Arrivals, Lengths, Scenario, Targets

H100 = fl.device("h100")
LLAMA = point_of(model="llama-3.2-1b", precision="bf16", prompt_len=16)
LENGTHS = Lengths(low=400, high=800), Lengths(low=20, high=80)


def asked(arrivals: Arrivals, answer: Lengths = LENGTHS[1]) -> Scenario:
    targets = Targets(ttft_s=0.1, percentile=90)
    return Scenario("one", "one", LENGTHS[0], answer, arrivals, targets, 0.02, {})


def seconds(queue: Queue) -> list[float]:
    calls = queue.calls(LLAMA)
    return [found.seconds for found in fl.estimate([p for p, _ in calls], H100)]


@pytest.mark.parametrize(
    "arrivals", [Arrivals(users=12), Arrivals(rate=25.0), Arrivals(rate=25, cv=3.0)]
)
def test_three_calls_say_what_all_steps_say(arrivals: Arrivals) -> None:
    queue = Queue.of(one := asked(arrivals))
    assert queue is not None
    drawn = draw(one, LLAMA.shape, REQUESTS, seed=0)
    server = Server(queue.slots)
    steps = steps_of(LLAMA, H100, (800, 880), server)
    trace = serve(drawn, steps, server).after(REQUESTS // EARLY)
    told = queue.times(LLAMA.shape, seconds(queue))
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert told[name] == pytest.approx(trace.percentile(name, 90), rel=0.2), name
    if arrivals.rate:
        full = capacity(drawn, steps, server).rate
        assert told["load"] == pytest.approx(arrivals.rate / full, rel=0.15)


def test_what_only_reads_waits_for_prompts_alone() -> None:
    """Prompts of 400 to 800 tokens, 600 in the mean, 760 at the 90th percentile."""
    queue = Queue.of(asked(Arrivals(rate=5.0), Lengths(fixed=0)))
    assert queue is not None and len(queue.calls(LLAMA)) == 1
    assert queue.load(LLAMA.shape, [0.076]) == pytest.approx(5 * 0.06)
    told = queue.times(LLAMA.shape, [0.076])
    assert 0.076 < told["ttft_s"] == told["e2e_s"] < 0.2


def test_where_nobody_waits_there_is_no_queue() -> None:
    assert Queue.of(asked(Arrivals(users=1))) is None
    assert Queue.of(asked(Arrivals(users=9), Lengths(fixed=0))) is None  # one batch
    (first, one, full), counts = zip(
        *Queue(asked(Arrivals(users=12))).calls(LLAMA), strict=True
    )
    assert (first.workload.batch, one.workload.batch, full.workload.batch) == (1, 1, 12)
    assert counts == (1, 73, 0)  # 74 tokens at the 90th percentile
    assert one.workload.prompt_len == 600 + 24  # and 25 are written after half of them
    assert Queue(asked(Arrivals(rate=1.0))).slots == 16


def test_candidates_between_those_that_are_served_wait_about_as_long() -> None:
    """400 of loads up to 0.8, and all proportions: most within 20 %."""
    queue, n = Queue(asked(Arrivals(rate=2.0, cv=2.0))), 400
    rng = np.random.default_rng(0)
    one = np.exp(rng.normal(-5, 0.5, n))
    each = np.stack([one * rng.uniform(4, 20, n), one, one * rng.uniform(1, 6, n)], 1)
    loads = [queue.load(LLAMA.shape, own) for own in each.tolist()]
    each *= (rng.uniform(0.02, 0.8, n) / loads)[:, None]
    alone = [{"e2e_s": own[0] + 73 * own[1]} for own in each.tolist()]
    spread = queue.spread([LLAMA.shape] * n, each.tolist(), alone)
    some = range(0, n, 8)
    true = [queue.times(LLAMA.shape, each[i].tolist()) for i in some]
    pairs = zip(some, true, strict=True)
    off = np.abs([np.log(spread[i]["e2e_s"] / t["e2e_s"]) for i, t in pairs])
    assert np.quantile(off, 0.8) < 0.2 and off.max() < 0.5
    assert [spread[i]["load"] for i in some] == [t["load"] for t in true]
    (single,) = queue.spread([LLAMA.shape], each[:1].tolist(), alone[:1])
    assert single["e2e_s"] == pytest.approx(true[0]["e2e_s"])

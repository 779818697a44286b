"""Requests through steps: by hand, and by what queueing theory says of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlab as fl
from fastlab.serving.simulate import Requests, capacity, draw, serve
from fastlab.serving.steps import GRAIN, Server, Steps
from fastlab.spec.scenarios import Arrivals, Lengths, Scenario, Targets


def steps(write=0.5, each=0.0, floor=0.1, longest=400, slots=64, fused=True):
    """Reading takes floor + 1 a token; writing `write`, and `each` per sequence."""
    read = [floor + n for n in range(longest + 1)]
    line = [[write + each * b] * (4000 // GRAIN) for b in range(slots + 1)]
    return Steps(read, line, fused)


def test_two_requests_in_one_slot_by_hand():
    two = Requests([0.0, 1.0], [3, 2], [3, 1])
    trace = serve(two, steps(), Server(slots=1))
    # The first: 3.1 to read, two tokens more at 0.5. The second is let in at 4.1.
    assert trace.ttft_s.tolist() == pytest.approx([3.1, 4.1 + 2.1 - 1.0])
    assert trace.e2e_s.tolist() == pytest.approx([4.1, 5.2])
    assert trace.queue.tolist() == pytest.approx([0.0, 3.1])
    assert trace.tpot_s[0] == pytest.approx(0.5) and np.isnan(trace.tpot_s[1])
    assert trace.busy_s == pytest.approx(6.2)


@pytest.mark.parametrize(("fused", "step"), [(True, 2.5), (False, 2.6)])
def test_a_prompt_is_read_while_another_is_answered(fused, step):
    two = Requests([0.0, 1.0], [3, 2], [3, 2])
    trace = serve(two, steps(fused=fused), Server(slots=2))
    # To 3.1 the first is read, then 2.1 and 0.5 together, without a floor where fused.
    assert trace.ttft_s.tolist() == pytest.approx([3.1, 3.1 + step - 1.0])
    # Then both write one token more, in one step of 0.5.
    assert trace.e2e_s.tolist() == pytest.approx([3.6 + step, 2.6 + step])
    assert trace.held_up.tolist() == pytest.approx([step - 0.5, 0.0])
    assert trace.gaps[1].tolist() == [1, 2]


def test_long_prompts_are_read_in_chunks():
    trace = serve(Requests([0.0], [10], [1]), steps(), Server(chunk=4))
    # Three passes: 4, 4 and 2 tokens, each with its floor.
    assert trace.ttft_s[0] == pytest.approx(10.3)


def test_an_encoder_reads_whole_prompts_as_many_as_a_chunk_holds():
    whole = Steps([0.1 + n for n in range(20)], [], whole=True)
    trace = serve(Requests([0.0] * 3, [6, 5, 9], [1, 0, 1]), whole, Server(chunk=12))
    # 6 and 5 in one pass with one floor, then 9.
    assert trace.e2e_s.tolist() == pytest.approx([11.1, 11.1, 11.1 + 9.1])


def test_users_ask_again_when_they_are_answered():
    trace = serve(Requests([0.0] * 4, [2] * 4, [1] * 4, users=2), steps(), Server(1))
    assert trace.at.tolist() == pytest.approx([0.0, 0.0, 2.1, 4.2])
    assert trace.e2e_s.tolist() == pytest.approx([2.1, 4.2, 4.2, 4.2])


def test_waiting_for_memory_is_told_apart_from_waiting_for_a_slot():
    two = Requests([0.0, 0.0], [3, 3], [1, 1])
    by_slot = serve(two, steps(), Server(slots=1))
    by_room = serve(two, steps(), Server(slots=8), room=5)
    assert by_slot.queue[1] == by_room.queue[1] == pytest.approx(3.1)
    assert (by_slot.memory[1], by_room.memory[1]) == pytest.approx((0.0, 3.1))
    with pytest.raises(ValueError, match="room=2 must hold the longest request: 3"):
        serve(two, steps(), Server(), room=2)


def test_one_slot_waits_as_pollaczek_and_khinchine_say():
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, 100, 100_000)
    took = prompts + 0.1
    rate = 0.6 / took.mean()
    at = np.cumsum(rng.exponential(1 / rate, len(prompts)))
    one = Requests(at.tolist(), prompts.tolist(), [1] * len(prompts))
    trace = serve(one, steps(), Server(slots=1))
    expected = rate * np.mean(took**2) / (2 * (1 - 0.6))
    assert trace.queue.mean() == pytest.approx(expected, rel=0.05)
    assert trace.busy_s == pytest.approx(took.sum())


def requests(seed, n=60, rate=0.05):
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, n)).tolist()
    return Requests(at, rng.integers(1, 40, n).tolist(), rng.integers(0, 9, n).tolist())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 50), st.booleans())
def test_nothing_is_lost_and_no_more_is_held_than_there_is_room(seed, slots, chunk, f):
    asked, room = requests(seed), 80
    trace = serve(asked, steps(fused=f), Server(slots, chunk, f), room)
    need = np.add(asked.prompts, np.maximum(np.subtract(asked.answers, 1), 0))
    came, gone = trace.at + trace.queue, trace.at + trace.e2e_s
    for now in came:
        inside = (came <= now) & (gone > now + 1e-9)
        assert inside.sum() <= slots and need[inside].sum() <= room
    assert (trace.queue >= trace.memory - 1e-9).all() and (trace.memory >= 0).all()
    assert (trace.ttft_s > trace.queue).all() and (trace.held_up >= 0).all()
    # Little: the mean number inside, summed step by step, is rate times mean time.
    moments = np.sort(np.concatenate([trace.at, gone]))
    there = [((trace.at <= m) & (gone > m)).sum() for m in moments[:-1]]
    inside_s = float((np.array(there) * np.diff(moments)).sum())
    assert inside_s == pytest.approx(trace.e2e_s.sum())
    # Every token but the first has its gap, and parts add up to the whole.
    assert trace.gaps[1].sum() in (
        1,
        np.maximum(np.subtract(asked.answers, 1), 0).sum(),
    )
    parts = sum(trace.parts(("", "")).values())
    assert parts == pytest.approx(trace.e2e_s)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("slots", "room"), [(1, 1e9), (4, 1e9), (32, 1e9), (32, 500)])
@pytest.mark.parametrize("write", [0.5, 20.0])
def test_the_closed_form_of_a_full_server_is_what_it_serves(fused, slots, room, write):
    rng = np.random.default_rng(2)
    n, server = 1500, Server(slots, 64, fused)
    prompts, answers = (
        rng.integers(20, 120, n).tolist(),
        rng.integers(1, 60, n).tolist(),
    )
    full = Requests([0.0] * n, prompts, answers, users=2 * slots)
    taken = steps(write, each=0.1, floor=5.0, fused=fused)
    rate = serve(full, taken, server, room).per_second
    closed = capacity(full, taken, server, room)
    assert closed.rate == pytest.approx(rate, rel=0.1)
    if write > 1 and slots < 32:
        assert closed.bound == "decode"
    elif write > 1 and room < 1e9:
        assert closed.bound == "cache memory"
    else:
        assert closed.bound == "prefill"


def test_arrivals_have_their_rate_and_spread():
    lengths = Lengths(low=4, high=9), Lengths(fixed=2)
    for cv in (0.0, 0.5, 1.0, 3.0):
        arrivals, targets = Arrivals(rate=5.0, cv=cv), Targets(e2e_s=1)
        one = Scenario("a", "a", *lengths, arrivals, targets, 0.0, {})
        found = draw(one, fl.ModelShape("gpt2", 2, 64), 20_000, 3)
        gaps = np.diff(found.at)
        assert gaps.mean() == pytest.approx(0.2, rel=0.001)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-6)
        assert set(found.prompts) == set(range(4, 10)) and set(found.answers) == {2}

"""Visits to one point become one record, worked out by hand."""

from dataclasses import replace

import pytest

from fastlab.record import Measurement, Quality, Record
from fastlab.spec import point_of
from fastlab.sweeps.rounds import hosts_of
from fastlab.sweeps.store import pooled

POINT = point_of(model="tiny-llama")


def visit(number: int, ms: int, *flags: str, status: str = "ok") -> Record:
    """A visit of three samples around `ms`, 2 % to either side."""
    ns = tuple(ms * 1_000_000 + k * 20_000 * ms for k in (-1, 0, 1))
    seconds = ms / 1e3
    ends = (0.98 * seconds, 1.02 * seconds)
    measured = Measurement(
        seconds, *ends, 3, "noisy" not in flags, "budget", "warm", 1, 0.1, flags, ns
    )
    found = measured if status == "ok" else None
    return Record(POINT, "cpu", {}, status, measured=found, round=number)


def test_the_visit_in_the_middle_counts():
    """10, 35 and 12 ms: 12, from the fastest visit to the slowest."""
    made = pooled([visit(1, 10), visit(2, 35, "noisy"), visit(3, 12)])
    assert made.measured.seconds == pytest.approx(0.012)
    assert (made.measured.low_s, made.measured.high_s) == (0.010, 0.035)
    assert made.measured.n == len(made.measured.device_ns) == 9
    assert made.measured.device_ns[3] == 34_300_000  # in the order of the visits
    assert made.measured.flags == ()  # one of three was noisy
    assert made.measured.converged
    assert made.round == 1


def test_visits_alike_keep_the_interval_of_one():
    made = pooled([visit(n, 10, "noisy", "in_cache") for n in (1, 2, 3)])
    assert made.measured.low_s == pytest.approx(0.0098)
    assert made.measured.high_s == pytest.approx(0.0102)
    assert made.measured.flags == ("in_cache", "noisy")


def test_two_visits_meet_halfway():
    assert pooled([visit(1, 10), visit(2, 14)]).measured.seconds == pytest.approx(0.012)


def test_failed_visits_hide_nothing():
    good, lost = visit(1, 10), visit(2, 10, status="oom")
    assert pooled([good, lost]) is good
    assert pooled([lost]) is lost
    assert pooled([lost, visit(3, 12), good]).measured.n == 6


def test_what_was_lost_is_that_of_the_visit_that_asked():
    lost = Quality("fp32", "0" * 64, 0.1, 0.9, 1.0)
    made = pooled([replace(visit(1, 30), quality=lost), visit(2, 10), visit(3, 12)])
    assert made.quality == lost


def test_a_host_is_the_same_by_its_name_or_its_boot():
    """A container gets a new name at each start, a machine a new boot."""
    known = [("a", "1"), ("b", "1"), ("c", "2"), ("d", ""), ("d", "3"), ("e", "")]
    envs = {str(n): {"host": h, "boot": b} for n, (h, b) in enumerate(known)}
    assert [*hosts_of(envs).values()] == ["b", "b", "c", "d", "d", "e"]
    envs |= {"6": {"host": "c", "boot": "1"}, "7": {}, "8": {"host": None}}
    assert [*hosts_of(envs).values()] == ["c", "c", "c", "d", "d", "e", "c"]

"""Whole calls in a calibration: host seconds, cache levels, how far intervals reach."""

import math
from dataclasses import replace

import pytest

from fastlab.clock import end_to_end
from fastlab.latency.costs import LAUNCHES, costs_of
from fastlab.latency.estimates import estimate
from fastlab.spec import FAMILIES
from tests.latency.fitting import calibrated


def test_every_family_has_its_host_seconds(monkeypatch, profile):
    """Kernels take 1 s in all estimates, a call 1 s + 20 us a launch (GPT-2: 30 us)."""

    def made(points, device, model):
        one = estimate([points[0]], device, "roofline")[0]
        return [replace(one, seconds=1.0) for _ in points]

    def took(point, *how):
        each = 3e-5 if point.shape.family == "gpt2" else 2e-5
        return 1.0 + each * costs_of(point).totals[LAUNCHES]

    monkeypatch.setattr(end_to_end, "estimate", made)
    monkeypatch.setattr(end_to_end, "seconds_of", took)
    found = end_to_end.host_seconds(profile)
    assert found == {
        name: pytest.approx(3e-5 if name == "gpt2" else 2e-5) for name in FAMILIES
    }
    # A GPU's host queues ahead: there the whole call is the host's.
    gpu = end_to_end.host_seconds(replace(profile, kind="cuda"))
    launches = [costs_of(p).totals[LAUNCHES] for p in end_to_end.host_points()[-1:]]
    assert gpu["bert"] == pytest.approx(2e-5 + 1.0 / launches[0])


def test_launches_and_calls_of_compiled_code_are_told_apart(monkeypatch, profile):
    """Kernels take 1 s in all estimates, a call 1 s + 0.2 ms + 3 us a launch."""
    launches = lambda point: costs_of(point).totals[LAUNCHES]  # noqa: E731
    made = estimate(end_to_end.host_points()[:1], profile, "roofline") * 2
    alike = [replace(one, seconds=1.0) for one in made]
    monkeypatch.setattr(end_to_end, "estimate", lambda *args, **more: alike)
    monkeypatch.setattr(
        end_to_end, "seconds_of", lambda point, *how: 1.0002 + 3e-6 * launches(point)
    )
    each, call = end_to_end.compiled_seconds(profile)
    assert (each, call) == pytest.approx((3e-6, 2e-4))


def test_a_host_is_never_paid_back(monkeypatch, profile):
    monkeypatch.setattr(end_to_end, "seconds_of", lambda point, *how: 1e-9)
    known = calibrated(profile)
    assert set(end_to_end.host_seconds(known).values()) == {0.0}


def test_levels_never_get_faster_with_more_bytes(monkeypatch):
    """4 to 512 MiB at 1, 3, 2, 3, 2.8, 4 ns a byte, 64 MiB being the usual: 2."""
    each = iter([1e-9, 3e-9, 2e-9, 3e-9, 2.8e-9, 4e-9])
    monkeypatch.setattr(end_to_end, "_seconds_per_byte", lambda *how: next(each))
    found = end_to_end.slowdowns("cpu", "bf16")
    assert [size for size, _ in found] == [2**n for n in (22, 24, 26, 27, 28, 29)]
    assert [factor for _, factor in found] == pytest.approx(
        [0.5, 1.0, 1.0, 1.5, 1.5, 2.0]
    )
    assert end_to_end.slowdowns("cuda", "bf16") == ()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_whole_calls_of_every_device_are_points(kind):
    """On a GPU prompts of 1,024 tokens: GPT-2 needs one position more to decode."""
    for precision in ("fp32", "bf16", "int8"):
        points = end_to_end.whole_points(precision, kind)
        assert {p.workload.prompt_len for p in points} == {
            1024 if kind == "cuda" else 128
        }
        assert end_to_end.compiled_point(precision, kind).workload.phase == "decode"


def test_a_weight_is_read_once_each_time_round():
    """No memory gives 1 TB/s to a core; 1 MB/s is there whoever else is busy."""
    assert (
        1e-12
        < end_to_end._seconds_per_byte(2**24, "fp32", end_to_end.settings_for("cpu"))
        < 1e-6
    )


@pytest.mark.parametrize(("factors", "expected"), [(0, 1.860), (3, 2.015 * 1.6**0.5)])
def test_intervals_reach_as_far_as_whole_calls_are_off(profile, factors, expected):
    """8 calls 1.5 half-widths off: t(0.95, 8) = 1.860 of those.

    Fitted factors cost degrees of freedom: with 3, t(0.95, 5) = 2.015, x (8 / 5)^(1/2).
    """
    known = calibrated(profile)
    points = end_to_end.whole_points("fp32")
    made = estimate(points, known)
    took = [[e.seconds * (e.high_s / e.seconds) ** 1.5] for e in made]
    found = end_to_end.stretched(points, took, known, factors)
    assert found == pytest.approx(1.5 * expected, rel=1e-3)
    wide = replace(known, fits=replace(known.fits, stretch=2.0))
    [narrow, wider] = [estimate(points[:1], d)[0] for d in (known, wide)]
    twice = 2 * math.log(narrow.high_s / narrow.seconds)
    assert math.log(wider.high_s / wider.seconds) == pytest.approx(twice)
    assert wider.seconds == narrow.seconds


def test_what_differs_between_rounds_widens_the_interval(profile):
    """Once half a width off, once 2: the mean square is 2.125 in place of 0.25.

    The middle of the rounds, exactly the estimate, does not hide it.
    """
    known = calibrated(profile)
    points = end_to_end.whole_points("fp32")
    made = [(e.seconds, e.high_s / e.seconds) for e in estimate(points, known)]
    alike, apart = (
        end_to_end.stretched(points, [[s * h**n for n in off] for s, h in made], known)
        for off in ((0.5, -0.5), (0.5, 2.0))
    )
    assert apart / alike == pytest.approx((2.125 / 0.25) ** 0.5)


def test_calls_of_a_precision_are_of_many_kinds_and_sizes():
    points = end_to_end.whole_points("fp32")
    assert len(set(points)) == 8
    assert {p.workload.phase for p in points} == {"prefill", "decode"}
    assert len({p.shape.family for p in points}) == 3
    assert len({p.shape.hidden for p in points}) == 3
    assert end_to_end.whole_points("int8", "cuda")[0].shape.hidden == 8 * 512


def test_whole_calls_take_more_than_their_parts(profile):
    """Every operation 1.3 times as long within a call, the host as before."""
    known = calibrated(profile, dispatch_s=3e-6)
    points = end_to_end.whole_points("fp32")
    host = [3e-6 * costs_of(p).totals[LAUNCHES] for p in points]
    made = [e.seconds for e in estimate(points, known)]
    took = [1.3 * (s - h) + h for s, h in zip(made, host, strict=True)]
    factor = end_to_end.call_overhead_factor(points, took, known)
    assert factor == pytest.approx(1.3)
    longer = replace(known, fits=replace(known.fits, whole={"fp32": factor}))
    assert [e.seconds for e in estimate(points, longer)] == pytest.approx(took)


def test_each_way_of_running_has_its_own_factor(profile):
    """What was not timed takes that of the dense numbers around it, or none."""
    whole = {"fp32": 1.2, "bf16": 1.5, "bf16 compiled": 1.1, "int4-g128": 1.3}
    factor = replace(calibrated(profile).fits, whole=whole).call_overhead_factor
    eager = {"fp32": 1.2, "int8": 1.5, "autocast-bf16": 1.5, "int4-g64": 1.3}
    assert {precision: factor(precision) for precision in eager} == eager
    compiled = {"fp32": 1.0, "bf16": 1.1, "int8": 1.1}
    assert {precision: factor(precision, True) for precision in compiled} == compiled

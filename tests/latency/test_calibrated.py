"""Calls summed from fitted operations, worked by hand from one fit at a time."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from fastlab.cost.operations import operations
from fastlab.latency import calibrated as module
from fastlab.latency.calibrated import ALIKE, STRETCHED
from fastlab.latency.costs import costs_of
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.explain import waterfall
from fastlab.latency.fit import fit
from fastlab.latency.profile import ClassFit, Profile
from fastlab.latency.samples import Sample, class_of, work_of
from fastlab.spec import Point, grid, point_of
from fastlab.spec.checks import make

from .fitting import calibrated, products

POINT = point_of(model="tiny-llama", prompt_len=64, vocab=2000)


@pytest.fixture(scope="module")
def known(profile: Device) -> Device:
    """The device with round numbers, calibrated; 3 us a dispatch."""
    return calibrated(profile, dispatch_s=3e-6)


def by_hand(point: Point, known: Device) -> tuple[list[float], list[float]]:
    """Seconds of each kind of operation, times included, and the half-widths."""
    seconds, halves = [], []
    for op in operations(point):
        one = known.fits.find(class_of(op), point.recipe.precision)
        t, half = one.predict(work_of([Sample.of(op, 1.0, "fp32")]))
        seconds.append(op.times * float(t[0]))
        halves.append(float(half[0]))
    return seconds, halves


@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
def test_a_cpu_takes_operations_and_dispatches(known, phase):
    point = point_of(model="tiny-llama", prompt_len=64, phase=phase, vocab=2000)
    [e] = estimate([point], known, "calibrated")
    seconds, halves = by_hand(point, known)
    assert e.seconds == pytest.approx(sum(seconds) + 3e-6 * e.launches)
    errors = np.multiply(seconds, halves)
    variance = (1 - ALIKE) * (errors**2).sum() + ALIKE * errors.sum() ** 2
    width = math.sqrt(variance) / sum(seconds)
    assert math.log(e.high_s / e.seconds) == pytest.approx(width)
    assert math.log(e.seconds / e.low_s) == pytest.approx(width)
    assert e.model == "calibrated"


def test_a_gpu_takes_the_longer_of_the_two(known):
    gpu = replace(known, kind="cuda")
    [busy] = estimate([POINT], gpu)
    assert busy.seconds == pytest.approx(sum(by_hand(POINT, known)[0]))
    slow = replace(gpu, fits=replace(gpu.fits, dispatch_s=1e-3))
    [waiting] = estimate([POINT], slow)
    assert waiting.seconds == pytest.approx(1e-3 * waiting.launches)
    assert waiting.bound == "launch"


def test_a_graph_takes_one_replay(known):
    """One dispatch, of 20 us, for the whole graph; intervals are of the sum."""
    timing = module._timing(
        (0.0, 2e-5), replace(known, kind="cuda"), 1e-3, 0.1, 1, False
    )
    ends = [1.02e-3, 1.02e-3 / math.exp(0.1), 1.02e-3 * math.exp(0.1)]
    assert timing[:3] == pytest.approx(ends)
    assert timing.bound == "memory"


def test_every_call_of_compiled_code_has_its_price(known):
    """64 decode steps after the first token: 64 calls, or 16 of 4 steps each."""
    dear = replace(known, fits=replace(known.fits, call_s=1e-3))
    for unroll, calls in ((1, 64), (4, 16)):
        how = {"phase": "generate", "prompt_len": 8, "new_tokens": 65}
        point = point_of(model="tiny-llama", runtime="decoder", unroll=unroll, **how)
        [free], [priced] = (estimate([point], one) for one in (known, dear))
        assert priced.seconds - free.seconds == pytest.approx(calls * 1e-3)
    [free], [priced] = (estimate([POINT], one) for one in (known, dear))
    assert priced.seconds == free.seconds  # eager code


def test_a_compiled_generation_begins_eagerly(known):
    """Its prefill pays for eager launches and parts; only its steps are compiled."""
    whole = {"fp32": 2.0, "fp32 compiled": 1.5}
    fits = replace(known.fits, compiled_s=1e-6, call_s=1e-3, whole=whole)
    device = replace(known, fits=fits)
    common = {"model": "tiny-llama", "prompt_len": 8, "cache": "static"}
    prefill = point_of(**common, logits="last")
    both = point_of(**common, phase="generate", new_tokens=2, runtime="decoder")
    costs = costs_of(both, graphs=False)
    ops = operations(both)
    eager = [not op.compiled for op in ops]
    assert costs.host.eager == sum(op.times * op.launches for op in operations(prefill))
    assert eager == (~costs.compiled).tolist()
    step = point_of(**common, phase="decode", runtime="decoder")
    first, later, whole_s = estimate([prefill, step, both], device)
    assert whole_s.seconds == pytest.approx(first.seconds + later.seconds, rel=0.01)
    busy = sum(by_hand(prefill, known)[0])
    assert first.seconds == pytest.approx(2.0 * busy + 3e-6 * costs.host.eager)


def test_in_compiled_code_only_library_calls_keep_their_overhead(known):
    loop = replace(known.fits.find("linear", "fp32"), kind="gemv")
    profile = replace(known.fits, fits=(*known.fits.fits, loop))

    def fit(kind: str, compiled: bool, on: Device = known) -> ClassFit:
        return module.fit_of(kind, "fp32", compiled, on, profile)

    for kind in ("linear", "decode"):
        assert fit(kind, True) == fit(kind, False) == profile.find(kind, "fp32")
    # products that stand in for loops which were not timed are still library calls
    alone = module.fit_of("gemv", "fp32", True, known, known.fits)
    assert alone == known.fits.find("linear", "fp32")
    for kind in ("elementwise", "gemv"):
        left = fit(kind, True).parameters
        assert {*left} == {*fit(kind, False).parameters} - {"overhead_s"}
        # on a GPU every kernel takes its time to begin and end
        gpu = replace(known, kind="cuda")
        assert fit(kind, True, gpu) == profile.find(kind, "fp32")


def test_many_points_are_estimated_like_each_alone(known):
    both = {"model": ["tiny-llama", "tiny-gpt2"], "phase": ["prefill", "decode"]}
    points = grid(**both, prompt_len=[8, 64], vocab=2000)
    for point, e in zip(points, estimate(points, known), strict=True):
        [alone] = estimate([point], known)
        ends = [alone.seconds, alone.low_s, alone.high_s]
        assert [e.seconds, e.low_s, e.high_s] == pytest.approx(ends, rel=1e-9)
        assert (e.bound, e.extrapolated) == (alone.bound, alone.extrapolated)


def test_auto_takes_fits_where_there_are_any(known, profile):
    half = replace(POINT, recipe=replace(POINT.recipe, precision="bf16"))
    found = estimate([POINT, half, POINT], known)
    assert [e.model for e in found] == ["calibrated", "roofline", "calibrated"]
    assert found[0] == found[2]
    assert found[1] == estimate([half], profile, "roofline")[0]
    with pytest.raises(ValueError, match="no calibrated fit for bf16"):
        estimate([half], known, "calibrated")
    with pytest.raises(ValueError, match="round numbers has no calibrated fit"):
        estimate([POINT], profile, "calibrated")


def test_extrapolation_is_flagged(known):
    """Products were timed up to 2048 wide: a head of 40,000 is beyond, 2000 is not.

    Only operations that take more than STRETCHED of the time raise the flag.
    """
    wide = point_of(model="tiny-llama", prompt_len=64, vocab=40_000)
    inside, beyond = estimate([POINT, wide], known)
    assert (inside.extrapolated, beyond.extrapolated) == (False, True)
    times = [np.array([1.0, 1.0])]
    seconds, half = np.array([STRETCHED / 2, 1.0]), np.full(2, 0.1)
    outside, shared = np.array([True, False]), np.full(2, module.ALIKE)
    each = module.Each(seconds, half, np.ones((3, 2)), outside, shared)
    assert not module._totals(times, each)[-1][0]
    flipped = each._replace(outside=~each.outside)
    assert module._totals(times, flipped)[-1][0]


def test_what_was_not_calibrated_is_flagged_and_wide(profile):
    """Products only: attention and the rest come from the datasheet, within x2."""
    bare = replace(profile, fits=Profile((fit(products(), profile),)))
    [e] = estimate([POINT], bare)
    assert e.extrapolated
    assert e.high_s / e.low_s > 1.3


def test_elementwise_stands_in_for_what_moves_bytes(known):
    assert known.fits.find("norm", "fp32").kind == "elementwise"
    assert known.fits.find("plain", "fp32") is None
    assert known.fits.find("linear", "bf16") is None


def test_a_profile_hangs_on_its_device_and_survives_json(known):
    data = json.loads(json.dumps(known.stamped().to_dict()))
    again = Device.from_dict(data)
    assert again == known.stamped()
    assert estimate([POINT], again)[0].seconds == estimate([POINT], known)[0].seconds
    assert again.profile != replace(known, fits=None).stamped().profile
    assert (again.fits.count, again.fits.seconds) == (27 + 36 + 36 + 12, 41.0)


def test_a_profile_has_one_fit_of_each(known):
    with pytest.raises(ValueError, match="more than one fit of linear fp32"):
        Profile((known.fits.fits[0], known.fits.fits[0]))
    with pytest.raises(ValueError, match="unknown Profile field 'speed'"):
        make(Profile, {"fits": [], "speed": 3})


def test_far_weights_take_longer(known):
    """Weights of 6.9 MB at twice the time a byte: as if twice as many were read."""
    levels = {"fp32": ((2**20, 1.0), (2**30, 1.0))}
    near = replace(known, fits=replace(known.fits, levels=levels))
    far = {"fp32": ((2**20, 2.0), (2**30, 2.0))}
    slow = replace(known, fits=replace(known.fits, levels=far))
    [same], [longer] = estimate([POINT], near), estimate([POINT], slow)
    assert same == estimate([POINT], known)[0]
    assert 1.0 < longer.seconds / same.seconds < 2.0
    whole = sum(waterfall(POINT, slow).values())
    assert whole == pytest.approx(longer.seconds)


def test_levels_are_read_between_the_lines(known):
    """1 at 64 MiB, 2 at 256 MiB: 1.5 at 128 MiB, and no less than 1 or more than 2."""
    levels = {"bf16": ((2**26, 1.0), (2**28, 2.0))}
    fits = replace(known.fits, levels=levels)
    sizes = (2**20, 2**26, 2**27, 2**28, 2**33)
    found = [fits.slowdown("bf16", size) for size in sizes]
    assert found == pytest.approx([1.0, 1.0, 1.5, 2.0, 2.0])
    assert fits.slowdown("fp32", 2**33) == 1.0


def test_each_family_has_its_own_host(known):
    """5 us a launch in llama, 3 us where a family was not timed."""
    own = replace(known, fits=replace(known.fits, host_s={"llama": 5e-6}))
    llama = point_of(model="tiny-llama")
    [with_own], [without] = estimate([llama], own), estimate([llama], known)
    more = 2e-6 * with_own.launches
    assert with_own.seconds - without.seconds == pytest.approx(more)
    [gpt2], [same] = (estimate([point_of(model="tiny-gpt2")], d) for d in (own, known))
    assert gpt2 == same

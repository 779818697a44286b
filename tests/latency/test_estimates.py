"""The roofline band, worked by hand on a device with round numbers."""

from dataclasses import replace

import numpy as np
import pytest

from fastlab.latency.devices import datasheet_row, device
from fastlab.latency.estimates import estimate, roofline
from fastlab.spec import point_of

POINT, FP32 = point_of(model="tiny-llama"), ["fp32"]


def costs(*rows: tuple[float, ...]) -> np.ndarray:
    """Rows of (flops, causal, weights, activations, KV read, KV written, launches)."""
    return np.array(rows, dtype=float)


def test_one_operation_by_hand(profile):
    """1 GFLOP at 1 TFLOP/s = 1 ms; 0.2 GB at 100 GB/s = 2 ms; 3 launches = 30 us."""
    one = costs((1e9, 1e9, 1e8, 5e7, 3e7, 2e7, 3))
    seconds, low, high, bound, _ = roofline(one, FP32, profile)
    assert low == pytest.approx(2e-3 + 3e-5)
    assert high == pytest.approx(3e-3 + 3e-5)
    assert seconds == pytest.approx((low * high) ** 0.5)
    assert bound == "memory"


def test_the_band_is_taken_for_each_operation(profile):
    """A compute-bound and a memory-bound one: 1 + 2 ms at least, not max(1, 2)."""
    two = costs((1e9, 1e9, 0, 0, 0, 0, 0), (0, 0, 2e8, 0, 0, 0, 0))
    band = roofline(two, 2 * FP32, profile)
    assert band.low_s == band.high_s == pytest.approx(3e-3)


def test_causal_flops_are_what_a_fused_kernel_does(profile):
    band = roofline(costs((4e9, 2e9, 0, 0, 0, 0, 0)), FP32, profile)
    assert (band.low_s, band.bound) == (pytest.approx(2e-3), "compute")
    launches = roofline(costs((0, 0, 0, 0, 0, 0, 7)), FP32, profile)
    assert launches.bound == "launch"


def test_a_gpus_host_runs_ahead_of_it(profile):
    """Launches hide behind the work at best (max), and add to it at worst (sum)."""
    work = costs((1e9, 1e9, 0, 0, 0, 0, 30))  # 1 ms of work, 0.3 ms of launches
    band = roofline(work, FP32, replace(profile, kind="cuda"))
    assert (band.low_s, band.high_s) == pytest.approx((1e-3, 1.3e-3))


def test_what_bounds_a_large_model():
    """15 GB of weights at 4.8 TB/s: 3.1 ms at least, whatever the FLOPs."""
    point = point_of(model="llama-3.1-8b", phase="decode", precision="bf16")
    sheet = datasheet_row("h200")
    [e] = estimate([point], replace(sheet, launch_s=1e-6))
    assert e.bound == "memory"
    assert e.weight_bytes == 2 * (8_030_261_248 - 128256 * 4096) + 2 * 4096
    assert e.low_s > 15.01e9 / 4.8e12
    # eager: 1,200 kernels at 8 us of host time outlast the 3.1 ms that memory takes
    [e] = estimate([point], sheet)
    assert e.bound == "launch" and 8e-3 < e.low_s < 11e-3
    long = point_of(model="llama-3.1-8b", prompt_len=4096, precision="bf16")
    [e] = estimate([long], sheet)
    assert e.bound == "compute" and e.low_s > e.flops_causal / 989.5e12


@pytest.mark.parametrize(
    ("precision", "name", "words"),
    [
        ("bf16", "t4", "Tesla T4 has no bf16 peak; it has fp32"),
        ("int8-dynamic", "t4", "Tesla T4 has no bf16 peak; it has fp32"),
        ("fp8", "a100", r"A100.* has no fp8 peak; it has fp32"),
        ("fp8-dynamic", "a100", r"A100.* has no fp8 peak; it has fp32"),
    ],
)
def test_a_precision_that_the_device_lacks_is_named(precision, name, words):
    assert not device(name).can(precision)
    with pytest.raises(ValueError, match=words):
        estimate([point_of(model="gpt2", precision=precision)], device(name))


def test_what_is_no_list_or_no_model_of_latency_is_refused(profile):
    with pytest.raises(ValueError, match=r"model='rofline' .* did you mean roofline"):
        estimate([POINT], profile, model="rofline")
    with pytest.raises(TypeError, match=r"must be a list of points: estimate\(\[point"):
        estimate(POINT, profile)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be a Device: fl.device\('h200'\)"):
        estimate([POINT], "h200")  # type: ignore[arg-type]


def test_counts_stay_exact_beyond_floats(profile):
    """More FLOPs than 2^53: sums are of whole numbers, not of floats."""
    big = {"layers": 999, "hidden": 65_536, "vocab": 50_001, "batch": 7}
    point = point_of(family="gpt2", prompt_len=1023, **big)
    [e] = estimate([point], profile)
    n, h = 7 * 1023, 65_536
    layer = 24 * n * h**2 + 4 * 7 * 1023**2 * h
    assert e.flops == 999 * layer + 2 * n * h * 50_001 > 2**53


def test_each_operation_computes_at_its_own_peak(profile):
    """int8 at 4 TFLOP/s where rows are quantized too; weights alone at bf16's 2.

    Without a peak of its own int8 is multiplied at the dense precision's.
    """
    able = replace(profile, peak_flops={**profile.peak_flops, "int8": 4e12})
    rows = costs((8e12, 8e12, 0, 0, 0, 0, 0), (2e12, 2e12, 0, 0, 0, 0, 0))
    cases = ("int8-dynamic", able, 2 + 1), ("int8", able, 4 + 1)
    for precision, on, seconds in (*cases, ("int8-dynamic", profile, 4 + 1)):
        band = roofline(rows, (precision, "bf16"), on)
        assert band.low_s == pytest.approx(seconds)


def test_fewer_launches_are_less_overhead(profile):
    """The same step eager, compiled and as a graph: the host's launches, then bytes."""
    made = [
        estimate(
            [point_of(model="tiny-llama", phase="decode", cache="static", **how)],
            replace(profile, kind="cuda"),
        )[0]
        for how in ({}, {"runtime": "decoder"}, {"runtime": "graph"})
    ]
    eager, fused, graph = (e.launches for e in made)
    assert eager > 2.5 * fused
    assert graph == 1
    assert made[0].seconds > made[1].seconds > made[2].seconds
    assert made[0].flops == made[1].flops == made[2].flops
    assert made[0].bound == made[1].bound == "launch"


def test_an_8b_model_in_each_precision_against_its_bytes():
    """Weights at 4.8 TB/s: 15.0, 7.5 (int8 head too) and 4.0 GB read a token."""
    step = {"model": "llama-3.1-8b", "phase": "decode", "runtime": "graph"}
    known = {"bf16": (15.01e9, {}), "int8": (7.51e9, {"scope": "head"})}
    known |= {"int4-g128": (3.99e9, {"scope": "head"})}
    for precision, (weights, how) in known.items():
        point = point_of(**step, precision=precision, **how)
        [e] = estimate([point], device("h200"), "roofline")
        assert e.weight_bytes == pytest.approx(weights, rel=0.005)
        assert weights / 4.8e12 < e.low_s < 1.1 * weights / 4.8e12
        assert e.bound == "memory"

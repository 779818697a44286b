"""Fits recover the model that made their data, and say when they cannot."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab.cost import ops
from fastlab.latency.devices import device
from fastlab.latency.fit import conformal, fit
from fastlab.latency.profile import ClassFit, formula, memory_seconds
from fastlab.latency.residual import residual
from fastlab.latency.samples import Sample, Work, class_of, work_of
from fastlab.scores.ablation import VARIANTS, ablations
from fastlab.scores.correction import Errors
from fastlab.spec.checks import make

from .fitting import OTHERS, TRUTH, attentions, elementwise, products


def linear(m: int, n: int, k: int, seconds: float = 1.0) -> Sample:
    """A product of the device with round numbers, in fp32."""
    op = ops.linear("gemm", (m, n, k), 4)
    return Sample.of(op, seconds, "fp32", "round numbers")


def test_the_formula_by_hand():
    """p = 2: (3^2 + 4^2)^(1/2) = 5 s, and 2 x 0.5 s of launches, 10 x 0.1 s deep."""
    one = np.ones(1)
    places = np.zeros((1, 3))
    work = Work(3 * one, 8 * one, 2 * one, 10 * one, one, places)
    p = {"peak": 1.0, "bandwidth": 2.0, "sharpness": 1.0, "overhead_s": 0.5}
    assert formula(p | {"depth_s": 0.1}, work) == pytest.approx(7.0)
    assert formula({"peak": 1.0, "bandwidth": 2.0}, work) == pytest.approx(4.0)


def test_parameters_are_recovered(profile):
    """Exactly enough for the four that cost time; p - 1 stays near its weak prior.

    Without FLOPs there are two; quantized rows have a cost of their own.
    """
    moved = fit(elementwise(), profile).parameters
    assert moved == {name: pytest.approx(OTHERS[name], rel=0.02) for name in OTHERS}
    able = replace(profile, peak_flops={"int8": 1e12})
    quantized = [replace(s, precision="int8-dynamic") for s in products()]
    assert "row_s" in fit(quantized, able).parameters
    made = fit(products(), profile)
    found = dict(made.parameters)
    assert found.pop("sharpness") == pytest.approx(TRUTH["sharpness"], rel=0.2)
    assert found == {k: pytest.approx(TRUTH[k], rel=0.03) for k in found}
    unseen = [linear(100, 700, 300), linear(16, 2000, 64), linear(1024, 256, 1024)]
    seconds, half = made.predict(work_of(unseen))
    assert seconds == pytest.approx(formula(TRUTH, work_of(unseen)), rel=0.01)
    assert (half < 0.05).all()
    ends = [linear(8, 8, 2048), linear(8, 8, 2200), linear(7, 8, 8)]
    assert made.outside(work_of(ends)).tolist() == [False, True, True]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_is_predicted_within_a_percent(profile, phase):
    samples = attentions(phase)
    made = fit(samples, profile)
    assert made.kind == phase
    seconds, _ = made.predict(work_of(samples))
    assert seconds == pytest.approx([s.seconds for s in samples], rel=0.01)


def test_the_residual_is_exact_near_and_nothing_far(profile):
    """Kernels twice as slow at small m: learned there, forgotten far away."""
    points = np.array([[float(x), float(y)] for x in range(6) for y in range(6)])
    values = np.where(points[:, 0] < 2, 0.4, 0.0)
    found = residual(points, values)
    near, near_sd = found.at(np.array([[0.5, 3.0]]))
    far, far_sd = found.at(np.array([[200.0, 200.0]]))
    assert near == pytest.approx(0.4, abs=0.08)
    assert far == pytest.approx(0.0, abs=1e-9)
    assert far_sd > 2 * near_sd


def test_left_out_is_what_a_fit_without_them_says():
    """Points alone, and groups: others of a group give no hint, so that sd grows."""
    draw = np.random.default_rng(0)
    points, values = draw.normal(size=(12, 2)) * 3, draw.normal(size=12) / 5
    found = residual(points, values)
    alone, grouped = found.left_out(), found.left_out(np.repeat(["a", "b", "c"], 4))
    for (error, sd), n in ((alone, 1), (grouped, 4)):
        # the same reach and variances, the first points gone
        rest = replace(found, points=found.points[n:], values=found.values[n:])
        mean, rest_sd = rest.at(points[:n])
        assert error[:n] == pytest.approx(values[:n] - mean)
        assert sd[:n] == pytest.approx(rest_sd)
    assert (grouped[1] >= alone[1] - 1e-12).all()
    one = found.left_out(np.full(12, "a"))  # nothing would be left: points alone
    assert one[0] == pytest.approx(alone[0])


def test_intervals_hold_nine_of_ten_and_widen_away(profile):
    draw = np.random.default_rng(1)
    sizes = np.exp(draw.uniform(np.log(8), np.log(4096), (300, 3))).astype(int)
    bare = [linear(*size) for size in sizes.tolist()]
    noise = np.exp(draw.normal(0, 0.1, 300))
    times = (formula(TRUTH, work_of(bare)) * noise).tolist()
    samples = [replace(s, seconds=t) for s, t in zip(bare, times, strict=True)]
    made = fit(samples[:60], profile)
    seconds, half = made.predict(work_of(samples[60:]))
    inside = np.abs(np.log(seconds / times[60:])) <= half
    assert 0.82 <= inside.mean() <= 0.98
    _, away = made.predict(work_of([linear(10**6, 10**6, 10**6)]))
    assert away > np.median(half)


def test_one_outlier_moves_nothing(profile):
    samples = products()
    samples[13] = replace(samples[13], seconds=20 * samples[13].seconds)
    found = fit(samples, profile).parameters
    assert found["peak"] == pytest.approx(TRUTH["peak"], rel=0.1)
    assert found["bandwidth"] == pytest.approx(TRUTH["bandwidth"], rel=0.1)


def test_classes_of_attention():
    kinds = {(8, 0): "prefill", (1, 8): "decode", (1, 0): "prefill"}
    for (new, past), kind in kinds.items():
        fused = ops.attention("a", (2, new, past, 4, 4, 32), 4)
        assert class_of(fused) == kind
    assert class_of(ops.plain_attention(fused, 4, True, True)) == "plain"


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"seconds": float("nan")}, "seconds=nan must be a finite number > 0"),
        ({"seconds": None}, "seconds=None must be"),
        ({"bytes": -4}, "bytes=-4 must be"),
        ({"flops": float("inf")}, "flops=inf must be"),
        ({"dims": ()}, r"dims=\(\) must be 3 numbers"),
        ({"dims": (0, 8, 8)}, "dims=.* must be 3 numbers > 0"),
        ({"launches": 0}, "launches=0 must be > 0"),
    ],
)
def test_bad_samples_are_skipped_with_the_reason(profile, over, words):
    bad = replace(products()[0], **over)
    made = fit([bad, *products()], profile)
    assert made.count == 27
    [said] = made.skipped
    assert re.search(words, said)
    with pytest.raises(ValueError, match="no usable sample; skipped linear"):
        fit([bad], profile)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"precision": "bf16"}, "more than one precision: bf16, fp32"),
        ({"device": "another"}, "more than one device: another, round numbers"),
        ({"kind": "elementwise"}, "more than one class: elementwise, linear"),
    ],
)
def test_mixed_samples_are_refused(profile, over, words):
    with pytest.raises(ValueError, match=words):
        fit([replace(products()[0], **over), *products()], profile)


def test_samples_that_do_not_suffice_are_refused(profile):
    with pytest.raises(ValueError, match="of round numbers do not fit another"):
        fit(products(), replace(profile, name="another"))
    with pytest.raises(ValueError, match="linear fp32: 4 usable samples for 5 param"):
        fit(products()[:4], profile)
    with pytest.raises(ValueError, match="no usable sample"):
        fit([], profile)


def test_a_gpus_decode_is_fitted_to_six_points(profile):
    """Other GPUs say two of its seven parameters; a quick calibration has six."""
    gpu = replace(device("h100"), name=profile.name)
    some = [replace(s, precision="bf16") for s in attentions("decode")]
    found = fit(some[::7], gpu).parameters
    lanes = gpu.product_rate("fp32")
    assert found["row_s"] == pytest.approx(7e5 / lanes, rel=0.5)
    with pytest.raises(ValueError, match="decode bf16: 4 usable samples for 5 param"):
        fit(some[:4], gpu)


seconds = st.floats(1e-6, 1.0)


@settings(max_examples=20)
@given(st.lists(seconds, min_size=27, max_size=27))
def test_any_fit_survives_json(profile, times):
    pairs = zip(products(), times, strict=True)
    made = fit([replace(s, seconds=t) for s, t in pairs], profile)
    assert make(ClassFit, json.loads(json.dumps(asdict(made)))) == made
    assert (made.predict(work_of(products()))[0] > 0).all()


def test_conformal_is_the_ceiling_quantile():
    """Of 19 scores the 18th: ceil(0.9 x 20)."""
    assert conformal(np.arange(-19.0, 0.0)) == 18.0
    assert conformal(np.array([3.0, 1.0])) == 3.0


def test_errors_by_hand():
    """+10, -20 and 0 %: median 10, mean 10, bias 0; p90 = 10 + 0.8 x 10."""
    e = Errors.of("x", np.array([1.1, 0.8, 1.0]), np.ones(3))
    figures = [e.median, e.mean, e.p90, e.bias]
    assert figures == pytest.approx([10, 10, 18, 0], abs=1e-9)
    assert np.isnan(Errors.of("x", np.array([]), np.array([])).median)


def test_ablations_name_every_term_and_baseline(profile):
    table = {e.name: e for e in ablations(products(), profile)}
    terms = [v for v in VARIANTS if v != "without rows"]
    assert list(table) == [
        *("full model", "without residual", *terms),
        "datasheet roofline",
        "efficiencies 0.7 / 0.9",
        "FLOPs / datasheet peak",
    ]
    assert table["full model"].median < 1
    for term in ("overhead", "depth", "overlap exponent (max)"):
        assert table[f"without {term}"].mean > 2 * table["full model"].mean
    names = [e.name for e in ablations(elementwise(), profile)]  # without FLOPs
    assert names[-1] == "datasheet bandwidth"
    assert "without depth" not in names


def test_a_residual_of_anything_stays_where_matrices_can_be_inverted():
    # Residuals of a factor e^1000: a variance of a million is the likeliest, and none
    # above 0.03 x e^8 is taken.
    rng = np.random.default_rng(0)
    wild = residual(rng.random((20, 2)), 1000 * rng.standard_normal(20))
    assert wild.variance <= 0.03 * np.exp(8) * 1.001
    error, sd = wild.left_out()
    assert np.isfinite(error).all()
    assert (sd > 0).all()


def test_what_fits_a_cache_is_moved_faster():
    """1 s a byte, 1/4 s of 10 cached bytes: at 10 half of either, far off all of one.

    Of 20 bytes a share 1 / (1 + 2^-4) = 16/17 comes from memory.
    """
    p = {"bandwidth": 1.0, "cache_bandwidth": 4.0, "cache_bytes": 10.0}
    seconds = memory_seconds(p, np.array([0.01, 10.0, 20.0, 1e4]))
    by_hand = [0.0025, (10 + 2.5) / 2, (16 * 20 + 5) / 17, 1e4]
    assert seconds == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("faster", [1, 4])
def test_a_cache_is_found_on_a_gpu_that_has_one_and_not_elsewhere(faster):
    """Products of one row that obey the formula, 16 MiB of them served 4 times faster.

    Where they are not, nothing is left for a cache to explain.
    """
    gpu = replace(device("l40s"), l2_bytes=2**25)
    p = {"peak": 1e14, "bandwidth": 6e11, "sharpness": 1.0, "overhead_s": 2e-6}
    p |= {"cache_bandwidth": faster * 6e11, "cache_bytes": 2.0**24}
    sizes = [2**n for n in range(8, 15)]
    bare = [linear(m, n, k) for m in (1, 64) for n in sizes for k in sizes[::2]]
    times = (formula(p, work_of(bare))).tolist()
    samples = [
        replace(s, seconds=t, device=gpu.name) for s, t in zip(bare, times, strict=True)
    ]
    found = fit(samples, gpu).parameters
    assert ("cache_bytes" in found) == (faster > 1)
    if faster > 1:
        assert found["cache_bandwidth"] == pytest.approx(4 * 6e11, rel=0.15)
        assert found["cache_bytes"] == pytest.approx(2**24, rel=0.15)
    without = fit(samples, gpu, ("cache_bandwidth", "cache_bytes"))
    assert "cache_bytes" not in without.parameters
    assert "cache_bytes" not in fit(samples, replace(gpu, kind="cpu")).parameters


def test_quantized_products_of_rows_out_of_step_have_other_kernels_on_a_gpu():
    """Half as fast where rows are no multiple of 4: known of sizes in between."""
    gpu = device("h100")
    p = {"peak": 1e15, "bandwidth": 3e12, "sharpness": 1.0, "overhead_s": 5e-6}
    sizes, rows = (1024, 2048, 4096, 8192), (255, 256, 1023, 1024)
    bare = [
        Sample.of(ops.linear("gemm", (m, n, k), 1), 1.0, "fp8-dynamic", gpu.name)
        for m in rows
        for n in sizes
        for k in sizes
    ]
    slow = np.array([1 + one.dims[0] % 2 for one in bare])
    times = (formula(p, work_of(bare)) * slow).tolist()
    samples = [replace(s, seconds=t) for s, t in zip(bare, times, strict=True)]
    found = fit(samples, gpu)
    ends = [replace(bare[0], dims=(m, 3000, 3000)) for m in (511, 512)]
    ends = [replace(s, flops=2 * 9e6 * s.dims[0], bytes=9e6) for s in ends]
    odd, even = found.predict(work_of(ends))[0]
    assert odd / even == pytest.approx(2, rel=0.1)
    old = replace(found.residual, points=tuple(p[:3] for p in found.residual.points))
    old = replace(old, reach=old.reach[:3])
    assert len(replace(found, residual=old).predict(work_of(ends))[0]) == 2

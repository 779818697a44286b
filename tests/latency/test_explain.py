"""Where an estimate's seconds go: the shares and steps that it is the sum of."""

from dataclasses import replace

import pytest

from fastlab.cost.operations import operations
from fastlab.latency.devices import datasheet_row
from fastlab.latency.estimates import estimate
from fastlab.latency.explain import HOST, STEPS, breakdown, waterfall
from fastlab.spec import point_of

from .fitting import calibrated

POINTS = [
    point_of(model="tiny-llama", prompt_len=64),
    point_of(model="tiny-gpt2", phase="decode", runtime="graph"),
    point_of(model="tiny-llama", phase="generate", new_tokens=5, runtime="decoder"),
]
WHERE = [(point, "cuda") for point in POINTS]
WHERE += [(point, "cpu") for point in POINTS if not point.recipe.engine.on_gpus]
LATER = ("+ nearby", "+ whole call")  # steps that may be negative


@pytest.mark.parametrize(("point", "kind"), WHERE)
def test_both_sum_to_the_estimate(point, kind, profile):
    """Without fits the steps lead to the lower end of the roofline."""
    fits = replace(calibrated(profile, dispatch_s=3e-6).fits, call_s=1e-3)
    whole = {"fp32": 1.2, "fp32 compiled": 0.9}
    for known in (None, fits, replace(fits, whole=whole)):
        here = replace(profile, fits=known, kind=kind)
        [made] = estimate([point], here)
        shares, steps = breakdown(point, here), waterfall(point, here)
        assert sum(s.seconds for s in shares) == pytest.approx(made.seconds)
        names = [op.name for op in operations(point)]
        assert [s.name for s in shares] == [*names, HOST]
        end = made.seconds if known else made.low_s
        assert sum(steps.values()) == pytest.approx(end, rel=1e-6)
        assert tuple(steps) == STEPS
        assert min(steps[step] for step in STEPS if step not in LATER) >= 0
        assert known or steps["+ nearby"] == steps["+ launches"] == 0


def test_one_operation_by_hand(profile):
    """The head, 512 x 64 of 64 rows: bytes at 100 GB/s, FLOPs at 1 TFLOP/s."""
    shares = {s.name: s for s in breakdown(POINTS[0], profile)}
    flops = 2 * 64 * 512 * 64
    moved = 4 * (512 * 64 + 64 * (512 + 64))
    low, high = max(flops / 1e12, moved / 1e11), flops / 1e12 + moved / 1e11
    assert shares["head"].seconds == pytest.approx((low * high) ** 0.5)
    assert shares["head"].bound == ("compute" if flops > 10 * moved else "memory")
    assert shares[HOST].bound == "launch"


def test_whole_calls_are_a_step_of_their_own(profile):
    """x 1.5 on a CPU: half of what the operations take, the host apart."""
    alone = calibrated(profile, dispatch_s=3e-6)
    whole = replace(alone, fits=replace(alone.fits, whole={"fp32": 1.5}))
    before, after = (waterfall(POINTS[0], one) for one in (alone, whole))
    half = 0.5 * sum(before[step] for step in STEPS[:4])
    assert before["+ whole call"] == 0
    assert after == pytest.approx(before | {"+ whole call": half})


def test_a_host_that_queues_ahead_adds_only_what_work_does_not_hide():
    """Of 1 us a launch: all of it on a CPU; on a GPU what exceeds the work."""
    point, h200 = POINTS[0], replace(datasheet_row("h200"), launch_s=1e-6)
    gpu, cpu = waterfall(point, h200), waterfall(point, replace(h200, kind="cpu"))
    busy = gpu["math"] + gpu["+ bytes"]
    assert cpu["+ host"] == pytest.approx(1e-6 * estimate([point], h200)[0].launches)
    assert gpu["+ host"] == pytest.approx(max(cpu["+ host"] - busy, 0))

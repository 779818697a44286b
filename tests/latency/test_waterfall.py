"""The steps of an estimate: what they sum to, and what each may be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastlab.latency.devices import Device
from fastlab.latency.devices import device as datasheet_row
from fastlab.latency.estimates import estimate
from fastlab.latency.explain import STEPS, waterfall
from fastlab.spec import grid
from tests.latency.fitting import calibrated

POINTS = grid(
    family="llama", layers=2, hidden=256, phase=["prefill", "decode"], vocab=512
)


@pytest.fixture(scope="module")
def device() -> Device:
    return datasheet_row("h200")


@pytest.fixture(scope="module")
def known(profile):
    return calibrated(profile, dispatch_s=3e-6)


@pytest.mark.parametrize("runtime", ["cpu", "cuda"])
@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.workload.phase)
def test_the_steps_of_a_waterfall_sum_to_the_estimate(known, point, runtime):
    device = replace(known, kind=runtime)
    found = waterfall(point, device)
    (whole,) = estimate([point], device)
    assert tuple(found) == STEPS
    assert sum(found.values()) == pytest.approx(whole.seconds)
    either = ("+ nearby", "+ whole call")
    assert min(found[step] for step in STEPS if step not in either) >= 0


def test_whole_calls_are_a_step_of_their_own(known):
    """x 1.5 on a CPU: half of what the operations take, the host apart."""
    alone = replace(known, kind="cpu")
    whole = replace(known.fits, whole={"fp32": 1.5})
    before, after = (
        waterfall(POINTS[0], d) for d in (alone, replace(alone, fits=whole))
    )
    operations = sum(before[step] for step in STEPS[:4])
    assert before["+ whole call"] == 0
    assert after["+ whole call"] == pytest.approx(0.5 * operations)
    assert {k: after[k] for k in STEPS if k != "+ whole call"} == pytest.approx(
        {k: before[k] for k in STEPS if k != "+ whole call"}
    )


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.workload.phase)
def test_without_fits_they_sum_to_the_lower_roofline(device, profile, point):
    for one in (device, profile):
        found = waterfall(point, one)
        (whole,) = estimate([point], one)
        assert sum(found.values()) == pytest.approx(whole.low_s)
        assert found["+ nearby"] == found["+ launches"] == 0


def test_a_host_that_queues_ahead_adds_only_what_work_does_not_hide(device):
    """Of 1 us a launch: all of it on a CPU; on a GPU what exceeds the work."""
    point = POINTS[0]
    gpu = waterfall(point, replace(device, launch_s=1e-6))
    cpu = waterfall(point, replace(device, launch_s=1e-6, kind="cpu"))
    busy = gpu["math"] + gpu["+ bytes"]
    assert cpu["+ host"] == pytest.approx(1e-6 * estimate([point], device)[0].launches)
    assert gpu["+ host"] == pytest.approx(max(cpu["+ host"] - busy, 0))

"""The seconds of each operation add up to the estimate, by both models of latency."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastlab.cost.operations import operations
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.explain import HOST, breakdown, waterfall
from fastlab.spec import point_of

from .fitting import calibrated

POINTS = [
    point_of(model="tiny-llama", prompt_len=64),
    point_of(model="tiny-gpt2", phase="decode", runtime="graph"),
    point_of(model="tiny-llama", phase="generate", new_tokens=5, runtime="decoder"),
]


WHERE = [(point, "cuda") for point in POINTS]
WHERE += [(point, "cpu") for point in POINTS if not point.recipe.engine.on_gpus]


@pytest.mark.parametrize(("point", "kind"), WHERE)
def test_shares_sum_to_the_estimate(point, kind: str, profile: Device) -> None:
    fits = replace(calibrated(profile, dispatch_s=3e-6).fits, call_s=1e-3)
    whole = {"fp32": 1.2, "fp32 compiled": 0.9}
    for known in (None, fits, replace(fits, whole=whole)):
        device = replace(profile, fits=known, kind=kind)
        [made] = estimate([point], device)
        shares = breakdown(point, device)
        assert sum(s.seconds for s in shares) == pytest.approx(made.seconds)
        names = [op.name for op in operations(point)]
        assert [s.name for s in shares] == [*names, HOST]
        assert sum(waterfall(point, device).values()) == pytest.approx(
            made.seconds if known else made.low_s, rel=1e-6
        )


def test_one_operation_by_hand(profile: Device) -> None:
    """The head, 512 x 64 of 64 rows: bytes at 100 GB/s, FLOPs at 1 TFLOP/s."""
    shares = {s.name: s for s in breakdown(POINTS[0], profile)}
    flops = 2 * 64 * 512 * 64
    moved = 4 * (512 * 64 + 64 * (512 + 64))
    low, high = max(flops / 1e12, moved / 1e11), flops / 1e12 + moved / 1e11
    assert shares["head"].seconds == pytest.approx((low * high) ** 0.5)
    assert shares["head"].bound == ("compute" if flops > 10 * moved else "memory")
    assert shares[HOST].bound == "launch"

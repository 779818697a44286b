"""What-if: seconds, what fits and USD, on a device with round numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastlab.latency.devices import Device, device
from fastlab.latency.estimates import estimate
from fastlab.latency.whatif import LABEL, Request, offer, offers, typical
from fastlab.spec import PRESETS, Recipe

REQUEST = Request(PRESETS["tiny-llama"], prompt_len=32, new_tokens=9)


def test_typical_efficiencies(profile: Device) -> None:
    usual = typical(profile)
    assert usual.peak("fp32") == pytest.approx(0.7e12)
    assert usual.bandwidth == pytest.approx(0.9e11)


def test_an_offer_by_hand(profile: Device) -> None:
    """3.6 USD an hour are 0.1 cent a second: 1,000 requests cost 1 USD a second."""
    made = offer(REQUEST, replace(profile, price_per_hour=3.6))
    whole, first = estimate(
        [REQUEST.point("generate"), REQUEST.point("prefill")], typical(profile)
    )
    assert made.label == LABEL == "estimated, not calibrated"
    assert made.seconds == pytest.approx(whole.seconds)
    assert made.ttft_s == pytest.approx(first.seconds)
    assert made.tpot_s == pytest.approx((whole.seconds - first.seconds) / 8)
    assert made.cost == pytest.approx(made.seconds)


def test_a_batch_shares_the_price(profile: Device) -> None:
    priced = replace(profile, price_per_hour=3.6)
    made = offer(replace(REQUEST, batch=4), priced)
    assert made.cost == pytest.approx(made.seconds / 4)


def test_without_a_price_there_is_no_cost(profile: Device) -> None:
    assert offer(REQUEST, profile).cost is None


def test_one_token_has_no_time_per_further_token(profile: Device) -> None:
    assert offer(replace(REQUEST, new_tokens=1), profile).tpot_s is None


def test_a_model_that_does_not_fit_is_refused_with_its_size() -> None:
    request = Request(PRESETS["llama-3.1-8b"], 512, 32)
    made = offer(request, device("rtx3090"))
    assert made.refused == ""
    made = offer(replace(request, recipe=Recipe("fp32")), device("rtx3090"))
    assert made.refused.startswith("needs 32.")
    assert made.refused.endswith("GB of 25.8 GB")
    assert made.seconds is None


def test_a_missing_precision_is_refused() -> None:
    assert offer(REQUEST, device("t4")).refused == "no bf16"


def test_the_cheapest_comes_first_and_refusals_last() -> None:
    request = Request(PRESETS["llama-3.1-8b"], 512, 64)
    named = [device(n) for n in ("t4", "h200", "l4", "a100", "rtx5090")]
    found = offers(request, named)
    costs = [made.cost for made in found if made.cost is not None]
    assert costs == sorted(costs)
    assert len(costs) == 3
    assert found[-1].refused == "no bf16"
    assert found[-2].cost is None  # nobody rents it out: no price known

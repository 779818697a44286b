"""What-if: seconds, what fits and USD, on a device with round numbers."""

from dataclasses import replace

import pytest

from fastlab.latency.devices import device
from fastlab.latency.estimates import estimate
from fastlab.latency.whatif import Request, offer, offers, typical
from fastlab.spec import PRESETS, Recipe

REQUEST = Request(PRESETS["tiny-llama"], prompt_len=32, new_tokens=9)


def test_an_offer_by_hand(profile):
    """3.6 USD an hour are 0.1 cent a second: 1,000 requests cost 1 USD a second."""
    made = offer(REQUEST, replace(profile, price_per_hour=3.6))
    whole, first = estimate(
        [REQUEST.point("generate"), REQUEST.point("prefill")], typical(profile)
    )
    assert typical(profile).peak("fp32") == pytest.approx(0.7e12)
    assert typical(profile).bandwidth == pytest.approx(0.9e11)
    assert made.seconds == pytest.approx(whole.seconds)
    assert made.ttft_s == pytest.approx(first.seconds)
    assert made.tpot_s == pytest.approx((whole.seconds - first.seconds) / 8)
    assert made.cost == pytest.approx(made.seconds)
    shared = offer(replace(REQUEST, batch=4), replace(profile, price_per_hour=3.6))
    assert shared.cost == pytest.approx(shared.seconds / 4)
    one = offer(replace(REQUEST, new_tokens=1), profile)
    assert one.cost is None and one.tpot_s is None  # no price, no further token


def test_a_model_that_does_not_fit_is_refused_with_its_size():
    request = Request(PRESETS["llama-3.1-8b"], 512, 32)
    made = offer(request, device("rtx3090"))
    assert made.refused == ""
    made = offer(replace(request, recipe=Recipe("fp32")), device("rtx3090"))
    assert made.refused.startswith("needs 32.")
    assert made.refused.endswith("GB of 25.8 GB")
    assert made.seconds is None


def test_the_cheapest_comes_first_and_refusals_last():
    request = Request(PRESETS["llama-3.1-8b"], 512, 64)
    named = [device(n) for n in ("t4", "h200", "l4", "a100", "rtx5090")]
    found = offers(request, named)
    costs = [made.cost for made in found if made.cost is not None]
    assert costs == sorted(costs)
    assert len(costs) == 3
    assert found[-1].refused == "no bf16"
    assert found[-2].cost is None  # nobody rents it out: no price known

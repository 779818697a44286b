"""What-if: seconds, what fits and USD, on a device with round numbers."""

from dataclasses import replace

import pytest

from fastlab.latency.devices import device
from fastlab.latency.estimates import estimate
from fastlab.latency.whatif import SHEET, Move, Request, moves, offer, offers, typical
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


def test_a_prior_answers_with_a_band_and_a_datasheet_without():
    prior, sheet = (offer(REQUEST, device(name)) for name in ("h100", "m4-max"))
    (whole,) = estimate([REQUEST.point("generate")], device("h100"))
    assert (prior.basis, prior.bound) == ("prior", whole.bound)
    assert (prior.low_s, prior.seconds, prior.high_s) == pytest.approx(
        (whole.low_s, whole.seconds, whole.high_s)
    )
    assert (sheet.basis, sheet.low_s, sheet.high_s) == (SHEET, None, None)
    assert sheet.seconds is not None


def test_an_fpga_is_refused_since_nothing_is_known_of_it():
    assert offer(REQUEST, device("kv260")).refused == "no bf16"


def test_own_rows_move_by_their_median_and_their_number():
    """Six rows, in the median x4: 4 ** (6 / 8); one row x2: 2 ** (1 / 3)."""
    step = replace(REQUEST, new_tokens=1).point("generate")
    first, h100 = REQUEST.point("prefill"), device("h100")
    (whole, prefill) = (e.seconds for e in estimate([step, first], h100))
    own = [(step, factor * whole, h100) for factor in (1, 4, 4, 4, 4, 99)]
    found = moves([*own, (first, 2 * prefill, h100)])
    assert found["decode"] == (pytest.approx(4 ** (6 / 8)), 6)
    assert found["prefill"] == (pytest.approx(2 ** (1 / 3)), 1)
    assert moves(own)["prefill"] == (1.0, 0)
    with pytest.raises(ValueError, match="M4 Max' has no prior"):
        moves([(first, 1.0, device("m4-max"))])


def test_a_moved_offer_by_hand():
    plain = offer(REQUEST, device("h100"))
    moved = {"prefill": Move(2.0, 1), "decode": Move(3.0, 1)}
    made = offer(REQUEST, device("h100"), moved)
    assert made.ttft_s == pytest.approx(2 * plain.ttft_s)
    assert made.tpot_s == pytest.approx(3 * plain.tpot_s)
    assert made.seconds == pytest.approx(made.ttft_s + 8 * made.tpot_s)
    assert made.high_s / made.seconds == pytest.approx(plain.high_s / plain.seconds)
    assert made.cost / plain.cost == pytest.approx(made.seconds / plain.seconds)
    still = offer(REQUEST, device("m4-max"), moved)
    assert still == offer(REQUEST, device("m4-max"))

"""Spaces and plans: which calls make a request, what is left out and why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import fastlab as fl
from fastlab.latency.estimates import estimate
from fastlab.searches.plan import plan
from fastlab.searches.quality import Losses, guessed, losses_in, model_of
from fastlab.searches.spaces import Candidate, candidate, read_space
from fastlab.spec import Point, Workload, grid
from fastlab.spec.scenarios import Targets, scenario
from tests.sweeps.test_files import written


def points(**lists) -> list[Point]:
    return grid(**({"model": "tiny-llama", "prompt_len": 8} | lists))


def generation(**recipe) -> Candidate:
    (point,) = points(phase="generate", new_tokens=6, **recipe)
    return candidate(point)


def told(own: Candidate) -> list[tuple[str, int, str, str, int]]:
    return [
        (
            p.workload.phase,
            p.workload.prompt_len,
            p.workload.logits,
            p.recipe.runtime,
            n,
        )
        for p, n in own.calls
    ]


def test_a_generation_is_a_prefill_and_steps_in_the_middle():
    """Six tokens: one of the prefill, then five with 8 to 12 cached before: 10."""
    assert told(generation()) == [
        ("prefill", 8, "last", "eager", 1),
        ("decode", 10, "all", "eager", 5),
    ]
    assert told(generation(runtime="decoder"))[0][3] == "eager"
    assert told(generation(runtime="decoder"))[1][3] == "decoder"
    seconds = generation().seconds([0.1, 0.02])
    assert seconds == pytest.approx({"e2e_s": 0.2, "ttft_s": 0.1, "tpot_s": 0.02})


@pytest.mark.parametrize(
    "recipe", [{"runtime": "transformers"}, {"runtime": "decoder", "unroll": 2}]
)
def test_what_only_generates_is_timed_whole(recipe):
    own = generation(**recipe)
    assert [(p.workload.phase, n) for p, n in own.calls] == [
        ("prefill", 0),
        ("generate", 1),
    ]
    seconds = own.seconds([0.1, 0.6])
    assert seconds == pytest.approx({"e2e_s": 0.6, "ttft_s": 0.1, "tpot_s": 0.1})


def test_one_token_is_its_prefill_and_other_calls_are_themselves():
    (one,) = points(phase="generate", new_tokens=1)
    assert told(candidate(one)) == [("prefill", 8, "last", "eager", 1)]
    (decode,) = points(phase="decode")
    assert candidate(decode).calls == ((decode, 1),)


def test_parts_add_up_to_the_estimate_of_the_whole(profile):
    """Steps at the mean length: within a thousandth of all steps one by one."""
    own = generation()
    made = own.total(estimate([p for p, _ in own.calls], profile))
    (whole,) = estimate([own.point], profile)
    assert made["e2e_s"] == pytest.approx(whole.seconds, rel=1e-3)
    assert made["flops"] == whole.flops


def test_a_scenario_says_what_is_asked_of_a_space(tmp_path):
    text = "grids: [{model: tiny-llama, precision: [fp32, bf16]}]"
    path = written(tmp_path, text)
    asked = scenario("live-translation")
    _, every = read_space(path, asked)
    assert {own.point.workload for own in every} == {
        asked.workload(every[0].point.shape)
    }
    assert [len(own.calls) for own in every] == [3, 3]
    alone = read_space(path, scenario("in-car-voice"))[1]  # one user: nobody waits
    assert [len(own.calls) for own in alone] == [2, 2]
    _, plain = read_space(path)
    assert plain[0].point.workload == Workload()
    _, named = read_space(
        written(tmp_path, "grids: [{precision: fp32}]"), None, "tiny-gpt2"
    )
    assert named[0].point.shape.family == "gpt2"


@pytest.mark.parametrize(
    ("text", "model", "words"),
    [
        (
            "grids: [{model: gpt2, batch: 2}]",
            "",
            "grid 1: batch is given beside the file",
        ),
        ("grids: [{model: gpt2}]", "gpt2", "grid 1: model is given beside the file"),
        ("grids: [{model: gpt2, precison: bf16}]", "", "did you mean precision"),
        ("grids: []", "", "grids must be a list with at least one grid"),
        ("grids: [{model: bert}]", "", "does not decode"),
    ],
)
def test_a_space_that_cannot_be_is_refused(tmp_path, text, model, words):
    with pytest.raises(ValueError, match=words):
        read_space(written(tmp_path, text), scenario("live-translation"), model)


def test_the_committed_spaces_are_valid():
    from pathlib import Path

    names = sorted(path.name for path in Path("data/spaces").glob("*.yaml"))
    assert names == ["as-it-is.yaml", "dense-cpu.yaml", "trained-12x192.yaml"]
    _, dense = read_space("data/spaces/dense-cpu.yaml")
    assert len(dense) == 400
    _, named = read_space("data/spaces/as-it-is.yaml", scenario("assistant"), "gpt2")
    assert len(named) > 100
    _, cut = read_space("data/spaces/trained-12x192.yaml", scenario("in-car-voice"))
    assert len({model_of(own.point) for own in cut}) < len(cut)


def own_plan(profile, every: list[Point], **how):
    return plan([candidate(point) for point in every], profile, **how)


def test_what_cannot_be_is_left_out_with_its_reason(profile):
    """8 GiB of memory; no fp8; and a prefill of 8 tokens within 1 ms."""
    large = points(model="llama-3.1-8b", precision="bf16")
    fits = points(precision=["fp32", "fp8"])
    made = own_plan(profile, [*fits, *large])
    assert {i: why.split(":")[0] for i, why in made.why.items()} == {
        1: "cannot run",
        2: "memory",
    }
    assert "needs 16.1 GB of 7.9 GB" in made.why[2]
    (one,) = estimate(fits[:1], profile)
    both = [fits[0], *points(layers=64)]
    tight = own_plan(profile, both, targets=Targets(e2e_s=one.seconds))
    assert [*tight.why] == [1] and tight.why[1].startswith("target: e2e ")
    assert tight.goal.limits[0] == pytest.approx(one.seconds)


def test_where_none_is_left_the_closest_is_named(profile):
    small = points(layers=[2, 64])
    with pytest.raises(
        ValueError, match="no candidate can meet the targets; closest is llama 2x"
    ):
        own_plan(profile, small, targets=Targets(ttft_s=1e-9))
    with pytest.raises(
        ValueError, match="no candidate fits; the closest is llama 32x4096 bf16"
    ):
        own_plan(profile, points(model="llama-3.1-8b", precision=["fp32", "bf16"]))
    with pytest.raises(ValueError, match="no candidate runs on round numbers"):
        own_plan(profile, points(precision="fp8"))
    with pytest.raises(ValueError, match="lam=-1"):
        own_plan(profile, small, lam=-1)


def test_what_the_estimate_cannot_tell_apart_is_a_class(profile):
    """The choice of layers changes no time, the share of them does."""
    every = points(
        layers=4, prune_layers=[0.25, 0.5], prune_layer_choice=["first", "last"]
    )
    own = own_plan(profile, every).goal.beliefs.own
    assert own[0] == own[1] != own[2] == own[3]


def test_lambda_weighs_time_beside_computation(profile):
    """C / C0 + lam T / T0, as seconds: T + C / C0 x T0 / lam."""
    every = points(layers=[2, 4], hidden=64)
    made = own_plan(profile, every, lam=2.0)
    one, two = estimate(every, profile)
    assert made.shares == pytest.approx([one.flops / two.flops, 1])
    assert made.goal.extra == pytest.approx(made.shares * two.seconds / 2)
    assert not own_plan(profile, every).goal.extra.any()


TRAINED = "trained:" + "0" * 64


def cut(**how) -> Point:
    (point,) = points(layers=8, hidden=64, **how)
    return replace(point, weights=TRAINED)


def test_a_loss_counts_for_all_that_share_the_model():
    every = [cut(), cut(phase="decode"), cut(precision="bf16"), cut(prune_layers=0.5)]
    losses = Losses(every, floor=0.02)
    assert losses.of(0) == losses.of(1) == 0 and math.isnan(losses.of(2))
    assert losses.chances()[:2].tolist() == [1, 1]
    losses.known[model_of(every[3])] = 0.5
    assert losses.misses(3) == "floor: loses 50 % of 2.0 %" and losses.misses(0) == ""
    assert losses.misses(2) == "floor: its loss is not known"
    assert losses.chances()[3] == 0 and losses.chances()[2] > 0.9
    assert Losses(every, None).chances().tolist() == [1] * 4


def test_what_is_judged_moves_what_is_believed_of_the_others():
    """A quarter of the layers lost much: so will half of them."""
    every = [cut(prune_layers=share) for share in (0.125, 0.25, 0.5)]
    losses = Losses(every, floor=0.05)
    before = losses.chances()
    assert before[0] > before[1] > before[2]
    losses.known[model_of(every[0])] = 0.4
    after = losses.chances()
    assert after[0] == 0 and (after[1:] < before[1:]).all()


def test_losses_are_of_rows_that_a_text_judged():
    """The trained rows of the reference: the guess is right within a factor of 3."""
    records = [r for ref in fl.references() for r in ref.records if r.quality]
    found, own = losses_in(records), {model_of(r.point): r.point for r in records}
    assert len(found) == 93
    off = [math.log(max(s, 1e-5) / guessed(own[m])) for m, s in found.items()]
    assert abs(np.median(off)) < 0.3 and np.mean(np.abs(off) < math.log(3)) > 0.8

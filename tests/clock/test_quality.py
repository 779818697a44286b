"""Quality: KL by hand, nothing lost by nothing done, one reference for many rows."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fastlab.checkpoints import export_model
from fastlab.clock import quality
from fastlab.clock.divergence import compare_logits, quality_from
from fastlab.clock.quality import Reference, questions_of
from fastlab.learning.tokens import make_tokenizer, text_loss
from fastlab.models import build as dense
from fastlab.record import Quality
from fastlab.shrink.recipes import build
from fastlab.shrink.trained import Trained
from fastlab.spec import Point, point_of


def compared(reference: torch.Tensor, logits: torch.Tensor) -> Quality:
    return quality_from([compare_logits(reference, logits)])


def test_kl_by_hand():
    """p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln 3 / 2 = 0.1438 nats."""
    reference = torch.zeros(3, 2)
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, math.log(3)]])
    got = compared(reference, logits)
    assert got.kl_nats == pytest.approx((math.log(2) - math.log(3) / 2) / 3, rel=1e-6)
    assert got.top1 == pytest.approx(2 / 3)
    assert got.max_abs == pytest.approx(math.log(3))
    assert got.bits_per_byte is None


@pytest.mark.parametrize("chunk", [2**22, 32 * 50])
def test_kl_is_torchs_own_in_any_chunks(monkeypatch, chunk):
    """And a constant added to all logits changes no probability."""
    monkeypatch.setattr("fastlab.clock.divergence.CHUNK", chunk)
    p, q = torch.randn(2, 70, 50)
    own = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert compared(p, q).kl_nats == pytest.approx(own.item(), rel=1e-5)
    got = compared(p, p + 1)
    assert got.kl_nats == pytest.approx(0, abs=1e-6)
    assert (got.top1, got.max_abs) == (1, pytest.approx(1, rel=1e-5))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 3\) must have the size"):
        compared(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        compared(torch.zeros(1, 2), torch.tensor([[0.0, torch.nan]]))


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-bert"])
def test_fp32_loses_nothing(name):
    point = point_of(model=name)
    got, reason = Reference().quality(point, build(point))
    assert reason == ""
    assert (got.kl_nats, got.top1, got.max_abs) == (pytest.approx(0, abs=1e-9), 1, 0)


def test_fewer_bits_lose_more_on_the_same_weights():
    reference, kl = Reference("cpu"), {}
    for precision in ("bf16", "int8", "int4-g128", "autocast-bf16"):
        point = point_of(model="tiny-llama", precision=precision, hidden=128)
        got, _ = reference.quality(point, build(point))
        kl[precision] = got.kl_nats
    # Other weights than the reference's would be two orders of magnitude away.
    assert 0 < kl["bf16"] < kl["int8"] < kl["int4-g128"] < 1e-3
    assert 0 < kl["autocast-bf16"] < kl["int8"]


def test_one_reference_serves_all_rows_on_the_same_weights(monkeypatch):
    built: list[Any] = []
    noted = lambda p, d, t: built.append(p) or dense(p, d)  # noqa: E731
    monkeypatch.setattr(quality, "build", noted)
    reference = Reference("cpu")
    for precision in ("bf16", "int8"):
        for batch in (1, 2):
            point = point_of(model="tiny-llama", precision=precision, batch=batch)
            reference.quality(point, build(point))
    assert [p.recipe.precision for p in built] == ["fp32"]
    other = point_of(model="tiny-llama", weights="random:1")
    reference.quality(other, build(other))
    assert len(built) == 2


def test_the_tokens_depend_on_the_weights_alone():
    point = point_of(model="tiny-llama", batch=3, prompt_len=11, precision="int8")
    ids = questions_of(point).ids
    assert ids.shape == (1, 256)
    assert torch.equal(
        ids, questions_of(point_of(model="tiny-llama", phase="decode")).ids
    )
    short = point_of(model="tiny-llama", max_positions=64, prompt_len=8)
    assert questions_of(short).ids.shape == (1, 64)


def test_a_reference_that_does_not_fit_or_has_no_source_is_refused(monkeypatch):
    monkeypatch.setattr(quality.machine, "free_bytes", lambda kind: 2**10)
    point = point_of(model="tiny-llama", precision="bf16")
    got, reason = Reference().quality(point, build(point))
    assert got is None
    assert reason == "the fp32 reference needs 614 kB, 1.02 kB free"
    point = point_of(model="tiny-llama", weights="trained:abc")
    assert Reference().quality(point, build(point_of(model="tiny-llama"))) == (
        None,
        "no source of the fp32 weights trained:abc",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny llama with a tokenizer of 300 tokens, and a text of its own."""
    folder = tmp_path_factory.mktemp("model")
    text = folder / "text.txt"
    text.write_text("".join(f"{n} cats and {n * n} dogs, ï.\n" for n in range(6000)))
    tokenizer = make_tokenizer(text.read_text(), 300)
    model = build(point_of(model="tiny-llama", vocab=300, max_positions=128))
    export_model(model, tokenizer, folder)
    return Trained(str(folder), (str(text),))


def trained_point(trained: Trained, **recipe: Any) -> Point:
    return point_of(model=trained.source, weights="trained", **recipe)


def test_trained_weights_are_judged_on_held_out_text(trained):
    """bf16 weights in fp32 lose nothing; bits per byte are those of text_loss."""
    point, reference = trained_point(trained), Reference("cpu", trained)
    model = build(point, trained=trained)
    got, reason = reference.quality(point, model)
    assert got is not None, reason
    assert (got.kl_nats, got.top1) == (pytest.approx(0, abs=1e-9), 1)
    whole = text_loss(model, trained.tokenizer, trained.corpus.held_out, 128)
    asked = reference.evaluator(point).questions
    if len(asked.ids) == whole.blocks:
        assert got.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-5)
        assert asked.sizes.sum() == whole.bytes
    assert got.bits_per_byte == got.dense_bits_per_byte
    assert got.low <= got.bits_per_byte <= got.high


def test_what_is_cut_costs_bits(trained):
    reference = Reference("cpu", trained)
    point = trained_point(trained, prune_ffn=0.5, prune_importance="activation")
    model = build(point, trained=trained)
    got, reason = reference.quality(point, model)
    assert got is not None, reason
    assert got.kl_nats > 0
    assert got.kl_low <= got.kl_nats <= got.kl_high
    assert got.dense_bits_per_byte is not None
    assert got.bits_per_byte != got.dense_bits_per_byte


def test_the_bits_of_a_uniform_guess_are_known():
    """log2(8) = 3 bits a token of 2 bytes each: 1.5; the reference is sure: 0."""
    sure = torch.zeros(4, 8)
    targets = torch.tensor([1, 2, 3, 4])
    sure[range(4), targets] = 1e4
    block = compare_logits(sure, torch.zeros(4, 8), targets)
    got = quality_from([block] * 8, np.full(8, 8))
    assert got.bits_per_byte == pytest.approx(1.5)
    assert (got.low, got.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert got.dense_bits_per_byte == pytest.approx(0)
    assert got.kl_nats == pytest.approx(math.log(8))
    assert quality_from([block] * 7, np.full(7, 8)).low is None


def test_weights_and_shapes_of_another_model_are_refused(trained):
    other = replace(trained_point(trained), weights="trained:abc")
    with pytest.raises(ValueError, match="weights='trained:abc'"):
        build(other, trained=trained)
    deeper = trained_point(trained, layers=3)
    with pytest.raises(ValueError, match="is not that of"):
        build(deeper, trained=trained)

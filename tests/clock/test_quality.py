"""Quality: KL by hand, nothing lost by nothing done, one reference for many rows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fastlab.clock import quality
from fastlab.clock.quality import Reference, compared, quality_of, token_ids
from fastlab.models import build as dense
from fastlab.record import Record
from fastlab.shrink.recipes import build
from fastlab.spec import point_of


def test_kl_by_hand() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln 3 / 2 = 0.1438 nats."""
    reference = torch.zeros(3, 2)
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, math.log(3)]])
    got = compared(reference, logits)
    assert got.kl_nats == pytest.approx((math.log(2) - math.log(3) / 2) / 3, rel=1e-6)
    assert got.top1 == pytest.approx(2 / 3)
    assert got.max_abs == pytest.approx(math.log(3))
    assert got.bits_per_byte is None


def test_kl_is_torchs_own_in_any_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(70, 50, generator=generator) for _ in range(2))
    own = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert compared(p, q).kl_nats == pytest.approx(own.item(), rel=1e-5)


def test_a_constant_added_to_all_logits_changes_no_probability() -> None:
    logits = torch.randn(4, 9)
    got = compared(logits, logits + 1)
    assert got.kl_nats == pytest.approx(0, abs=1e-6)
    assert got.top1 == 1
    assert got.max_abs == pytest.approx(1, rel=1e-5)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \(2, 3\) must have the size"):
        compared(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        compared(torch.zeros(1, 2), torch.tensor([[0.0, torch.nan]]))


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-bert"])
def test_fp32_loses_nothing(name: str) -> None:
    point = point_of(model=name)
    got, reason = quality_of(point, build(point))
    assert reason == "" and got is not None
    assert (got.kl_nats, got.top1, got.max_abs) == (pytest.approx(0, abs=1e-9), 1, 0)


def test_fewer_bits_lose_more_on_the_same_weights() -> None:
    reference, kl = Reference("cpu"), {}
    for precision in ("bf16", "int8", "int4-g128", "autocast-bf16"):
        point = point_of(model="tiny-llama", precision=precision, hidden=128)
        got, _ = quality_of(point, build(point), reference=reference)
        assert got is not None
        kl[precision] = got.kl_nats
    # Other weights than the reference's would be two orders of magnitude away.
    assert 0 < kl["bf16"] < kl["int8"] < kl["int4-g128"] < 1e-3
    assert 0 < kl["autocast-bf16"] < kl["int8"]


def test_one_reference_serves_all_rows_on_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[Any] = []
    monkeypatch.setattr(quality, "build", lambda p, d: built.append(p) or dense(p, d))
    reference = Reference("cpu")
    for precision in ("bf16", "int8"):
        for batch in (1, 2):
            point = point_of(model="tiny-llama", precision=precision, batch=batch)
            quality_of(point, build(point), reference=reference)
    assert [p.recipe.precision for p in built] == ["fp32"]
    other = point_of(model="tiny-llama", weights="random:1")
    quality_of(other, build(other), reference=reference)
    assert len(built) == 2


def test_the_tokens_depend_on_the_weights_alone() -> None:
    point = point_of(model="tiny-llama", batch=3, prompt_len=11, precision="int8")
    ids = token_ids(point)
    assert ids.shape == (1, 256)
    assert torch.equal(ids, token_ids(point_of(model="tiny-llama", phase="decode")))
    short = point_of(model="tiny-llama", max_positions=64, prompt_len=8)
    assert token_ids(short).shape == (1, 64)


def test_a_reference_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality.machine, "free_bytes", lambda kind: 2**10)
    point = point_of(model="tiny-llama", precision="bf16")
    got, reason = quality_of(point, build(point))
    assert got is None
    assert reason == "the fp32 reference needs 0.0 GiB, 0.0 GiB free"


def test_trained_weights_need_their_source(tmp_path: Any) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    model = build(point_of(model="tiny-llama"))
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    point = point_of(model="tiny-llama", weights="trained:abc")
    assert quality_of(point, model) == (
        None,
        "no source of the fp32 weights trained:abc",
    )
    got, _ = quality_of(point, model, reference=Reference("cpu", str(tmp_path)))
    assert got is not None and got.max_abs == 0


def test_quality_goes_through_the_store() -> None:
    point = point_of(model="tiny-llama", precision="bf16")
    got, _ = quality_of(point, build(point))
    record = Record(point, "here", {}, "ok", quality=got)
    assert Record.from_dict(record.to_dict()).quality == got

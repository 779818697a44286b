"""The article's path on a trained model: its steps, a run, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastlab as fl
from fastlab.figures import article
from fastlab.learning.checkpoint import export_model
from fastlab.learning.text import stdlib_corpus
from fastlab.learning.tokens import make_tokenizer
from fastlab.notebook import pipeline
from fastlab.spec import point_of

SIZES = {"layers": 4, "hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16}
SIZES |= {"ffn": 96, "vocab": 300, "max_positions": 64, "tied": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A llama that nobody trained, with a tokenizer and a text of its own."""
    folder = tmp_path_factory.mktemp("trained")
    text = stdlib_corpus().held_out[:40_000]
    (folder / "own.txt").write_text(text, encoding="utf-8")
    made = fl.build(point_of(family="llama", prompt_len=8, **SIZES))
    export_model(made, make_tokenizer(text, SIZES["vocab"]), folder / "model")
    return folder


def test_the_steps_and_what_each_adds(model):
    steps = pipeline.pipeline_points(model / "model", 1024, 3)
    assert list(steps) == [
        *("dense", "pruned", "distilled", "16 bit", "8 bit", "compiled")
    ]
    assert {p.workload.prompt_len for p in steps.values()} == {64}
    built = steps["compiled"].built_shape
    assert (built.layers, built.hidden, built.ffn, built.heads) == (1, 48, 64, 6)
    assert [p.recipe.precision for p in steps.values()] == [
        *("fp32", "fp32", "fp32", "bf16", "int8-dynamic", "int8-dynamic")
    ]
    assert steps["compiled"].recipe.runtime == "compile"


def test_steps_that_change_nothing_are_left_out(model):
    steps = pipeline.pipeline_points(model / "model", 8, 0, ["fp32"], compiled=False)
    assert list(steps) == ["dense", "pruned"]


def test_no_model_is_told_and_nothing_runs(tmp_path):
    for name in ("", "no-such-model"):
        found = fl.run_pipeline(name, tmp_path / "student")
        assert (found.steps, found.records) == ({}, ())
        assert "nothing runs live: no trained model" in repr(found)
    assert not (tmp_path / "student").exists()


def test_a_count_below_zero_is_refused(model, tmp_path):
    place = tmp_path / "student"
    with pytest.raises(ValueError, match="distill_steps"):
        fl.run_pipeline(str(model / "model"), place, distill_steps=-1)


@pytest.fixture(scope="module")
def ran(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "student"
    how = {"prompt_len": 16, "distill_steps": 2, "compiled": False}
    text = str(model / "own.txt")
    return place, fl.run_pipeline(str(model / "model"), place, text, 0.02, **how)


def test_a_whole_run(ran):
    _, found = ran
    assert [r.point for r in found.records] == list(found.steps.values())
    assert len(found.losses) == 2
    assert "distilled for 2 steps" in repr(found)
    able = [r for r in found.records if r.status == "ok"]
    assert len(able) >= 3  # a CPU without bf16 has no more
    assert all(r.measured and r.estimate and r.quality for r in able)
    dense = able[0].quality
    assert dense.kl_nats == pytest.approx(0, abs=1e-9)
    assert dense.bits_per_byte == pytest.approx(dense.dense_bits_per_byte, rel=1e-5)
    assert able[1].quality.kl_nats > 0
    refused = [r for r in found.records if r.status != "ok"]
    assert all(r.reason for r in refused)


def test_the_student_is_kept_and_as_small_as_was_said(ran):
    place, found = ran
    model, tokenizer = fl.load(place)
    built = found.steps["distilled"].built_shape
    count = sum(p.numel() for p in model.parameters())
    assert count == fl.parameters(built)
    assert tokenizer("import")["input_ids"]


def test_the_run_becomes_a_staircase(ran):
    _, found = ran
    rows = article.case_rows(fl.table(found.records), {"prefill": found.steps})
    assert list(rows["step"]) == list(found.steps)
    assert rows["bits_per_byte"].iloc[:3].notna().all()
    panels = article.staircase(rows).panels
    assert [panel.x.label[:4] for panel in panels] == ["time", "bits"]


def test_eight_bit_formats_for_many_rows_quantize_activations_too():
    assert pipeline.DYNAMIC["int8"] == "int8-dynamic"

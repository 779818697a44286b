"""The article's path on a trained model, as notebook 10 runs it cell by cell."""

import operator
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import fastlab as fl
from fastlab.checkpoints import export_model
from fastlab.figures import article
from fastlab.learning.text import stdlib_corpus
from fastlab.learning.tokens import make_tokenizer
from fastlab.spec import point_of
from tests.cells import run_cells

SIZES = {"layers": 4, "hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16}
CUT = {"prune_layers": 0.75, "prune_hidden": 0.33, "prune_ffn": 0.33}
SIZES |= {"ffn": 96, "vocab": 300, "max_positions": 64, "tied": True}
CELLS = ("student", "models", "bench", "judged")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A llama that nobody trained, with a tokenizer and a text of its own."""
    folder = tmp_path_factory.mktemp("trained")
    text = stdlib_corpus().held_out[:40_000]
    (folder / "own.txt").write_text(text, encoding="utf-8")
    made = fl.build(point_of(family="llama", prompt_len=8, **SIZES))
    export_model(made, make_tokenizer(text, SIZES["vocab"]), folder / "model")
    return folder


def run_live(model, *cells, place=None, name=None, **parameters):
    """The names after the live cells of notebook 10, run on the CPU."""
    names = {"prompt_len": 1024, "distill_steps": 3, "formats": ["bf16", "int8"]}
    names |= {"compiled": "both", "case": article, "cut": CUT} | parameters
    names |= {"accumulate": accumulate, "or_": operator.or_, "pd": pd}
    names["data"] = Path(fl.__file__).parents[1] / "data"
    names["live_model"] = str(model / "model") if name is None else name
    names |= {"folder": names["live_model"], "live_text": str(model / "own.txt")}
    settings = fl.Settings.for_device("cpu", budget_s=0.02)
    names["run"] = SimpleNamespace(
        kind="cpu", settings=settings, path=lambda name: place / name
    )
    return run_cells("10", "live", "trained", *cells, **names)


def test_the_steps_and_what_each_adds(model):
    steps = run_live(model)["live"]
    assert list(steps) == [
        *("dense", "pruned", "distilled", "16 bit", "8 bit", "compiled")
    ]
    assert {p.workload.prompt_len for p in steps.values()} == {64}
    built = steps["compiled"].built_shape
    assert (built.layers, built.hidden, built.ffn, built.heads) == (1, 48, 64, 6)
    # 8-bit formats for many rows quantize activations too.
    assert [p.recipe.precision for p in steps.values()] == [
        *("fp32", "fp32", "fp32", "bf16", "int8-dynamic", "int8-dynamic")
    ]
    assert steps["compiled"].recipe.runtime == "compile"


def test_steps_that_change_nothing_are_left_out(model):
    few = {"prompt_len": 8, "formats": ["fp32"], "compiled": "none"}
    assert list(run_live(model, **few)["live"]) == ["dense", "pruned", "distilled"]


def test_no_model_and_nothing_runs(model, tmp_path):
    found = run_live(model, *CELLS, place=tmp_path, name="")
    assert (found["live"], found["records"], found["losses"]) == ({}, [], [])
    assert not (tmp_path / "student").exists()


def test_a_name_that_is_none_is_refused_before_any_work():
    names = {"live_model": "stdlib-12x19", "paths": {}, "source": "auto"}
    with pytest.raises(ValueError, match=r"live_model='std.*: stdlib-12x192"):
        run_cells("10", "start", **names, budget_s=0.1)


@pytest.fixture(scope="module")
def ran(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    how = {"prompt_len": 16, "distill_steps": 2, "compiled": "none"}
    return place / "student", run_live(model, *CELLS, place=place, **how)


def test_a_whole_run(ran):
    _, found = ran
    records = found["records"]
    assert [r.point for r in records] == list(found["live"].values())
    assert found["losses"][-1]["step"] == 2
    able = [r for r in records if r.status == "ok"]
    assert len(able) >= 3  # a CPU without bf16 has no more
    assert all(r.measured and r.estimate and r.quality for r in able)
    dense = able[0].quality
    assert dense.kl_nats == pytest.approx(0, abs=1e-9)
    assert dense.bits_per_byte == pytest.approx(dense.dense_bits_per_byte, rel=1e-5)
    assert able[1].quality.kl_nats > 0
    assert all(r.reason for r in records if r.status != "ok")


def test_the_student_is_kept_and_as_small_as_was_said(ran):
    place, found = ran
    model, tokenizer = fl.load(place)
    built = found["live"]["distilled"].built_shape
    count = sum(p.numel() for p in model.parameters())
    assert count == fl.parameters(built)
    assert tokenizer("import")["input_ids"]

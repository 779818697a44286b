"""The winner and the frontier of rows with worked numbers; words that lead back."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import fastlab as fl
from fastlab.cli import main
from fastlab.record import Quality, Record
from fastlab.report import winner as choice
from fastlab.spec import point_of
from fastlab.spec.cuts import cut_points
from fastlab.sweeps.reference import FOLDER
from fastlab.sweeps.store import Store
from tests.figures.made import measurement
from tests.small import logits


def timed(ms: float, kl: float | None = None, bits: float = 0, **how: Any) -> Record:
    """A row of a tiny model that took so long; bits per byte over a dense model's 2."""
    text = {"bits_per_byte": bits, "dense_bits_per_byte": 2.0} if bits else {}
    lost = None if kl is None else Quality("fp32", "", kl, 0.9, 0.1, **text)
    point = point_of(**{"model": "tiny-llama", "prompt_len": 8} | how)
    made = {"measured": measurement(ms / 1e3), "quality": lost}
    return Record(point, "cpu", {}, "ok", at_utc="2026-01-02T03:04:05", **made)


ROWS = [
    timed(10),
    timed(8, 0.001, precision="bf16"),
    timed(5, 0.01, precision="int8"),
    timed(4, 0.5, precision="int4-g32"),
    timed(3, precision="int8-dynamic"),  # nobody asked what it lost
    timed(1, 0.0, phase="decode"),  # of another call
]


def test_the_winner_is_the_fastest_that_is_known_to_lose_little() -> None:
    rows = choice.judged(ROWS, {})
    call = choice.main_call(rows)
    assert list(call["measured_ms"].round(6)) == [3, 4, 5, 8, 10]
    assert list(call["measured_gain"].round(6)) == [3.333333, 2.5, 2, 1.25, 1]
    assert choice.winner(call)["recipe"] == "int8"
    assert choice.winner(call, 0.5)["recipe"] == "int4-g32"
    assert choice.winner(call, 0.001)["recipe"] == "bf16"
    assert choice.winner(call, 0)["recipe"] == "fp32"
    assert choice.winner(choice.main_call(choice.judged(ROWS[2:5], {})), 0) is None
    assert list(rows["baseline"]) == [True, *[False] * 4, True]


def test_where_a_text_judged_bits_per_byte_count_and_not_kl() -> None:
    rows = [timed(10), timed(5, 0.9, 2.02, precision="int8")]
    rows.append(timed(4, 0.001, 2.1, precision="int4-g32"))
    call = choice.main_call(choice.judged(rows, {}))
    assert list(call["loss"].round(6)) == [0.05, 0.01, 0]
    assert choice.winner(call)["recipe"] == "int8"


@pytest.mark.parametrize("name", ["cuts", "xeon-2-threads", "xeon-2-threads-smaller"])
def test_words_to_copy_lead_back_to_point_text_and_students(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pack` and `build` get the point, and the text and students its row names."""
    got: list[Any] = []
    model = "data/checkpoints/stdlib-12x192"
    every: set[tuple[Any, str]] = set()
    told = {"text": ["a b.txt", "c.txt"], "students": "kept here"}
    envs: dict[str, Any] = {"": told}
    if name == "cuts":
        ways = {"shares": [0.25, 0.5], "ways": ["all"], "model": model}
        plain, own = (cut_points(**ways, **how) for how in ({}, {"weights": "trained"}))
        cut = [replace(p.recipe, distill_steps=4) for p in own if p.recipe.prunes]
        kept = [replace(own[0], recipe=recipe) for recipe in cut]
        every = {(point, "") for point in [*plain, *own, *kept]}
    else:
        store = Store(FOLDER / name)
        every = {(row.point, row.env) for row in store.each(samples=False)}
        envs = store.envs()
    pack = "fastlab.cli.winner._pack"
    monkeypatch.setattr(pack, lambda point, *rest: got.append((point, rest[-1])))
    monkeypatch.setattr("fastlab.cli.points.echo_left_out", lambda reasons: None)
    monkeypatch.setattr(fl, "save", lambda model, folder: None)
    monkeypatch.setattr(fl, "build", lambda p, trained=None: got.append((p, trained)))
    for point, env in every:
        words = choice.command(point, "pack", envs[env], "--to", "nowhere")
        done = CliRunner().invoke(main, shlex.split(words)[1:])
        assert done.exit_code == 0, done.output
        exec(choice.python(point, envs[env], "nowhere"), {})
        (packed, of), (built, trained) = got[-2:]
        assert packed == built == point
        if point.seed is None:
            text, students = told.values()
            if name != "cuts":
                text, students = [], "data/checkpoints/students"
            assert [*of.get("text", ())] == [*trained.text] == text
            if point.recipe.distill_steps:
                assert of["students"] == trained.students == students
    assert len(got) == 2 * len(every) > 40


def test_what_is_copied_from_a_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command and the Python make folders that load as the point's own model."""
    cut = {
        "prune_layers": 0.5,
        "precision": "int8",
        "scope": "all",
        "weights": "random:3",
    }
    point = point_of(model="tiny-llama", hidden=64, prompt_len=8, **cut)
    monkeypatch.chdir(tmp_path)
    words = choice.command(point, "pack", {}, "--to", "packed").split()
    done = CliRunner().invoke(main, words[1:])
    assert words[0] == "fastlab" and done.exit_code == 0, done.output
    exec(choice.python(point, {}, "made"), {})
    own = logits(fl.build(point), point)
    for folder in ("packed", "made"):
        assert torch.equal(logits(fl.load(folder)[0], point), own)
    again = choice.command(point, "measure", {}, "--budget-s", "0.02", "--json")
    done = CliRunner().invoke(main, again.split()[1:])
    assert done.exit_code == 0 and '"status": "ok"' in done.output


def test_weights_that_nobody_holds_are_named_by_a_placeholder() -> None:
    point = replace(point_of(model="tiny-llama"), weights="trained:0")
    assert choice.options(point)["model"] == "MODEL"
    assert "--model MODEL" in choice.command(point, "pack", {})
    assert "trained=fl.Trained('MODEL')" in choice.python(point, {}, "winner")

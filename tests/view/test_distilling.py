"""Students, live and stored: what resumes, what is read, and what the figures say."""

from __future__ import annotations

import json
import math
import shutil
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import fastlab as fl
from fastlab.clock.evaluator import Evaluator
from fastlab.learning.checkpoint import export_model
from fastlab.learning.tokens import make_tokenizer
from fastlab.models import build
from fastlab.spec import Point, Workload
from fastlab.spec.shape import ModelShape
from fastlab.view.plots.distilling import run_colors
from fastlab.view.plots.pruning import CUTS

tables = sys.modules[fl.tables.recovered.__module__]
SHAPE = ModelShape(
    *("llama", 4, 32, 4, 2, 8, 64), vocab=300, max_positions=64, tied=True
)
PLAN = fl.tables.course(0.5, 4, 2.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    lines = [f"the {n} th line of {n * n} words\n" for n in range(6000)]
    (folder / "text.txt").write_text("".join(lines))
    text = "".join(lines)
    export_model(
        build(Point(SHAPE, Workload(prompt_len=8))), make_tokenizer(text, 300), folder
    )
    return fl.Trained(str(folder), [str(folder / "text.txt")])


@pytest.fixture(scope="module")
def dense(trained):
    return fl.tables.built(trained)


@pytest.fixture(scope="module")
def judge(trained, dense):
    return Evaluator.of(trained, dense, 3)


@pytest.fixture(scope="module")
def learned(trained, dense, judge, tmp_path_factory):
    place = tmp_path_factory.mktemp("students")
    return fl.tables.recovered(trained, dense, judge, PLAN, place)


def test_the_dense_model_loses_nothing_against_itself(dense, judge):
    quality = judge.quality(dense)
    assert quality.kl_nats == pytest.approx(0, abs=1e-9)
    assert quality.top1 == 1
    assert quality.bits_per_byte == pytest.approx(judge.dense, rel=1e-5)
    assert judge.bits_per_byte(dense) == pytest.approx(judge.dense, rel=1e-5)
    assert judge.words == "3 held-out blocks of 64 tokens"


def test_each_student_is_judged_before_and_while_it_learns(learned, judge):
    assert list(dict.fromkeys(learned["student"])) == list(tables.STUDENTS)
    for _, own in learned.groupby("student"):
        assert list(own["step"]) == [0, 1, 2, 3, 4]
    ratio = learned["bits_per_byte"] / judge.dense
    assert list(learned["of_dense"]) == pytest.approx(list(ratio))
    assert learned["parameters"].nunique() == 1
    halved = fl.parameters(fl.pruned_shape(SHAPE, PLAN.pruning))
    assert learned["parameters"].iloc[0] == halved
    starts = learned[learned["step"] == 0].set_index("student")["bits_per_byte"]
    assert starts[tables.TEACHER] == starts[tables.TEXT] != starts[tables.SCRATCH]


def test_a_stopped_lesson_goes_on_and_ends_the_same(
    trained, dense, judge, learned, tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "SAVE_S", 0.0)

    def stop(student, done):
        def on_row(row):
            if row["step"] == 3 and not (tmp_path / "stopped").exists():
                (tmp_path / "stopped").touch()
                raise KeyboardInterrupt

        return on_row

    monkeypatch.setattr(tables, "_words", stop)
    with pytest.raises(KeyboardInterrupt):
        fl.tables.recovered(trained, dense, judge, PLAN, tmp_path)
    again = fl.tables.recovered(trained, dense, judge, PLAN, tmp_path)
    columns = ["student", "step", "bits_per_byte"]
    pd.testing.assert_frame_equal(again[columns], learned[columns])


def test_a_finished_lesson_is_not_repeated(
    trained, dense, judge, tmp_path, monkeypatch
):
    first = fl.tables.recovered(trained, dense, judge, PLAN, tmp_path)
    steps = []
    monkeypatch.setattr(tables, "_words", lambda *_: steps.append)
    again = fl.tables.recovered(trained, dense, judge, PLAN, tmp_path)
    assert steps == []
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(
    ("given", "named"),
    [((1.0, 4, 2.0), "layers=1.0"), ((0.5, 0, 2.0), "steps=0"),
     ((0.5, 4, 0.0), "temperature=0.0")],
)  # fmt: skip
def test_a_course_out_of_range_is_refused_by_name(given, named):
    with pytest.raises(ValueError, match=named):
        fl.tables.course(*given)


def test_what_was_won_back_by_hand():
    rows = [("pruned", 0, 1.6), ("pruned", 4, 1.3)]
    table = pd.DataFrame(rows, columns=["student", "step", "bits_per_byte"])
    assert fl.tables.won_back(table, 1.0) == {"pruned": 0.5}
    guessed = fl.tables.won_back(table, 1.0, 0.2)
    assert guessed == {"your guess": 0.2, "pruned": 0.5}


def stored(folder, name, run):
    (folder / name).mkdir(parents=True)
    (folder / name / "run.json").write_text(json.dumps(run))


def reached(bits):
    return {"bits_per_byte": bits, "low": bits - 0.01, "high": bits + 0.01}


@pytest.fixture
def shelf(tmp_path, trained):
    curve = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}]
    text = {"train_bytes": 300, "train_tokens": 100, "held_out_sha256": "a"}
    for name, layers, steps, bits in (("big", 4, 20, 1.0), ("new", 2, 10, 1.5)):
        run = {"run": {"shape": SHAPE.to_dict() | {"layers": layers}}, "steps": steps}
        run |= {"text": text, "parameters": 100 * layers, "curve": curve}
        stored(tmp_path, name, run | {"held_out": reached(bits)})
    recipe = {"pruning": {"layers": 0.5, "layer_choice": "last"}, "distill_steps": 10}
    run = {"teacher": trained.weights, "recipe": recipe, "parameters": 200}
    run |= {"held_out_sha256": "a", "held_out": reached(1.1), "curve": curve}
    stored(tmp_path, "student/final", run)
    return tmp_path


def test_stored_runs_are_told_apart_and_compared(shelf, trained, judge):
    runs = fl.tables.kept(shelf)
    assert list(runs["name"]) == ["big", "new", "student"]
    assert list(runs["kind"]) == ["dense", "from scratch", "distilled"]
    assert list(runs["layers"]) == [4, 2, 2]
    assert list(runs["steps"]) == [20, 10, 10]
    # 2 nats a token, a token for three bytes: 2 / ln 2 / 3 bits per byte.
    first = runs["curve"][0][0]["bits_per_byte"]
    assert first == pytest.approx(2 / math.log(2) / 3)
    pairs = fl.tables.before_and_after(runs, trained, judge)
    assert list(pairs["whole"]) == pytest.approx([1.5, 1.1])
    assert pairs["after"].isna().all()  # no weights are kept beside the run.json
    assert math.isnan(pairs["before"][0])
    assert pairs["before"][1] > 0
    words = fl.alt.students(runs, pairs, "by hand")
    assert "+10.0%" in words
    assert "by hand" in words
    figure = fl.plots.students(runs, pairs)
    assert len(figure.axes[2].get_yticks()) == 2
    plt.close(figure)


def test_a_kept_student_is_judged_on_the_blocks_at_hand(shelf, trained, judge):
    for file in trained.folder.glob("*.*"):
        shutil.copy(file, shelf / "student" / "final")
    runs = fl.tables.kept(shelf)
    pairs = fl.tables.before_and_after(runs, trained, judge)
    assert pairs["after"][1] == pytest.approx(1, rel=1e-5)
    assert "folder" not in pairs
    assert "0.0% after on the blocks" in fl.alt.students(runs, pairs, "by hand")


def test_a_run_has_one_colour_of_its_own(shelf):
    runs = fl.tables.kept(shelf)
    colors = run_colors(runs)
    assert colors == {"big": "#000000", "new": "#a96b59", "student": CUTS["layers"][0]}
    twice = pd.concat([runs, runs.assign(name=runs["name"] + " 2")])
    assert len(set(run_colors(twice).values())) == 6


def test_nothing_stored_is_said_in_figure_and_text(tmp_path, trained, judge):
    runs = fl.tables.kept(tmp_path)
    pairs = fl.tables.before_and_after(runs, trained, judge)
    assert "nothing stored yet" in fl.alt.students(runs, pairs, "")
    figure = fl.plots.students(runs, pairs)
    said = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert all("no such run is stored yet" in words for words in said)
    assert len(said) == 3


def test_the_committed_runs_are_read(judge):
    runs = fl.tables.kept()
    assert "dense" in set(runs["kind"])
    assert (runs["bits_per_byte"] < 1.6).any()


def test_the_live_figure_names_every_student(learned, judge):
    figure = fl.plots.recovery(learned, judge.dense, "title")
    said = " ".join(t.get_text() for axes in figure.axes for t in axes.texts)
    for student in tables.STUDENTS:
        assert student in said
        assert student in fl.alt.recovery(learned, judge.dense, "cap")
    plt.close(figure)


def test_both_halves_of_the_broken_axis_have_one_scale(learned, judge):
    far = learned.copy()
    scratch = far["student"] == tables.SCRATCH
    far.loc[scratch, "bits_per_byte"] += 5
    figure = fl.plots.recovery(far, judge.dense, "title")
    figure.draw_without_rendering()
    heights = [axes.get_window_extent().height for axes in figure.axes]
    spans = [high - low for low, high in (axes.get_ylim() for axes in figure.axes)]
    assert heights[0] / spans[0] == pytest.approx(heights[1] / spans[1], rel=0.02)
    assert "axis is broken" in figure.axes[0].get_title(loc="left")
    plt.close(figure)


def test_a_temperature_brings_probabilities_together(dense, trained):
    soft = fl.tables.softened(dense, trained.tokenizer, "the ", [1, 4])
    assert len(soft) == 8
    narrow, wide = soft["T = 1"], soft["T = 4"]
    assert list(narrow) == sorted(narrow, reverse=True)
    # Ratios of probabilities take the fourth root at T = 4.
    assert wide[0] / wide[7] == pytest.approx((narrow[0] / narrow[7]) ** 0.25, rel=1e-4)
    figure = fl.plots.softened(soft, "the ")
    assert len(figure.axes) == 2
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert "T = 4" in fl.alt.softened(soft, "the ")
    plt.close(figure)


def test_text_at_hand_is_compared_with_that_of_run_json(trained, tmp_path):
    assert "no run.json" in fl.tables.same_text(trained)
    folder = trained.folder
    try:
        for sha, words in (
            (trained.corpus.held_out_sha256, "is that of run.json: 1.234"),
            ("other", "another one here"),
        ):
            run = {"held_out_sha256": sha, "held_out": {"bits_per_byte": 1.234}}
            (folder / "run.json").write_text(json.dumps(run))
            assert words in fl.tables.same_text(trained)
    finally:
        (folder / "run.json").unlink()


def test_no_blocks_are_refused(trained, dense):
    with pytest.raises(ValueError, match="blocks=0"):
        Evaluator.of(trained, dense, 0)
    assert isinstance(Evaluator.of(trained, dense, 1), Evaluator)


def test_a_text_shorter_than_a_block_is_judged_in_shorter_ones(trained, tmp_path):
    (tmp_path / "short.txt").write_text("\n".join(f"line {n}" for n in range(520)))
    short = fl.Trained(trained.source, [str(tmp_path / "short.txt")])
    model = fl.tables.built(short)
    held = short.tokenizer(short.corpus.held_out)["input_ids"]
    judge = Evaluator.of(short, model, 4)
    assert judge.ids.shape[1] == min(64, len(held) - 1)

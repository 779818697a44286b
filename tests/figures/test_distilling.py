"""Students, live and stored: what resumes, what is read, and what the figures say."""

from __future__ import annotations

import json
import math
import shutil

import pandas as pd
import pytest

import fastlab as fl
from fastlab.clock.evaluator import Evaluator
from fastlab.figures import distilling
from fastlab.learning.checkpoint import export_model
from fastlab.learning.tokens import make_tokenizer
from fastlab.models import build
from fastlab.spec import Point, Workload
from fastlab.spec.pruning import pruned_shape
from fastlab.spec.shape import ModelShape

SHAPE = ModelShape(
    *("llama", 4, 32, 4, 2, 8, 64), vocab=300, max_positions=64, tied=True
)
PLAN = distilling.DistillPlan(0.5, 4, 2.0)
STUDENTS = [distilling.TEACHER, distilling.LEARNER, distilling.SCRATCH]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    text = "".join(f"the {n} th line of {n * n} words\n" for n in range(6000))
    (folder / "text.txt").write_text(text)
    model = build(Point(SHAPE, Workload(prompt_len=8)))
    export_model(model, make_tokenizer(text, 300), folder)
    return fl.Trained(str(folder), [str(folder / "text.txt")])


@pytest.fixture(scope="module")
def dense(trained):
    return fl.built(trained)


@pytest.fixture(scope="module")
def judge(trained, dense):
    return Evaluator.of(trained, dense, 3)


def learn(trained, dense, judge, folder, on_row=None):
    """What the notebook's cell does, with the same verbs."""
    ids, curves = trained.seen(length=64, rows=128).flatten(), {}
    look = {"evaluate": judge.bits_per_byte, "evaluate_every": 1, "save_every_s": 0}
    for name, student, lesson in PLAN.students(trained):
        first = {"held_out": judge.bits_per_byte(student), "step": 0, "seconds": 0}
        look |= {"how": PLAN.how(student), "folder": folder / name, "on_row": on_row}
        rest = fl.distill(student, dense, ids, PLAN.steps, config=lesson, **look)
        curves[name] = [first | {"parameters": student.num_parameters()}, *rest]
    return distilling.recovered(curves, judge.dense)


@pytest.fixture(scope="module")
def learned(trained, dense, judge, tmp_path_factory):
    return learn(trained, dense, judge, tmp_path_factory.mktemp("students"))


def test_the_dense_model_loses_nothing_against_itself(dense, judge):
    quality = judge.quality(dense)
    assert quality.kl_nats == pytest.approx(0, abs=1e-9)
    assert quality.top1 == 1
    assert quality.bits_per_byte == pytest.approx(judge.dense, rel=1e-5)
    assert judge.bits_per_byte(dense) == pytest.approx(judge.dense, rel=1e-5)
    assert judge.words == "3 held-out blocks of 64 tokens"


def test_each_student_is_judged_before_and_while_it_learns(learned, judge):
    assert list(dict.fromkeys(learned["student"])) == STUDENTS
    for _, own in learned.groupby("student"):
        assert list(own["step"]) == [0, 1, 2, 3, 4]
    ratio = learned["bits_per_byte"] / judge.dense
    assert list(learned["of_dense"]) == pytest.approx(list(ratio))
    halved = fl.parameters(pruned_shape(SHAPE, PLAN.pruning))
    assert set(learned["parameters"]) == {halved}
    starts = learned[learned["step"] == 0].set_index("student")["bits_per_byte"]
    taught, alone, scratch = starts[STUDENTS]
    assert taught == alone != scratch


def test_a_stopped_lesson_goes_on_and_ends_the_same(
    trained, dense, judge, learned, tmp_path
):
    def stop(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(trained, dense, judge, tmp_path, stop)
    again = learn(trained, dense, judge, tmp_path)
    columns = ["student", "step", "bits_per_byte"]
    pd.testing.assert_frame_equal(again[columns], learned[columns])
    steps: list[object] = []
    third = learn(trained, dense, judge, tmp_path, steps.append)
    assert steps == []  # a finished lesson is not repeated
    pd.testing.assert_frame_equal(third, again)


@pytest.mark.parametrize(
    ("given", "named"),
    [((1.0, 4, 2.0), "layers=1.0"), ((0.5, 0, 2.0), "steps=0"),
     ((0.5, 4, 0.0), "temperature=0.0")],
)  # fmt: skip
def test_a_plan_out_of_range_is_refused_by_name(given, named):
    with pytest.raises(ValueError, match=named):
        distilling.DistillPlan(*given)


def test_other_plans_are_kept_elsewhere(trained, tmp_path):
    other = distilling.DistillPlan(0.5, 5, 2.0)
    assert PLAN.folder(tmp_path, trained) != other.folder(tmp_path, trained)


def test_what_was_recovered_by_hand():
    rows = [("pruned", 0, 1.6), ("pruned", 4, 1.3)]
    table = pd.DataFrame(rows, columns=["student", "step", "bits_per_byte"])
    assert distilling.recovered_fraction(table, 1.0) == {"pruned": 0.5}
    assert distilling.more(1.531) == "+53 %"
    assert distilling.more(0.9923) == "−0.77 %"


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
    runs = distilling.kept(shelf)
    assert list(runs["name"]) == ["big", "new", "student"]
    assert list(runs["kind"]) == ["dense", "from scratch", "distilled"]
    assert list(runs["layers"]) == [4, 2, 2]
    assert list(runs["steps"]) == [20, 10, 10]
    # 2 nats a token, a token for three bytes: 2 / ln 2 / 3 bits per byte.
    first = runs["curve"][0][0]["bits_per_byte"]
    assert first == pytest.approx(2 / math.log(2) / 3)
    pairs = distilling.before_and_after(runs, trained, judge)
    assert list(pairs["whole"]) == pytest.approx([1.5, 1.1])
    assert pairs["after"].isna().all()  # no weights are kept beside the run.json
    assert math.isnan(pairs["before"][0])
    assert pairs["before"][1] > 0
    figure = distilling.students(runs, pairs)
    assert "+10 %" in dict(figure.panels[2].notes)["◆"]
    assert len(figure.table) == 3 + 3 * 2  # the runs, and two steps of each


def test_a_kept_student_is_judged_on_the_blocks_at_hand(shelf, trained, judge):
    for file in trained.folder.glob("*.*"):
        shutil.copy(file, shelf / "student" / "final")
    pairs = distilling.before_and_after(distilling.kept(shelf), trained, judge)
    assert pairs["after"][1] == pytest.approx(1, rel=1e-5)
    assert "folder" not in pairs


def test_nothing_stored_is_said_in_the_figure(tmp_path, trained, judge):
    runs = distilling.kept(tmp_path)
    pairs = distilling.before_and_after(runs, trained, judge)
    picture = distilling.students(runs, pairs).draw()
    said = [text.get_text() for axes in picture.axes for text in axes.texts]
    assert len(said) == 3
    assert all("no such run is stored yet" in words for words in said)


def test_the_committed_runs_are_read():
    runs = distilling.kept()
    assert "dense" in set(runs["kind"])
    assert (runs["bits_per_byte"] < 1.6).any()


def test_both_halves_of_the_broken_axis_have_one_scale(learned, judge):
    far = learned.copy()
    far.loc[far["student"] == distilling.SCRATCH, "bits_per_byte"] += 5
    figure = distilling.recovery(far, judge.dense, 0.5)
    picture = figure.draw()
    picture.draw_without_rendering()
    heights = [axes.get_window_extent().height for axes in picture.axes]
    spans = [high - low for low, high in (axes.get_ylim() for axes in picture.axes)]
    assert heights[0] / spans[0] == pytest.approx(heights[1] / spans[1], rel=0.02)
    assert "axis is broken" in figure.title
    named = {layer.name for panel in figure.panels for layer in panel.layers}
    assert {*STUDENTS} < named


def test_a_temperature_brings_probabilities_together(dense, trained):
    soft = distilling.next_tokens(dense, trained.tokenizer, "the ", [1, 4])
    assert len(soft) == soft["token"].nunique() == 8
    narrow, wide = soft["T = 1"], soft["T = 4"]
    assert list(narrow) == sorted(narrow, reverse=True)
    # Ratios of probabilities take the fourth root at T = 4.
    assert wide[0] / wide[7] == pytest.approx((narrow[0] / narrow[7]) ** 0.25, rel=1e-4)
    figure = distilling.softened(soft, "the ")
    assert [panel.title[:5] for panel in figure.panels] == ["T = 1", "T = 4"]
    assert figure.panels[0].x == figure.panels[1].x


def test_text_at_hand_is_compared_with_that_of_run_json(trained):
    assert "no run.json" in fl.same_text(trained)
    file = trained.folder / "run.json"
    try:
        for sha, words in (
            (trained.corpus.held_out_sha256, "is that of run.json: 1.234"),
            ("other", "another one here"),
        ):
            run = {"held_out_sha256": sha, "held_out": {"bits_per_byte": 1.234}}
            file.write_text(json.dumps(run))
            assert words in fl.same_text(trained)
    finally:
        file.unlink()


def test_no_blocks_are_refused(trained, dense):
    with pytest.raises(ValueError, match="blocks=0"):
        Evaluator.of(trained, dense, 0)
    assert isinstance(Evaluator.of(trained, dense, 1), Evaluator)


def test_a_text_shorter_than_a_block_is_judged_in_shorter_ones(trained, tmp_path):
    (tmp_path / "short.txt").write_text("\n".join(f"line {n}" for n in range(520)))
    short = fl.Trained(trained.source, [str(tmp_path / "short.txt")])
    held = short.tokenizer(short.corpus.held_out)["input_ids"]
    judge = Evaluator.of(short, fl.built(short), 4)
    assert judge.questions.ids.shape[1] == min(64, len(held) - 1)

"""Students, live and stored: what resumes, what is read, and what the figures say."""

import json
import math
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import fastlab as fl
from fastlab.clock.quality import Evaluator, same_text
from fastlab.figures import distilling
from fastlab.spec.shape import ModelShape
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.small import checkpoint

SHAPE = ModelShape(
    *("llama", 4, 32, 4, 2, 8, 64), vocab=300, max_positions=64, tied=True
)
CUT = fl.Recipe(pruning=fl.Pruning(layers=0.5, layer_choice="influence"))
LESSON, STEPS = fl.DistillConfig(2.0, 0.9), 4
CUT_FIELDS = {"prune_layers": 0.5, "prune_layer_choice": "influence"}
STUDENTS = list(distilling.LOOKS)
HOME = Path(fl.__file__).parents[1] / "data" / "checkpoints"
USED = ("grid", "build", "Point", "figures", "Training")
USED += ("distill", "DistillConfig")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    text = "".join(f"the {n} th line of {n * n} words\n" for n in range(6000))
    return checkpoint(tmp_path_factory.mktemp("model"), text, **SHAPE.to_dict())


@pytest.fixture(scope="module")
def dense(trained):
    return fl.build(*fl.grid(**base(trained)), trained=trained)


def base(trained):
    return {"model": trained.source, "weights": "trained", "prompt_len": 1}


@pytest.fixture(scope="module")
def judge(trained, dense):
    return Evaluator.of(trained, dense, 3)


def learn(trained, dense, judge, place, stop=None):
    """What the notebook's cells do with three students, and what they show."""

    @contextmanager
    def counted(total, what):
        yield stop or str

    verbs = SimpleNamespace(**{name: getattr(fl, name) for name in USED}, steps=counted)
    shelf = Shows()
    shelf.folder = place / "run"
    names = {"trained": trained, "dense": dense, "judge": judge, "cut": CUT_FIELDS}
    names |= {"base": base(trained), "from_teacher": LESSON, "steps": STEPS}
    names |= {"temperature": 2.0, "prune_layers": 0.5, "home": HOME}
    names |= {"fl": verbs, "pd": pd, "run": shelf, "guess_share": None}
    return run_cells("09", "students", "live", "recovery", **names)["learned"]


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
    starts = learned[learned["step"] == 0].set_index("student")["bits_per_byte"]
    taught, alone, scratch = starts[STUDENTS]
    assert taught == alone != scratch


def test_a_stopped_lesson_goes_on_and_ends_the_same(
    trained, dense, judge, learned, tmp_path
):
    told: list[str] = []

    def stop(words):
        told.append(words)
        if len(told) == 3:
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


def test_no_steps_are_refused_by_name(trained, dense):
    with pytest.raises(ValueError, match="steps=0"):
        fl.distill(dense, dense, trained.seen(64).flatten(), 0)


def test_what_was_recovered_by_hand():
    steps = {"student": [STUDENTS[0]] * 2, "step": [0, 4], "bits_per_byte": [1.6, 1.3]}
    scratch = {"student": STUDENTS[2:], "step": 4, "bits_per_byte": 1.4}
    table = pd.concat([pd.DataFrame(steps), pd.DataFrame(scratch)])
    table = table.assign(of_dense=table["bits_per_byte"], prune_layers=0.5)
    title = distilling.recovery(table).title
    assert "4 steps bring back 50 % (learns from the teacher)" in title


def stored(folder, name, bits, run):
    """Write a run as training does: two steps of 2 and 1 nats a token."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    ends = {"low": bits - 0.01, "high": bits + 0.01, "text_sha256": "a"}
    run |= {"held_out": {"bits_per_byte": bits, **ends}}
    (folder / name / "run.json").write_text(json.dumps(run))
    rows = ({"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0})
    curve = folder / name.removesuffix("/final") / "curve.jsonl"
    curve.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def shelf(tmp_path, trained):
    """A dense model, one from scratch, a student that has the teacher's weights."""
    place, text = tmp_path / "data/checkpoints", {"train_bytes": 300}
    text["train_tokens"] = 100
    for name, layers, steps, bits in (("big", 4, 20, 1.0), ("new", 2, 10, 1.5)):
        run = {"run": {"shape": SHAPE.to_dict() | {"layers": layers}}, "steps": steps}
        stored(place, name, bits, run | {"text": text, "parameters": 100 * layers})
    shutil.copytree(trained.folder, place / "student" / "final")
    recipe = {"pruning": {"layers": 0.5, "layer_choice": "last"}, "distill_steps": 10}
    run = {"recipe": recipe, "parameters": 200, "teacher": trained.weights}
    stored(place, "student/final", 1.1, run)
    return tmp_path


def test_stored_runs_are_told_apart_and_compared(shelf, trained, judge):
    names = {"trained": trained, "judge": judge, "base": base(trained)}
    names["pathlib"] = SimpleNamespace(Path=lambda _: shelf / "fastlab" / "x.py")
    found = run_cells("09", "kept", "judged", "shapes", "pairs", **names)
    runs = found["runs"].set_index("name")
    assert dict(runs["kind"]) == {
        **{"big": "dense", "new": "from scratch", "student": "distilled"}
    }
    assert list(runs["layers"]) == [4, 2, 4]
    assert list(runs["steps"]) == [20, 10, 10]
    # 2 nats a token, a token for three bytes: 2 / ln 2 / 3 bits per byte.
    first = found["curves"].set_index(["name", "step"])["bits_per_byte"]["big", 10]
    assert first == pytest.approx(2 / math.log(2) / 3)
    assert list(runs["whole"]) == pytest.approx([1, 1.5, 1.1])
    assert runs[["before", "after"]].iloc[:2].isna().all(axis=None)
    assert runs["before"]["student"] > 0
    assert runs["after"]["student"] == pytest.approx(1, rel=1e-2)  # kept in bf16
    figure = found["run"].shown["students"]
    assert faults(figure) == []
    assert "+10 %" in dict(figure.panels[2].notes)["◆"]
    assert len(figure.table) == 3 + 3 * 2  # the runs, and two steps of each


def test_the_committed_lesson_is_shown_where_nobody_learns():
    names = {"home": HOME, "rows": [], "pd": pd, "guess_share": 0.4}
    found = run_cells("09", "recovery", **names)
    assert found["won_back"][STUDENTS[0]] == pytest.approx(0.388, abs=0.001)
    figure = found["run"].shown["recovery"]
    assert faults(figure) == []
    assert "20 steps bring back 39 % (learns from the teacher), 26 %" in figure.title


def test_both_halves_of_the_broken_axis_have_one_scale(learned, judge):
    far = learned.copy()
    far.loc[far["student"] == distilling.SCRATCH, "bits_per_byte"] += 5
    far["of_dense"] = far["bits_per_byte"] / judge.dense
    figure = distilling.recovery(far)
    assert faults(figure) == []
    picture = figure.draw()
    picture.draw_without_rendering()
    heights = [axes.get_window_extent().height for axes in picture.axes]
    spans = [high - low for low, high in (axes.get_ylim() for axes in picture.axes)]
    assert heights[0] / spans[0] == pytest.approx(heights[1] / spans[1], rel=0.02)
    assert "axis is broken" in figure.title
    named = {layer.name for panel in figure.panels for layer in panel.layers}
    assert {*STUDENTS} < named


def test_a_temperature_brings_probabilities_together(dense, trained):
    names = {"trained": trained, "dense": dense, "model": "it", "pd": pd, "fl": fl}
    soft = run_cells("09", "soft", **names, run=Shows())["soft"]
    assert len(soft) == soft["token"].nunique() == 8
    narrow, wide = soft["T = 1"], soft["T = 4"]
    assert list(narrow) == sorted(narrow, reverse=True)
    # Ratios of probabilities take the fourth root at T = 4.
    assert wide[0] / wide[7] == pytest.approx((narrow[0] / narrow[7]) ** 0.25, rel=1e-4)
    figure = distilling.softened(soft, "the ")
    assert [panel.title[:5] for panel in figure.panels] == ["T = 1", "T = 2", "T = 4"]
    assert figure.panels[0].x == figure.panels[1].x


def test_text_at_hand_is_compared_with_that_of_run_json(trained):
    assert "no run.json" in same_text(trained)
    file = trained.folder / "run.json"
    try:
        for sha, words in (
            (trained.corpus.held_out_sha256, "is that of run.json: 1.234"),
            ("other", "another one here"),
        ):
            run = {"held_out_sha256": sha, "held_out": {"bits_per_byte": 1.234}}
            file.write_text(json.dumps(run))
            assert words in same_text(trained)
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
    judge = Evaluator.of(short, fl.build(*fl.grid(**base(short)), trained=short), 4)
    assert judge.questions.ids.shape[1] == min(64, len(held) - 1)

"""start(), rows, finish() and show(): checks before work, and what is left behind."""

import html
import json
from dataclasses import replace

import pandas as pd
import pytest

import fastlab as fl
from fastlab.notebook import run as notebook
from fastlab.record import Record
from fastlab.sweeps import reference as stored
from fastlab.sweeps.store import Store
from tests.figures.made import record

GRID = {"family": "llama", "layers": [2, 4], "hidden": [256, 512], "vocab": 512}
GRID |= {"precision": ["fp32", "bf16"], "phase": ["prefill", "decode"]}


@pytest.fixture(autouse=True)
def empty_reference(monkeypatch, tmp_path):
    """No stored rows, and a fresh working folder."""
    monkeypatch.setattr(stored, "FOLDER", tmp_path / "reference")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "reference"


@pytest.fixture
def reference(empty_reference, records):
    """The sixteen rows, stored as reference rows of an H200."""
    folder = empty_reference / "h200"
    store = Store(folder)
    with store.begin({"device": "NVIDIA H200"}):
        for each in records:
            store.append(each)
    (folder / "run.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"hiden": [1]}, "unknown parameter field 'hiden'; did you mean hidden"),
        ({"source": "replai"}, "source='replai' is not one of.*did you mean replay"),
        ({"precision": ["fp31"]}, "precision='fp31' is not one of"),
        ({"layers": [0]}, "layers=0 must be a whole number"),
        ({"layers": []}, "layers=.. must have at least one value"),
        ({"budget_s": 0}, "budget_s=0 must be a number from"),
        ({"family": "bert"}, "does not decode"),
    ],
)
def test_start_refuses_bad_parameters_before_any_work(over, words):
    with pytest.raises(ValueError, match=words):
        fl.start("nb", **{"source": "measure", **GRID, **over})


def test_start_makes_the_points_and_splits_off_the_settings():
    run = fl.start("nb", source="measure", budget_s=0.25, **GRID)
    assert len(run.points) == 16
    assert run.settings.budget_s == 0.25
    assert not run.is_replay
    assert "16 points, measured on" in repr(run)


def test_replay_without_rows_says_what_to_do():
    with pytest.raises(ValueError, match=r"finds no row .*nothing: use source='meas"):
        fl.start("nb", source="replay", **GRID)


def test_replay_shows_the_stored_rows_in_the_order_asked_for(reference, rows):
    backwards = {**GRID, "layers": [4, 2]}
    run = fl.start("nb", source="replay", **backwards)
    found = run.rows()
    assert run.is_replay
    assert run.device == "NVIDIA H200"
    assert list(found["layers"]) == [4] * 8 + [2] * 8
    assert sorted(found["measured_ms"]) == pytest.approx(sorted(rows["measured_ms"]))
    assert run.caption == "replayed: NVIDIA H200, measured 2026-01-02"


def test_auto_replays_only_what_is_stored_whole(reference):
    more = {**GRID, "layers": [2, 3]}
    assert fl.start("nb", **GRID).is_replay
    assert not fl.start("nb", **more).is_replay
    partly = fl.start("nb", source="replay", **more)
    assert "8 of 16 points" in partly.caption


def test_a_replay_is_estimated_with_the_datasheet_of_its_device(reference):
    run = fl.start("nb", source="replay", **GRID)
    assert run.profile == fl.device("h200")


def test_a_stored_profile_is_preferred(reference, device):
    fast = replace(device, bandwidth=9e12).stamped()
    (reference / "profile.json").write_text(json.dumps(fast.to_dict()))
    assert fl.start("nb", source="replay", **GRID).profile == fast


def test_an_unknown_device_has_no_profile(tmp_path):
    assert stored.Reference(tmp_path / "abacus-3000").profile is None


def test_finish_writes_rows_and_a_summary(rows, tmp_path):
    run = fl.start("nb", source="measure", **GRID)
    done = run.finish(rows)
    assert run.folder.parent == tmp_path / "results" / "nb"
    stored = pd.read_csv(run.folder / "rows.csv")
    assert list(stored["measured_ms"]) == list(rows["measured_ms"])  # full digits
    summary = json.loads((run.folder / "run.json").read_text())
    assert summary["rows"] == 16
    assert summary["statuses"] == {"ok": 16}
    assert summary["params"]["layers"] == [2, 4]
    assert repr(done).startswith("16 rows (16 ok) in ")
    bundle = done._repr_mimebundle_()
    shared = bundle["application/vnd.fastlab.run+json"]
    assert summary.items() > shared.items()
    assert str(tmp_path) not in f"{shared}{done!r}"  # no place on this machine


def test_finish_refuses_rows_of_two_devices(rows):
    run = fl.start("nb", source="measure", **GRID)
    both = pd.concat([rows, rows.assign(device="another")])
    with pytest.raises(ValueError, match="one device, not of NVIDIA H200, another"):
        run.finish(both)


def test_results_go_to_the_checkout_that_the_folder_lies_in(tmp_path, monkeypatch):
    (tmp_path / "fastlab").mkdir()
    (tmp_path / "fastlab" / "__init__.py").touch()
    deep = tmp_path / "notebooks" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert notebook.results_root() == tmp_path / "results"


def test_rows_come_from_the_device_that_has_most_of_them(reference, points, device):
    few: Record = record(points[0], replace(device, name="other"), 1.0)
    other = Store(reference.parent / "a-other")
    with other.begin({"device": "other"}):
        other.append(few)
    (reference.parent / "a-other" / "run.json").write_text("{}")
    assert fl.start("nb", source="replay", **GRID).device == "NVIDIA H200"


def test_a_shown_figure_is_html_with_alt_caption_and_rows(rows, tmp_path):
    run = fl.start("nb", source="measure", **GRID)
    figure = fl.figures.sweep.scatter(rows)
    shown = run.show(replace(figure, note='on <a "box">'), "scatter", guess=2)
    markup = shown._repr_html_()
    alt = html.escape(figure.tell())
    assert f'<img alt="{alt}"' in markup
    assert "16 points, medians of 20 samples; you guessed 2; on &lt;a" in markup
    assert markup.count("<tr") == 17
    assert (run.folder / "scatter.png").read_bytes().startswith(b"\x89PNG")
    assert repr(shown) == f"[figure] {figure.tell()}"


def test_a_caption_does_not_depend_on_what_was_called_before(reference):
    run = fl.start("nb", source="replay", **GRID)
    before = run.caption
    run.rows()
    assert run.caption == before == "replayed: NVIDIA H200, measured 2026-01-02"


def test_a_partial_replay_has_a_row_for_every_point(reference):
    more = {**GRID, "layers": [2, 3]}
    run = fl.start("nb", partial=True, **more)
    rows = run.rows()
    assert run.is_replay
    assert rows["status"].value_counts().to_dict() == {"ok": 8, "missing": 8}
    assert rows["estimated_ms"].notna().all()

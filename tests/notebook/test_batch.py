"""Batches: sets of parameters, checked first; what is finished, and what is left."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import fastlab as fl
from fastlab.cli import main
from fastlab.notebook import batch, index
from fastlab.notebook.batch import Job, NotebookFailed, Outcome, jobs_of, run_batch
from fastlab.notebook.parameters import parameter_sets
from fastlab.notebook.run import PLACE

PARAMETERS = """what: str = "end"  # what becomes of it
sizes: list[int] = [2, 4]  # of nothing"""
CODE = """import os, signal, time
if what == "raise":
    raise KeyError(what)
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "hang":
    time.sleep(999)
os.environ["FASTLAB_RUN"]"""
FIGURE = "<figure><img alt='a figure'></figure>"


def made(folder: Path, code: str = CODE, words: str = "# Words") -> Path:
    """A notebook that runs without fastlab."""
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell(words), v4.new_code_cell(PARAMETERS)]
    cells[1].metadata.tags = ["parameters"]
    cells.append(v4.new_code_cell(code, id="work"))
    book = v4.new_notebook(cells=cells)
    book.metadata.kernelspec = {"name": "python3", "display_name": "any"}
    nbformat.write(book, path := folder / "small.ipynb")
    return path


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return made(tmp_path)


@pytest.fixture
def executing(monkeypatch):
    """No kernel starts: a run is a copy, or fails as its parameter says."""
    ran = []

    def execute(job, executed, timeout_s):
        ran.append(job.parameters)
        book = json.loads(job.notebook.read_text())
        figure = {"output_type": "display_data", "data": {"text/html": [FIGURE]}}
        book["cells"][2]["outputs"] = [figure]
        executed.write_text(json.dumps(book))
        if job.parameters.get("what") == "raise":
            raise NotebookFailed("failed", "<b>no</b>", executed)

    monkeypatch.setattr(batch, "_execute", execute)
    return ran


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("", [{}]),
        ("layers: [2, 4]", [{"layers": [2, 4]}]),  # one run, as papermill reads it
        ("[{a: 1}, {a: 2, b: x}]", [{"a": 1}, {"a": 2, "b": "x"}]),
        ("{c: 3, grid: {a: [1, 2]}}", [{"c": 3, "a": 1}, {"c": 3, "a": 2}]),
        ("grid: {a: [[1], [1, 2]]}", [{"a": [1]}, {"a": [1, 2]}]),
        ("[{grid: {a: [1]}}, {b: 2}]", [{"a": 1}, {"b": 2}]),
    ],
)
def test_a_mapping_is_one_set_a_list_several_a_grid_is_multiplied(text, sets):
    assert parameter_sets(text) == sets


@given(st.dictionaries(st.text("abc", min_size=1), st.sets(st.integers()), max_size=4))
def test_a_grid_has_each_combination_once(grid):
    grid = {name: sorted(values) for name, values in grid.items()}
    if not all(grid.values()):
        with pytest.raises(ValueError, match="must have at least one value"):
            parameter_sets(json.dumps({"grid": grid}))
        return
    found = parameter_sets(json.dumps({"grid": grid}))
    assert len(found) == prod(map(len, grid.values()))
    assert len({tuple(one.values()) for one in found}) == len(found)
    assert all(one[n] in grid[n] for one in found for n in grid)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "1 must be a mapping of names to values"),
        ("grid: {a: 1}", "grid in it one of names to lists"),
        ("{a: 1, grid: {a: [2]}}", "a stands in the grid and beside it"),
        ("[]", "at least one set"),
        ("{a: 1, a: 2}", "'a' stands twice"),
        ("a: 010", "010 must be in decimal"),
        (f"grid: {{a: {[*range(1001)]}, b: {[*range(1001)]}}}", "1002001 combinations"),
    ],
)
def test_other_shapes_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parameter_sets(text)


def test_all_sets_are_checked_and_the_wrong_one_is_named(notebook):
    with pytest.raises(ValueError, match=r"small.ipynb, set 2 of 2: .*mean sizes"):
        jobs_of([notebook], [{"sizes": [1]}, {"size": [1]}])


def test_the_same_values_make_one_job(notebook):
    sets = [{}, {"what": "end"}, {"sizes": "2,4"}, {"sizes": [2]}]
    assert [job.parameters for job in jobs_of([notebook], sets)] == [{}, {"sizes": [2]}]


def test_a_key_follows_the_code_not_the_words(tmp_path):
    keys = [
        Job(made(tmp_path, *how), {}).key
        for how in ((), (CODE, "# Other words"), (CODE + " ",))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_what_has_its_mark_is_not_run_again(notebook, executing):
    jobs = jobs_of([notebook], [{"what": w} for w in ("end", "raise")])
    first, again = list(run_batch(jobs)), list(run_batch(jobs))
    assert [o.status for o in first] == [o.status for o in again]
    assert [o.before for o in again] == [True, False]
    assert [p["what"] for p in executing] == ["end", "raise", "raise"]
    assert again[0].executed == first[0].executed == jobs[0].done()
    list(run_batch(jobs[:1], rerun=True))
    assert len(executing) == 4


@pytest.mark.parametrize("left", ["", '{"metadata": {"fast', "{}", '{"metadata": {}}'])
def test_what_a_kill_left_is_not_finished(notebook, executing, left):
    (job,) = jobs_of([notebook])
    batch.execute(job).write_text(left)
    assert job.done() is None
    assert batch.summary_of(notebook.parent / "nothing.ipynb") == {}


def test_rows_lie_beside_the_executed_notebook(notebook, monkeypatch):
    def execute(job, executed, timeout_s):
        run = fl.start("another_name", source="measure", layers=[1], hidden=[64])
        assert run.path("rows.csv").parent == executed.parent
        assert executed.parent.name == run.id
        executed.write_bytes(job.notebook.read_bytes())

    monkeypatch.setattr(batch, "_execute", execute)
    batch.execute(Job(notebook, {}))
    assert PLACE not in os.environ


def test_the_page_holds_figures_and_escapes_what_is_given(notebook, executing):
    sets = [{"what": "<script>", "sizes": [8, 9]}, {"what": "raise", "sizes": [8]}]
    jobs = jobs_of([notebook], sets)
    outcomes = list(run_batch(jobs))
    table = index.summary(outcomes)
    assert table.columns[:4].tolist() == ["notebook", "what", "sizes", "status"]
    assert table.sizes.tolist() == ["8,9", "8"]
    assert table.status.tolist() == ["finished", "failed"]
    page = index.write_index(outcomes, notebook.parent / "out").read_text()
    assert page.count(FIGURE) == 2
    assert "<script>" not in page and "<b>no" not in page
    assert "out: 1 of 2 notebooks finished" in page
    assert f"../results/small/{outcomes[0].executed.parent.name}/small.ipynb" in page


def test_the_command(notebook, executing):
    Path("p.yaml").write_text("grid: {what: [end, raise]}")
    asked = ["batch", "small.ipynb", "-f", "p.yaml", "-p", "sizes", "8"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 1
    assert executing[0] == {"what": "end", "sizes": [8]}
    assert "1 of 2 finished in 0 s: small what=end" in done.output
    assert "2 of 2 failed in 0 s: small what=raise <b>no</b>" in done.output
    assert {p.name for p in Path("results/batch/p").iterdir()} == {
        *("index.html", "table.csv")
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["batch", "small.ipynb", "-y", "what: 3"], "what=3 must be text"),
        (["batch", "small.ipynb", "-y", "[3]"], "Error: -y: 3 must be a mapping"),
        (["batch", "small.ipynb", "--timeout-s", "0"], "must be above 0"),
        (["run", "small.ipynb", "-y", "[{}, {}]"], "fastlab batch runs several"),
        (["run", "small.ipynb", *["-p", "what", "a"] * 2], "what is given twice"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(notebook, executing, asked, words):
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2
    assert words in done.output
    assert not executing and not Path("results").exists()


@pytest.mark.slow
def test_real_kernels_end_raise_die_and_hang(notebook):
    """papermill calls cells of the last two "completed"; they have no mark."""
    sets = [{"what": what} for what in ("end", "raise", "die", "hang")]
    jobs = jobs_of([notebook], sets)
    outcomes: list[Outcome] = list(run_batch(jobs, timeout_s=15))
    whys = [o.why for o in outcomes]
    assert [o.status for o in outcomes] == ["finished", "failed", "killed", "timeout"]
    assert "KeyError: 'raise'" in whys[1]
    assert "died at cell 'work'" in whys[2]
    assert "cell 'work' of" in whys[3] and "15 s were over" in whys[3]
    assert [bool(batch.mark_of(o.executed)) for o in outcomes] == [True] + 3 * [False]
    (shown,) = batch.outputs_of(outcomes[0].executed)
    assert outcomes[0].executed.parent.name in "".join(shown["text/plain"])

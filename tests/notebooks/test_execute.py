"""Every notebook runs to its end with tiny parameters, offline, from any folder.

All that asks for an executed notebook stands here: workers that share the tests take
whole files, and another file would have each notebook run once more.
"""

import csv
import json
import math
import subprocess
import sys

import pytest

from fastlab.notebook.exercises import EXERCISES
from fastlab.notebook.kinds import NOT_ATTEMPTED
from tests.notebooks.conftest import NOTEBOOKS, ROOT, TINY
from tests.notebooks.solving import SOLVED, asked, tagged

KEYS = {"rows", "cpu_s", "parameters"}
SLOW = 10  # an old machine, its cores shared, may need so many times the CPU time
TIMES = ["measured_ms", "estimated_ms", "ratio"]
RUN = "application/vnd.fastlab.run+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STILL = 'class="fastlab-still-'  # an explorer's picture, which its widget hides
PROGRESS = 'class="fastlab-progress"'

pytestmark = pytest.mark.timeout(3600)  # a run may wait long for its turn


def outputs(book):
    return [o for c in book.cells if c.cell_type == "code" for o in c.outputs]


def test_every_notebook_has_its_tiny_parameters_and_nothing_more():
    assert set(TINY) == {path.stem for path in NOTEBOOKS}
    assert all(set(entry) - {"numbers"} == KEYS for entry in TINY.values())


def test_the_guard_lets_only_this_host_through(offline):
    tries = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname()).close()\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), 1)\n"
        "except OSError as error:\n    assert 'no network' in str(error), error\n"
        "else:\n    raise SystemExit('reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", tries], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_runs_quietly_quickly_and_leaves_finite_rows(path, executed):
    kinds = [o.output_type for o in outputs(executed.book)]
    assert "error" not in kinds
    assert [o.text for o in outputs(executed.book) if o.get("name") == "stderr"] == []
    data = [o.get("data", {}) for o in outputs(executed.book)]
    summaries = [bundle[RUN] for bundle in data if RUN in bundle]
    (folder,) = (executed.folder / "results" / path.stem).glob("2*")
    (summary,) = summaries
    assert json.loads((folder / "run.json").read_text()).items() > summary.items()
    for place in (executed.folder, ROOT):  # of this machine: nobody else has them
        assert str(place) not in json.dumps(data)
    assert summaries[0]["rows"] == TINY[path.stem]["rows"]
    assert summaries[0]["statuses"] == {"ok": summaries[0]["rows"]}
    check_rows(folder / "rows.csv", TINY[path.stem])
    print(f"{path.stem}: {executed.cpu_s:.1f} CPU seconds")
    assert executed.cpu_s < SLOW * TINY[path.stem]["cpu_s"]


@pytest.mark.slow
def test_progress_leaves_one_final_line_in_a_cell_and_nothing_else(executed):
    for cell in executed.book.cells:
        left = cell.get("outputs", [])
        assert [o for o in left if o.output_type == "stream"] == [], cell.id
        shown = [o.data for o in left if o.output_type == "display_data"]
        stills = [data for data in shown if STILL in data.get("text/html", "")]
        assert len(stills) == sum(WIDGET in data for data in shown), cell.id
        shown = [d for d in shown if WIDGET not in d and d not in stills]
        assert all(PROGRESS in data["text/html"] for data in shown), cell.id
        assert len(shown) <= 1, cell.id
        assert "<progress" not in str(left), cell.id
        if (
            "widget" not in cell.metadata.get("tags", [])
            and "fl.button(" not in cell.source
        ):
            assert WIDGET not in str(left), cell.id
    assert "widgets" not in executed.book.metadata


@pytest.mark.slow
def test_unsolved_it_runs_to_its_end_and_every_check_is_open(book, executed):
    found = verdicts(executed.book, "check")
    assert found == [f"Open: {NOT_ATTEMPTED}"] * len(asked(book))


@pytest.mark.slow
def test_with_the_solutions_every_check_passes_and_says_why(book, executed):
    found = verdicts(executed.book, SOLVED)
    assert found
    for verdict, exercise in zip(found, asked(book), strict=True):
        assert verdict.startswith("Right: ")
        assert verdict.endswith(EXERCISES[exercise.name].why)


def verdicts(book, tag):
    return [cell.outputs[-1].data["text/plain"] for cell in tagged(book, tag)]


def check_rows(path, entry):
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == entry["rows"]
    for row in rows:
        for name in entry.get("numbers", TIMES):
            assert math.isfinite(float(row[name]))
            assert float(row[name]) > 0

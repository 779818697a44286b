"""Every notebook runs to its end with tiny parameters, offline, from any folder."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from fastlab.view.parameters import check_parameters
from tests.notebooks.conftest import HERE, NOTEBOOKS, TINY

ROOT = HERE.parents[1]
KEYS = {"rows", "cells_s", "parameters"}
TIMES = ["measured_ms", "estimated_ms", "ratio"]
RUN = "application/vnd.fastlab.run+json"


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("xdg-cache")


@pytest.fixture
def offline(monkeypatch, kernel_cache):
    """What a kernel inherits: one thread, no network, a calibration of its own."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{ROOT}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kernel_cache))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def executed(path, tmp_path, offline):
    """The executed notebook, from a folder that is not the repository's."""
    given = check_parameters(path, TINY[path.stem]["parameters"])
    out = tmp_path / "out.ipynb"
    quiet = {"progress_bar": False, "log_output": False, "kernel_name": "python3"}
    papermill.execute_notebook(path, out, given, cwd=str(tmp_path), **quiet)
    return nbformat.read(out, as_version=4)


def outputs(book):
    return [o for c in book.cells if c.cell_type == "code" for o in c.outputs]


def seconds(book):
    spent = [c.metadata.papermill.duration for c in book.cells if c.metadata.papermill]
    return sum(s for s in spent if s)


def test_every_notebook_has_its_tiny_parameters_and_nothing_more():
    assert set(TINY) == {path.stem for path in NOTEBOOKS}
    assert all(set(entry) - {"numbers"} == KEYS for entry in TINY.values())


def test_tiny_parameters_reach_the_notebook(path):
    given = TINY[path.stem]["parameters"]
    assert check_parameters(path, given) == given


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
def test_it_runs_quietly_quickly_and_leaves_finite_rows(path, executed, tmp_path):
    kinds = [o.output_type for o in outputs(executed)]
    assert "error" not in kinds
    assert [o.text for o in outputs(executed) if o.get("name") == "stderr"] == []
    summaries = [o.data[RUN] for o in outputs(executed) if RUN in o.get("data", {})]
    (folder,) = (tmp_path / "results" / path.stem).glob("2*")
    assert summaries == [json.loads((folder / "run.json").read_text())]
    assert summaries[0]["rows"] == TINY[path.stem]["rows"]
    assert summaries[0]["statuses"] == {"ok": summaries[0]["rows"]}
    check_rows(folder / "rows.csv", TINY[path.stem])
    check_unsolved(executed)
    assert seconds(executed) < TINY[path.stem]["cells_s"]


def check_rows(path, entry):
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == entry["rows"]
    for row in rows:
        for name in entry.get("numbers", TIMES):
            assert math.isfinite(float(row[name]))
            assert float(row[name]) > 0


def check_unsolved(book):
    checks = [c for c in book.cells if "check" in c.metadata.get("tags", [])]
    for cell in checks:
        assert "not attempted yet" in cell.outputs[0].data["text/plain"]

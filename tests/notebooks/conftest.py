"""The notebooks, what their tests run with, and one execution of each for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
import pytest
import yaml

from fastlab.notebook.parameters import check_parameters
from tests.notebooks.solving import solved_cells

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PATIENCE_S = 600  # for a kernel's start and its last output on a busy machine
TINY = yaml.safe_load((HERE / "notebooks.yaml").read_text())


class Executed(NamedTuple):
    """A notebook after its run, its folder, and CPU seconds of its kernel."""

    book: nbformat.NotebookNode
    folder: Path
    cpu_s: float


def inherited(cache: Path) -> dict[str, str]:
    """What a kernel inherits: one thread, no network, a calibration of its own."""
    own = {"PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", "XDG_CACHE_HOME": str(cache)}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE")
    return own | dict.fromkeys(names, "1")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def book(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xdg-cache")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, kernel_cache: Path) -> None:
    for name, value in inherited(kernel_cache).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def executions() -> dict[Path, Executed | Exception]:
    return {}


@pytest.fixture
def executed(path, executions, tmp_path, offline) -> Executed:
    """The executed notebook, from a folder that is not the repository's.

    Behind its last cell its exercises stand once more, solved, each with its check: a
    reader who has run all goes back and solves them. So one run serves all tests.
    """
    if path not in executions:
        try:
            executions[path] = execute(path, tmp_path)
        except Exception as error:
            executions[path] = error
    if isinstance(found := executions[path], Exception):
        raise found
    return found


def execute(path: Path, folder: Path) -> Executed:
    """One run with tiny parameters."""
    book = nbformat.read(path, as_version=4)
    (setup,) = (
        n for n, c in enumerate(book.cells) if "setup" in c.metadata.get("tags", [])
    )
    watch = "from tests.notebooks import watching\n\nwatching.begin()"
    book.cells.insert(setup + 1, nbformat.v4.new_code_cell(watch))
    book.cells += solved_cells(book)
    nbformat.write(book, folder / path.name)
    given = check_parameters(path, TINY[path.stem]["parameters"])
    out = folder / "out.ipynb"
    quiet = {"progress_bar": False, "log_output": False, "kernel_name": "python3"}
    quiet |= {"store_widget_state": False}  # as `fastlab run` does
    patient = {"start_timeout": PATIENCE_S, "iopub_timeout": PATIENCE_S}
    source, began = folder / path.name, children_s()
    papermill.execute_notebook(source, out, given, cwd=str(folder), **quiet, **patient)
    book = nbformat.read(out, as_version=4)
    return Executed(book, folder, children_s() - began)


def children_s() -> float:
    """CPU seconds of all children that have ended, kernels and compilers among them."""
    used = os.times()
    return used.children_user + used.children_system

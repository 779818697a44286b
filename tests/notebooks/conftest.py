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
TINY = yaml.safe_load((HERE / "notebooks.yaml").read_text())


class Executed(NamedTuple):
    """A notebook after its run, and the folder that it ran in."""

    book: nbformat.NotebookNode
    folder: Path


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
    """What a kernel inherits: one thread, no network, a calibration of its own."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{ROOT}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kernel_cache))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")


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
    book.cells += solved_cells(book)
    nbformat.write(book, folder / path.name)
    given = check_parameters(path, TINY[path.stem]["parameters"])
    out = folder / "out.ipynb"
    quiet = {"progress_bar": False, "log_output": False, "kernel_name": "python3"}
    quiet |= {"store_widget_state": False}  # as `fastlab run` does
    source = folder / path.name
    papermill.execute_notebook(source, out, given, cwd=str(folder), **quiet)
    return Executed(nbformat.read(out, as_version=4), folder)

"""The notebooks, and what their tests run with."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import yaml

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parents[1] / "notebooks").glob("*.ipynb"))
TINY = yaml.safe_load((HERE / "notebooks.yaml").read_text())


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def book(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)

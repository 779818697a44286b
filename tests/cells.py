"""Cells of a notebook, run with names that a test gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run_cells(notebook: str, *ids: str, **names: Any) -> dict[str, Any]:
    """All names after the cells with these ids have run, in the notebook's order."""
    (path,) = NOTEBOOKS.glob(f"{notebook}_*.ipynb")
    sources = {c.id: c.source for c in nbformat.read(path, 4).cells}
    assert {*ids} <= {*sources}
    for name, source in sources.items():
        if name in ids:
            exec(compile(source, f"{path.stem}: {name}", "exec"), names)
    return names

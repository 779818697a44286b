"""Cells of notebooks, run on rows made by hand: lessons compute, and are tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastlab as fl
from fastlab.figures.grammar import Figure

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class Shows:
    """Stands for a run in a cell: keeps the figures that the cell shows, by name."""

    caption, notebook, kind = "made by hand", "a notebook", "cpu"

    def __init__(self) -> None:
        self.shown: dict[str, Figure] = {}

    profile = None

    def records(self) -> list[Any]:
        return []

    def show(self, figure: Figure, name: str, *_: Any, **__: Any) -> None:
        self.shown[name] = figure


def run_cells(notebook: str, *ids: str, **names: Any) -> dict[str, Any]:
    """What cells of a notebook leave behind that begin with these names."""
    book = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    sources = {cell["id"]: "".join(cell["source"]) for cell in book["cells"]}
    space = {"fl": fl, "run": Shows(), **names}
    for name in ids:
        exec(compile(sources[name], f"{notebook}, {name}", "exec"), space)
    return space

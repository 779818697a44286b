"""Cells of the notebooks, run by their ids: tables that lessons build themselves."""

from __future__ import annotations

import ast
import json
from typing import Any

import nbformat

import fastlab as fl
from fastlab.figures.grammar import Figure
from tests.notebooks.conftest import ROOT

NOTEBOOKS = ROOT / "notebooks"


def ran(notebook: str, *names: str, **given: Any) -> dict[str, Any]:
    """The names that cells leave behind, and under "shown" the last value of all.

    given: what the cells before them would have left. Of a styled table its rows.
    """
    book = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    sources = {cell.id: cell.source for cell in book.cells}
    space: dict[str, Any] = {"fl": fl, **given}
    for name in names:
        tree = ast.parse(sources[name])
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
            space["shown"] = getattr(value, "data", value)
    return space


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

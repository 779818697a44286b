"""Cells of notebooks, run on what a test gives: lessons compute, and are tested."""

import ast
from pathlib import Path
from typing import Any

import nbformat

import fastlab as fl
from fastlab.figures.grammar import Figure

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


class Shows:
    """Stands for a run in a cell: keeps the figures that the cell shows, by name."""

    caption, notebook, kind, profile = "made by hand", "a notebook", "cpu", None

    def __init__(self) -> None:
        self.shown: dict[str, Figure] = {}

    def records(self) -> list[Any]:
        return []

    def show(self, figure: Figure, name: str, *_: Any, **__: Any) -> None:
        self.shown[name] = figure


def run_cells(notebook: str, *ids: str, **names: Any) -> dict[str, Any]:
    """What cells with these ids leave behind, run in this order.

    notebook: how its name begins. names: what the cells before would have left. Under
    "shown" is the last value of all; of a styled table its rows.
    """
    (path,) = NOTEBOOKS.glob(f"{notebook}*.ipynb")
    sources = {cell.id: cell.source for cell in nbformat.read(path, 4).cells}
    space = {"fl": fl, "run": Shows(), **names}
    for name in ids:
        tree = ast.parse(sources[name])
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.stem}: {name}", "exec"), space)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
            space["shown"] = getattr(value, "data", value)
    return space

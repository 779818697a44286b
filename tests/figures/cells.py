"""Cells of the notebooks, run by their ids: tables that lessons build themselves."""

from __future__ import annotations

import ast
from typing import Any

import nbformat

import fastlab as fl
from tests.notebooks.conftest import ROOT


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

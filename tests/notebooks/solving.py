"""Exercises found in a notebook, and solved with the one copy of their solutions."""

import ast
from typing import NamedTuple

import nbformat

SOLVED = "solved"  # tag of the check of a solved exercise


class Asked(NamedTuple):
    """An exercise's two cells: name as in EXERCISES, and what its check is called with.

    That is the answer's variable, and behind it what was measured, of a prediction.
    """

    name: str
    given: tuple[str, ...]
    stub: str
    check: str


def tagged(book: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """The cells with a tag."""
    return [c for c in book.cells if tag in c.metadata.get("tags", [])]


def asked(book: nbformat.NotebookNode) -> list[Asked]:
    """All exercises of a notebook; a check cell is `fl.check.q05_1(variable)`."""
    pairs = zip(tagged(book, "exercise"), tagged(book, "check"), strict=True)
    found = []
    for stub, check in pairs:
        call = ast.parse(check.source, mode="eval").body
        function, given = ast.unparse(call.func), tuple(map(ast.unparse, call.args))
        assert function.startswith("fl.check.q"), check.source
        assert given[0].isidentifier(), check.source
        name = function.removeprefix("fl.check.q")
        found.append(Asked(name, given, stub.source, check.source))
    return found


def solved(exercise: Asked) -> str:
    """The exercise's cell, then its solution: of a prediction what was measured."""
    answer, *measured = exercise.given
    known = f"fl.check.EXERCISES[{exercise.name!r}].answer"
    return f"{exercise.stub}\n{answer} = {measured[0] if measured else known}"


def solved_cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Each exercise with its solution put in, and its check, as code cells."""
    cells = []
    for exercise in asked(book):
        cells.append(nbformat.v4.new_code_cell(solved(exercise)))
        cells.append(nbformat.v4.new_code_cell(exercise.check))
        cells[-1].metadata.tags = [SOLVED]
    return cells

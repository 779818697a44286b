"""Exercises in their notebooks: open as delivered, right once their solutions are in.

That each wrong answer gets its own hint is tested in tests/notebook/test_exercises.py.
"""

import ast

import nbformat
import pytest

from fastlab.notebook.exercises import EXERCISES
from fastlab.notebook.kinds import NOT_ATTEMPTED
from tests.notebooks.conftest import NOTEBOOKS
from tests.notebooks.solving import SOLVED, asked, tagged

pytestmark = pytest.mark.timeout(3600)  # a run may wait long for its turn


def verdicts(book, tag):
    return [cell.outputs[-1].data["text/plain"] for cell in tagged(book, tag)]


def test_every_exercise_is_asked_once_in_its_own_notebook():
    asks = [
        (path.stem[:2], exercise.name)
        for path in NOTEBOOKS
        for exercise in asked(nbformat.read(path, as_version=4))
    ]
    assert sorted(name for _, name in asks) == sorted(EXERCISES)
    assert all(name.startswith(number) for number, name in asks)


def test_a_stub_is_an_open_answer_or_a_function_as_the_solution_is(book):
    for exercise in asked(book):
        answer, *measured = exercise.given
        body = ast.parse(exercise.stub).body
        functions = {n.name: n for n in body if isinstance(n, ast.FunctionDef)}
        if answer in functions:
            given = [a.arg for a in functions[answer].args.args]
            assert len(given) == len(EXERCISES[exercise.name].arguments)
        elif not measured:  # a prediction may be the one that was made at first
            assert f"{answer} = ..." in exercise.stub


@pytest.mark.slow
def test_unsolved_it_runs_to_its_end_and_every_check_is_open(book, executed):
    found = verdicts(executed.book, "check")
    assert found == [f"Open: {NOT_ATTEMPTED}"] * len(asked(book))


@pytest.mark.slow
def test_with_the_solutions_every_check_passes_and_says_why(book, executed):
    found = verdicts(executed.book, SOLVED)
    assert found
    for verdict, exercise in zip(found, asked(book), strict=True):
        assert verdict.startswith("Right: ")
        assert verdict.endswith(EXERCISES[exercise.name].why)

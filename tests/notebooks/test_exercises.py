"""Exercises in their notebooks: each is asked once, and open as delivered.

That each wrong answer gets its own hint is tested in tests/notebook/test_exercises.py,
that all are open and then right in a run in test_execute.py.
"""

import ast

import nbformat

from fastlab.notebook.exercises import EXERCISES
from tests.notebooks.conftest import NOTEBOOKS
from tests.notebooks.solving import asked


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

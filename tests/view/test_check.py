"""Every check: right answer, every listed wrong answer, and answers of any kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastlab as fl
from fastlab.view.check import EXERCISES, NOT_ATTEMPTED

NAMES = sorted(EXERCISES)
WRONG = [(name, n) for name in NAMES for n in range(len(EXERCISES[name].wrong))]


class Hostile:
    """An answer whose every method fails."""

    def __float__(self):
        raise KeyError("no")

    def __call__(self, *_):
        raise RuntimeError("boom")

    def __eq__(self, _):
        raise RuntimeError("no")

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_says_why(name):
    exercise = EXERCISES[name]
    verdict = exercise(exercise.solution)
    assert verdict.passed is True
    assert verdict.words == exercise.why
    assert repr(verdict).startswith("Right: ")


@pytest.mark.parametrize(("name", "n"), WRONG)
def test_each_wrong_answer_gets_its_own_hint(name, n):
    answer, hint = EXERCISES[name].wrong[n]
    verdict = EXERCISES[name](answer)
    assert verdict.passed is False
    assert verdict.words == hint


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_has_three_wrong_answers_with_different_hints(name):
    hints = [hint for _, hint in EXERCISES[name].wrong]
    assert len(set(hints)) == len(hints) >= 3
    assert EXERCISES[name].otherwise not in hints


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", [None, ..., lambda *_: None, lambda *_: ...])
def test_nothing_done_is_not_attempted(name, answer):
    verdict = EXERCISES[name](answer)
    if callable(answer) and not callable(EXERCISES[name].solution):
        assert verdict.passed is False
        return
    assert verdict.passed is None
    assert verdict.words == NOT_ATTEMPTED


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "answer",
    ["4", True, 1j, [4], {}, math.nan, math.inf, 10**400, object(), Hostile(), str],
    ids=lambda a: type(a).__name__,
)
def test_an_answer_of_any_kind_gets_a_verdict(name, answer):
    verdict = EXERCISES[name](answer)
    assert verdict.passed is False
    assert len(verdict.words) > 10


def test_numbers_of_all_kinds_pass():
    for four in (4, 4.0, np.int64(4), np.float32(4), np.array(4.0), 4.0001):
        assert fl.check.q05_1(four).passed


def test_other_answers_get_the_general_hint():
    assert "which of the" in fl.check.q05_1(5).words
    assert "two more layers" in fl.check.q05_2(lambda t2, t4: 1.0).words


def test_a_function_that_fails_is_told_how():
    words = fl.check.q05_2(lambda t2: t2).words
    assert "called with 3.0, 5.0, raised TypeError" in words
    assert "returned what is not a number" in fl.check.q05_2(lambda a, b: "9").words
    assert "pass the function itself" in fl.check.q05_2(9.0).words


def test_the_verdict_is_told_in_words_and_html_is_escaped():
    verdict = fl.check.q05_1("<script>")
    assert "<script>" not in verdict._repr_html_()
    assert "Not yet" in verdict._repr_html_()
    assert "is text: give a number" in repr(verdict)

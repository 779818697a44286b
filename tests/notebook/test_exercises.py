"""Every check: right answer, every listed wrong answer, and answers of any kind."""

from __future__ import annotations

import ast
import contextlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastlab as fl
from fastlab.notebook import exercises
from fastlab.notebook.exercises import (
    EXERCISES,
    NOT_ATTEMPTED,
    Choice,
    Formula,
    expression,
    read_exercises,
)

NAMES = sorted(EXERCISES)
WRONG = [(name, n) for name in NAMES for n in range(len(EXERCISES[name].wrong))]
LONG = ["01_3", "03_2", "08_2", "08_3", "09_1", "10_1", "10_2"]


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


def fresh(name):
    """An exercise that nobody has tried."""
    return replace(EXERCISES[name])


def wrong_answer(exercise, n):
    return exercise.parse(str(exercise.wrong[n]["answer"]))


def test_there_are_39_exercises_in_11_files():
    assert len(NAMES) == 39
    assert len(list(exercises.FOLDER.iterdir())) == 11


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_says_why(name):
    verdict = fresh(name)(EXERCISES[name].answer)
    assert verdict.passed is True
    assert verdict.words == EXERCISES[name].why
    assert repr(verdict).startswith("Right: ")


@pytest.mark.parametrize(("name", "n"), WRONG)
def test_each_wrong_answer_gets_its_own_hint(name, n):
    exercise = fresh(name)
    verdict = exercise(wrong_answer(exercise, n))
    assert verdict.passed is False
    assert verdict.words == exercise.wrong[n]["hint"]


@pytest.mark.parametrize(("name", "n"), WRONG)
def test_a_wrong_answer_is_wrong_however_it_is_rounded(name, n):
    if isinstance(value := wrong_answer(EXERCISES[name], n), float):
        for digits in (2, 3, 4):
            assert fresh(name)(float(f"{value:.{digits}g}")).passed is False


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_has_three_wrong_answers_with_different_hints(name):
    hints = [each["hint"] for each in EXERCISES[name].wrong]
    assert len(set(hints)) == len(hints) >= 3
    assert EXERCISES[name].otherwise not in hints
    assert all(type(text) is str for text in [*hints, EXERCISES[name].why])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", [None, ..., lambda *_: None, lambda *_: ...])
def test_nothing_done_is_not_attempted(name, answer):
    verdict = fresh(name)(answer)
    if callable(answer) and not isinstance(EXERCISES[name], Formula):
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
    verdict = fresh(name)(answer)
    assert verdict.passed is False
    assert len(verdict.words) > 10


def test_numbers_of_all_kinds_pass():
    for four in (4, 4.0, np.int64(4), np.float32(4), np.array(4.0), 4.0001):
        assert fl.check.q05_1(four).passed


def test_other_answers_get_the_general_hint():
    assert "which of the" in fl.check.q05_1(5).words
    assert "two more layers" in fl.check.q05_2(lambda t2, t4: 1.0).words


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("digits", [2, 3, 4])
def test_a_long_number_may_be_rounded_to_two_digits_or_more(name, digits):
    value = EXERCISES[name].answer
    given = float(f"{value:.{digits}g}")
    verdict = fresh(name)(np.float32(given))
    assert verdict.passed is True
    assert verdict.words.endswith(EXERCISES[name].why)
    far = not math.isclose(given, value, rel_tol=exercises.CLOSE)
    assert verdict.words.startswith(f"nearly: {value:.6g}; ") is far


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *(("01_3", 300), ("01_3", 262), ("01_3", 265), ("02_2", 660), ("02_2", 663)),
        *(("03_3", 100), ("03_3", 104), ("04_2", 1.3), ("04_3", 12), ("05_1", 4.1)),
        *(("09_2", 20), ("08_3", 10_000), ("08_3", 14_400), ("10_2", 0.7)),
    ],
)
def test_what_is_no_rounding_and_a_neighbour_of_a_short_number_fail(name, answer):
    assert fresh(name)(answer).passed is False


def test_a_wrong_answer_may_be_rounded_as_well():
    assert fresh("10_2")(0.33).words == "that is the share of the layers"


@pytest.mark.parametrize("answer", ["bc", "", " ", "cd", "bb", "abcd"])
def test_a_choice_is_one_letter_and_no_more(answer):
    assert "is none of a, b, c, d" in fresh("04_1")(answer).words
    assert fresh("04_1")(" B ").passed is True


def test_a_function_that_fails_is_told_how():
    words = fl.check.q05_2(lambda t2: t2).words
    assert "called with 3.0, 5.0, raised TypeError" in words
    assert "returned what is not a number" in fl.check.q05_2(lambda a, b: "9").words
    assert "pass the function itself" in fl.check.q05_2(9.0).words


def test_a_function_that_prints_is_told_to_return(capsys):
    verdict = fresh("05_2")(lambda t2, t4: print(t4 + 2 * (t4 - t2)))
    assert "prints its result: return it instead" in verdict.words
    assert capsys.readouterr().out == ""


def test_a_function_that_returns_may_print_as_well():
    def t8(t2, t4):
        print(t2)
        return t4 + 2 * (t4 - t2)

    assert fresh("05_2")(t8).passed is True


def test_the_solution_is_offered_after_two_wrong_tries():
    exercise = fresh("03_2")
    exercise(...)
    assert "solution()" not in exercise(1).words
    assert exercise("1").words.endswith(
        "(fl.check.q03_2.solution() shows the solution)"
    )
    assert exercise(153).words == exercise.why


def test_the_solution_on_request_says_why():
    verdict = fl.check.q05_2.solution()
    assert verdict.words == f"t4 + 2 * (t4 - t2); {fl.check.q05_2.why}"


def test_the_verdict_is_told_in_words_and_html_is_escaped():
    verdict = fresh("04_1")("<script>")
    assert "<script>" not in verdict._repr_html_()
    assert "Not yet" in verdict._repr_html_()
    assert "is text: give a number" in repr(fresh("05_1")("4"))


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(AttributeError, match=r"'q5_1': did you mean q05_1\?"):
        _ = fl.check.q5_1
    with pytest.raises(AttributeError, match="'answers': a name is as in q05_1"):
        _ = fl.check.answers
    assert not hasattr(fl.check, "__wrapped__")
    assert "q10_4" in dir(fl.check)


def test_without_the_notebooks_it_says_where_exercises_are(monkeypatch, tmp_path):
    monkeypatch.setattr(exercises, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(exercises, "_all", exercises._all.__wrapped__)
    with pytest.raises(FileNotFoundError, match=r"no exercises in .*none: .*a clone"):
        _ = fl.check.q05_1


GOOD = """q07_1:
  kind: formula
  arguments: [a, b]
  tries: [[1, 2], [3, 5]]
  solution: a + b
  why: w
  wrong: [{answer: a - b, hint: h}]
  otherwise: o
"""


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("formula", "formule", "q07_1: kind: 'formule'"),
        ("kind: formula", "", "q07_1: kind: 'kind'"),
        ("why: w", "", "q07_1: .*missing .*'why'"),
        ("why", "whi", "q07_1: .*unexpected .*'whi'"),
        ("a + b", "a.real", "q07_1: solution: 'a.real' is not allowed"),
        ("a + b", "a +", r"q07_1: solution: 'a \+' is no expression"),
        ("a + b", "a + c", "q07_1: solution: 'c' is not allowed"),
        ("a + b", "1 / (a - 1)", "q07_1: solution: .*called with 1, 2.* ZeroDivision"),
        ("a - b", "9 ** 9 ** 9", "q07_1: wrong 1: .*OverflowError"),
        ("hint", "hant", "q07_1: 'hint'"),
        ("[3, 5]", "[3]", "q07_1: solution: .*called with 3, raised"),
        ("q07_1", "q08_1", "q08_1: here names begin with q07_"),
        ("why: w", "why: yes", "q07_1: why, otherwise or hint: True is no text"),
        ("why: w", "why: w: w", "mapping values are not allowed"),
    ],
)
def test_a_bad_file_is_told_by_exercise_and_field(tmp_path, good, bad, words):
    path = tmp_path / "07.yaml"
    path.write_text(GOOD)
    assert [each.name for each in read_exercises(path)] == ["07_1"]
    path.write_text(GOOD.replace(good, bad))
    with pytest.raises(ValueError, match=f"^07.yaml: {words}"):
        list(read_exercises(path))


def test_a_choice_has_its_solution_among_the_letters():
    with pytest.raises(ValueError, match="solution: 'e' is none of a, b"):
        Choice("02_1", "e", "w", [], "o", "ab")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-2 ** 2 + 7 // 2 % 2", -3),
        ("x if x > 2 else 1 / 0", 3),
        ("1 / 0 if x <= 2 else round(2.5) + floor(x) + ceil(0.1)", 6),
        ("max(x, min(1, 2), abs(-5)) + log(exp(2)) + sqrt(4)", 9),
        ("(x == 3) + (x != 3) + (x < 3) + (x >= 3)", 2),
    ],
)
def test_an_expression_computes_as_python_does(text, value):
    assert expression(text, ["x"])(3) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "x.real",
            "(1).real",
            "y",
            "open('a')",
            "print(1)",
            "eval('1')",
            "x()",
            "min",
        ),
        *(
            "[x for x in (1, 2)]",
            "(lambda: 1)()",
            "'a'",
            "b'a'",
            "f'{x}'",
            "True",
            "1j",
        ),
        *("x[0]", "(1, 2)", "{1}", "{1: 2}", "x and 1", "not x", "~x", "+x", "x @ x"),
        *(
            "1 < x < 3",
            "x in x",
            "x is x",
            "min(*x)",
            "max(1, key=x)",
            "(x := 1)",
            "...",
        ),
        *(
            "__import__('os')",
            "min.__self__",
            "1 << 9",
            "1 if print() else 2",
            "",
            "x = 1",
        ),
        *("1; 1", "x\0", "(" * 500 + ")" * 500, "-" * 99_999 + "1", "9" * 400),
    ],
)
def test_what_is_not_listed_is_not_an_expression(text):
    with pytest.raises(ValueError):
        expression(text, ["x"])


@pytest.mark.parametrize("text", ["9 ** 9 ** 9 ** 9", "exp(9 ** 9)", "(-8) ** 0.5"])
def test_a_power_that_grows_out_of_bounds_fails_at_once(text):
    with pytest.raises((OverflowError, TypeError)):
        expression(text)()


NODES = (ast.Constant, ast.Name, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp)
NODES += (ast.Call, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context)
_leaves = st.sampled_from(["x", "2", "0.5", "9e9", "trap", "'s'", "True", "None"])
_shapes = ["{} + {}", "{} ** {}", "-({})", "({}) < ({})", "({}) if {} else ({})"]
_shapes += ["max({}, {})", "round({})", "trap({})", "({}).real", "({})[{}]", "[{}]"]
_shapes += [
    "[{} for x in {}]",
    "(lambda: {})()",
    "({}) and {}",
    "max(*{})",
    "f'{{{}}}'",
]
_shapes += ["min({}, key=trap)", "x({})", "({}, {})", "(y := {})", "{} % {}", "not {}"]


def _grown(inner):
    parts = st.lists(inner, min_size=3, max_size=3)
    return st.builds(
        lambda shape, each: shape.format(*each), st.sampled_from(_shapes), parts
    )


@given(st.one_of(st.recursive(_leaves, _grown, max_leaves=12), st.text(max_size=30)))
def test_nothing_outside_the_list_is_ever_evaluated(text):
    try:
        rule = expression(text, ["x"])
    except ValueError:
        return
    nodes = list(ast.walk(ast.parse(text, mode="eval").body))
    assert all(isinstance(node, NODES) for node in nodes)
    calls = {node.func.id for node in nodes if isinstance(node, ast.Call)}
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert calls <= set(exercises._ALLOWED) and names <= {"x", *calls}
    with contextlib.suppress(ArithmeticError, TypeError, ValueError):
        assert type(rule(3)) is float


def test_the_files_are_the_ones_of_this_repository():
    assert Path(fl.__file__).parents[1] / "notebooks" / "exercises" == exercises.FOLDER

"""The exercises: `fl.check.q05_1(answer)` says in words what is right, and why.

They are data: `notebooks/exercises/05.yaml` gives each the fields of its kind, a class
below. Solutions and wrong answers are letters, or expressions that `_compiled` reads:
it does only what `_ALLOWED` names, on floats, so that a huge power fails at once.
"""

from __future__ import annotations

import ast
import html
import io
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "notebooks" / "exercises"
NOT_ATTEMPTED = "not attempted yet: replace the ... and run this cell again"
CLOSE = 1e-3  # relative; below it two numbers are the same
ROUNDED = 0.03  # relative; what rounding to two or three digits may change
_ALLOWED: dict[Any, Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv},
    **{ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq},
    **{ast.Gt: operator.gt, ast.GtE: operator.ge, ast.NotEq: operator.ne},
    **{each.__name__: each for each in (min, max, abs, round, math.log)},
    **{each.__name__: each for each in (math.exp, math.sqrt, math.ceil, math.floor)},
}


@dataclass(frozen=True)
class Verdict:
    """What a check says: passed (None = not attempted), and why in words."""

    passed: bool | None
    words: str

    def __repr__(self) -> str:
        return f"{self._mark()[0]}: {self.words}"

    def _repr_html_(self) -> str:
        mark, color = self._mark()
        mark = f'<b style="color:{color}">{mark}</b>'
        return f"<p>{mark}: {html.escape(self.words)}</p>"

    def _mark(self) -> tuple[str, str]:
        if self.passed is None:
            return "Open", "#666666"
        return ("Right", "#1a7f37") if self.passed else ("Not yet", "#b35900")


@dataclass
class Number:
    """An exercise whose answer is a number; `text` is the solution as in its file.

    `parse` makes an answer of a text, `read` turns an answer into numbers to compare;
    both raise ValueError with the reason.
    """

    name: str
    text: str
    why: str
    wrong: Sequence[dict[str, Any]]
    otherwise: str

    def __post_init__(self) -> None:
        self.wrong_tries = 0
        texts = [self.why, self.otherwise, *(each["hint"] for each in self.wrong)]
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"why, otherwise or hint: {odd[0]!r} is no text")
        with _naming("solution"):
            self.answer = self.parse(self.text)
            self._right = self.read(self.answer)
        self._hints = []
        for number, each in enumerate(self.wrong, 1):
            with _naming(f"wrong {number}"):
                taken = self.read(self.parse(str(each["answer"])))
                self._hints.append((taken, each["hint"]))

    def parse(self, text: str) -> Any:
        return expression(text)()

    def read(self, answer: Any) -> tuple[float, ...]:
        return (_number(answer),)

    def __call__(self, answer: Any = None) -> Verdict:
        """The verdict on an answer of any type; never raises."""
        if answer is None or answer is ...:
            return Verdict(None, NOT_ATTEMPTED)
        try:
            verdict = self._verdict(self.read(answer))
        except NotImplementedError:
            return Verdict(None, NOT_ATTEMPTED)
        except Exception as error:
            verdict = Verdict(False, str(error))
        self.wrong_tries += not verdict.passed
        if verdict.passed or self.wrong_tries < 2:
            return verdict
        way_out = f" (fl.check.q{self.name}.solution() shows the solution)"
        return Verdict(False, verdict.words + way_out)

    def solution(self) -> Verdict:
        """The solution as in its file, and why it is right."""
        return Verdict(True, f"{self.text}; {self.why}")

    def _verdict(self, given: tuple[float, ...]) -> Verdict:
        if _close(given, self._right):
            return Verdict(True, self.why)
        for same in (_close, _rounded):
            if same(given, self._right):
                return Verdict(True, f"nearly: {self._right[0]:.6g}; {self.why}")
            for taken, hint in self._hints:
                if same(given, taken):
                    return Verdict(False, hint)
        return Verdict(False, self.otherwise)


@dataclass
class Formula(Number):
    """One whose answer is a function of the arguments, compared on each of `tries`."""

    arguments: Sequence[str]
    tries: Sequence[Sequence[float]]

    def parse(self, text: str) -> Callable[..., float]:
        return expression(text, self.arguments)

    def read(self, answer: Any) -> tuple[float, ...]:
        return tuple(_result(answer, arguments) for arguments in self.tries)


@dataclass
class Choice(Number):
    """One whose answer is one of the letters, in either case."""

    letters: str

    def parse(self, text: str) -> str:
        return text

    def read(self, answer: Any) -> tuple[float, ...]:
        if not isinstance(answer, str):
            raise ValueError(f'this is {_kind(answer)}: give a letter, as in "a"')
        if (letter := answer.strip().lower()) not in (letters := [*self.letters]):
            raise ValueError(f"{answer!r} is none of {', '.join(letters)}: give one")
        return (float(ord(letter)),)


KINDS = {"number": Number, "formula": Formula, "choice": Choice}


def _close(given: Sequence[float], exact: Sequence[float]) -> bool:
    pairs = zip(given, exact, strict=True)
    return all(math.isclose(*pair, rel_tol=CLOSE) for pair in pairs)


def _rounded(given: Sequence[float], exact: Sequence[float]) -> bool:
    """Whether one number is the other in 2 or 3 digits; one that has 3 is exact."""
    value, two, three = exact[0], *(float(f"{exact[0]:.{n}g}") for n in (2, 3))
    if len(exact) > 1 or math.isclose(value, three):
        return False
    near = [each for each in (two, three) if math.isclose(value, each, rel_tol=ROUNDED)]
    return any(math.isclose(given[0], each, rel_tol=1e-6) for each in near)


def _number(answer: Any) -> float:
    try:
        value = math.nan if isinstance(answer, (bool, str)) else float(answer)
    except Exception:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"this is {_kind(answer)}: give a number, as in 1.5")
    return value


def _kind(answer: Any) -> str:
    kinds = {str: "text", bool: "true or false", float: "no finite number"}
    return kinds.get(type(answer), f"of type {type(answer).__name__}")


def _result(answer: Any, arguments: Sequence[float]) -> float:
    if not callable(answer):
        raise ValueError(f"this is {_kind(answer)}: pass the function itself")
    call = f"your function, called with {', '.join(map(str, arguments))},"
    try:
        with redirect_stdout(io.StringIO()) as printed:
            value = answer(*arguments)
    except Exception as error:
        raise ValueError(f"{call} raised {type(error).__name__}: {error}") from None
    if value is None and printed.getvalue():
        raise ValueError("your function prints its result: return it instead")
    if value is None or value is ...:
        raise NotImplementedError
    try:
        return _number(value)
    except ValueError as error:
        raise ValueError(f"{call} returned what is not a number: {error}") from None


def expression(text: str, arguments: Sequence[str] = ()) -> Callable[..., float]:
    """The function of `arguments` that a text stands for; ValueError if not allowed."""
    try:
        term = _compiled(ast.parse(text, mode="eval").body, arguments)
    except (SyntaxError, RecursionError, MemoryError, OverflowError):
        raise ValueError(f"{text[:80]!r} is no expression") from None
    return lambda *values: term(dict(zip(arguments, map(float, values), strict=True)))


def _compiled(node: ast.expr, names: Sequence[str]) -> Callable[[dict], float]:
    does: Any = None
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            number = float(value)
            return lambda given: number
        case ast.Name(id=name) if name in names:
            return lambda given: given[name]
        case ast.IfExp(test=test, body=body, orelse=other):
            asked, yes, no = (_compiled(each, names) for each in (test, body, other))
            return lambda given: (yes if asked(given) else no)(given)
        case ast.UnaryOp(op=sign, operand=inner):
            does, parts = type(sign), [inner]
        case ast.BinOp(left=left, op=sign, right=right):
            does, parts = type(sign), [left, right]
        case ast.Compare(left=left, ops=[sign], comparators=[right]):
            does, parts = type(sign), [left, right]
        case ast.Call(func=ast.Name(id=does), args=parts, keywords=[]):
            pass
    if does not in _ALLOWED:
        raise ValueError(f"{ast.unparse(node)!r} is not allowed")
    terms = [_compiled(part, names) for part in parts]
    return lambda given: float(_ALLOWED[does](*(term(given) for term in terms)))


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Whatever is wrong with data is a ValueError that begins with its place."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{place}: {error}") from error


def read_exercises(path: Path) -> Iterator[Number]:
    """The exercises of a file; ValueError names it, the exercise and the field."""
    with _naming(path.name):
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            with _naming(name):
                if not name.startswith(f"q{path.stem}_"):
                    raise ValueError(f"here names begin with q{path.stem}_")
                with _naming("kind"):
                    kind = KINDS[entry.pop("kind")]
                yield kind(name[1:], str(entry.pop("solution")), **entry)


@cache
def _all() -> dict[str, Number]:
    if not FOLDER.is_dir():
        raise FileNotFoundError(
            f"no exercises in {FOLDER}: they come with the notebooks, so run this from "
            "a clone of the repository, or from its unzipped archive"
        )
    files = sorted(FOLDER.glob("*.yaml"))
    return {each.name: each for path in files for each in read_exercises(path)}


def __getattr__(name: str) -> Any:
    if name == "EXERCISES":
        return _all()
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for each in _all().values():
        if name == f"q{each.name}":
            return each
    near = get_close_matches(name, __dir__(), 1)
    advice = f"did you mean {near[0]}?" if near else "a name is as in q05_1"
    raise AttributeError(f"there is no exercise {name!r}: {advice}")


def __dir__() -> list[str]:
    return ["EXERCISES", *(f"q{name}" for name in _all())]

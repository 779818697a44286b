"""What an exercise is: a verdict in words for every answer, never a traceback.

The exercises themselves, with their solutions, are in `check.py` and `check_NN.py`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

CLOSE = 1e-3  # relative; answers may be rounded a little
NOT_ATTEMPTED = "not attempted yet: replace the ... and run this cell again"


@dataclass(frozen=True)
class Verdict:
    """What a check says: passed (None = not attempted), and why in words."""

    passed: bool | None
    words: str

    def __repr__(self) -> str:
        return f"{_MARK[self.passed]}: {self.words}"

    def _repr_html_(self) -> str:
        color = {True: "#1a7f37", False: "#b35900", None: "#666666"}[self.passed]
        mark = f'<b style="color:{color}">{_MARK[self.passed]}</b>'
        return f"<p>{mark}: {html.escape(self.words)}</p>"


_MARK = {True: "Right", False: "Not yet", None: "Open"}


@dataclass(frozen=True)
class Exercise:
    """A question's solution, why it is right, and wrong answers with their hints.

    `read` turns an answer into numbers to compare, or raises ValueError with a hint.
    """

    name: str
    solution: Any
    why: str
    wrong: Sequence[tuple[Any, str]]
    otherwise: str
    read: Callable[[Any], tuple[float, ...]]

    def __call__(self, answer: Any = None) -> Verdict:
        """The verdict on an answer of any type; never raises."""
        if answer is None or answer is ...:
            return Verdict(None, NOT_ATTEMPTED)
        try:
            given = self.read(answer)
        except _Unanswered:
            return Verdict(None, NOT_ATTEMPTED)
        except Exception as error:
            return Verdict(False, str(error))
        if _same(given, self.read(self.solution)):
            return Verdict(True, self.why)
        return Verdict(False, self._hint(given))

    def _hint(self, given: tuple[float, ...]) -> str:
        for answer, hint in self.wrong:
            if _same(given, self.read(answer)):
                return hint
        return self.otherwise


class _Unanswered(Exception):
    """A function that returns nothing: the reader has not written it yet."""


def _same(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(math.isclose(x, y, rel_tol=CLOSE) for x, y in zip(a, b, strict=True))


def _number(answer: Any) -> float:
    if isinstance(answer, (bool, str)):
        raise ValueError(f"{answer!r} is {_kind(answer)}: give a number, as in 1.5")
    try:
        value = float(answer)
    except Exception:
        raise ValueError(f"this is {_kind(answer)}: give a number, as in 1.5") from None
    if not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return value


def _kind(answer: Any) -> str:
    return {str: "text", bool: "true or false"}.get(
        type(answer), f"of type {type(answer).__name__}"
    )


def number(name: str, solution: float, **words: Any) -> Exercise:
    """An exercise whose answer is one number."""
    return Exercise(name, solution, read=lambda a: (_number(a),), **words)


def formula(
    name: str, solution: Callable[..., float], tries: Sequence[Any], **words: Any
) -> Exercise:
    """An exercise whose answer is a function, compared on the arguments in `tries`."""

    def read(answer: Any) -> tuple[float, ...]:
        return tuple(_result(answer, arguments) for arguments in tries)

    return Exercise(name, solution, read=read, **words)


def _result(answer: Any, arguments: Sequence[float]) -> float:
    if not callable(answer):
        raise ValueError(f"this is {_kind(answer)}: pass the function itself")
    call = f"your function, called with {', '.join(map(str, arguments))},"
    try:
        value = answer(*arguments)
    except Exception as error:
        raise ValueError(f"{call} raised {type(error).__name__}: {error}") from None
    if value is None or value is ...:
        raise _Unanswered
    try:
        return _number(value)
    except ValueError as error:
        raise ValueError(f"{call} returned what is not a number: {error}") from None

"""The kinds of exercises: what each asks for, and what it says of an answer."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fastlab.notebook import answers
from fastlab.notebook.answers import expression, naming, number

NOT_ATTEMPTED = "not attempted yet: replace the ... or None, run that cell and this one"
CLOSE = 1e-3  # relative; below it two numbers are the same
ROUNDED = 0.03  # relative; what rounding to two or three digits may change
# A verdict's head and colour, by whether it passed; None = not attempted.
HEADS = {True: ("Right", "#1a7f37"), None: ("Open", "#666666")}
HEADS |= {False: ("Not yet", "#b35900")}


@dataclass(frozen=True)
class Verdict:
    """What a check says: passed (None = not attempted), and why in words."""

    passed: bool | None
    words: str

    def __repr__(self) -> str:
        return f"{HEADS[self.passed][0]}: {self.words}"

    def _repr_html_(self) -> str:
        head, color = HEADS[self.passed]
        words = html.escape(self.words)
        return f'<p><b style="color:{color}">{head}</b>: {words}</p>'


@dataclass(kw_only=True)
class Number:
    """An exercise whose answer is a number; `text` is the solution as in its file.

    `parse` makes an answer of what a file holds, `read` turns an answer into what is
    compared; both raise ValueError with the reason.
    """

    name: str
    text: Any
    why: str
    wrong: Sequence[dict[str, Any]]
    otherwise: str

    def __post_init__(self) -> None:
        self.wrong_tries = 0
        texts = [self.why, self.otherwise, *(each["hint"] for each in self.wrong)]
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"why, otherwise or hint: {odd[0]!r} is no text")
        with naming("solution"):
            self.answer = self.parse(self.text)
            self._right = self.read(self.answer)
        self._hints = []
        for place, each in enumerate(self.wrong, 1):
            with naming(f"wrong {place}"):
                self._hints.append((self._mistake(each), each["hint"]))

    def parse(self, given: Any) -> Any:
        return expression(str(given))()

    def read(self, answer: Any) -> tuple[Any, ...]:
        return (number(answer),)

    def __call__(self, answer: Any = None) -> Verdict:
        """The verdict on an answer of any type; never raises."""
        try:
            if answer is None or answer is ...:
                raise NotImplementedError
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

    def _mistake(self, wrong: Mapping[str, Any]) -> Any:
        """What the hint of a wrong answer hangs on."""
        return self.read(self.parse(wrong["answer"]))

    def _verdict(self, given: tuple[Any, ...]) -> Verdict:
        if _close(given, self._right):
            return Verdict(True, self.why)
        for same in (_close, _rounded):
            if same(given, self._right):
                return Verdict(True, f"nearly: {self._right[0]:.6g}; {self.why}")
            for mistake, hint in self._hints:
                if same(given, mistake):
                    return Verdict(False, hint)
        return Verdict(False, self.otherwise)


@dataclass(kw_only=True)
class Choice(Number):
    """One whose answer is one of the letters, in either case."""

    letters: str

    def parse(self, given: Any) -> Any:
        return given

    def read(self, answer: Any) -> tuple[Any, ...]:
        if not isinstance(answer, str):
            raise ValueError(
                f'this is {answers.kind_of(answer)}: give a letter, as in "a"'
            )
        if (letter := answer.strip().lower()) not in (letters := [*self.letters]):
            raise ValueError(f"{answer!r} is none of {', '.join(letters)}: give one")
        return (float(ord(letter)),)


@dataclass(kw_only=True)
class Formula(Number):
    """One whose answer is a function of numbers, compared on each of `tries`."""

    arguments: Sequence[str]
    tries: Sequence[Sequence[Any]]
    entry: ClassVar[Any] = staticmethod(number)  # what a result is compared as

    def parse(self, given: Any) -> Any:
        return expression(str(given), self.arguments)

    def read(self, answer: Any) -> tuple[Any, ...]:
        named = [dict(zip(self.arguments, t, strict=True)) for t in self.tries]
        return tuple(answers.result_of(answer, values, self.entry) for values in named)


@dataclass(kw_only=True)
class Tensor(Formula):
    """One whose answer is a function of tensors, compared element by element.

    arrays: for each comparison every argument's shape, filled with the same random
    floats (standard normal) every time, or a number, which is given as it is.
    """

    arrays: Sequence[Mapping[str, Any]]
    tries: Sequence[Sequence[Any]] = field(init=False)
    entry: ClassVar[Any] = staticmethod(answers.array_of)

    def __post_init__(self) -> None:
        normal = np.random.default_rng(0).standard_normal
        with naming("arrays"):
            self.tries = [
                [normal(n).astype("f4") if isinstance(n, list) else n for n in sizes]
                for sizes in ([each[a] for a in self.arguments] for each in self.arrays)
            ]
        super().__post_init__()

    def _verdict(self, given: tuple[Any, ...]) -> Verdict:
        verdict = super()._verdict(given)
        found, right = given[0].shape, self._right[0].shape
        if found == right or verdict.words != self.otherwise:
            return verdict
        return Verdict(False, f"its shape is {found}, not {right}: {self.otherwise}")


@dataclass(kw_only=True)
class Setting(Number):
    """One whose answer is a row of a table for which `condition` holds.

    text: columns and values for which it does. wrong: `when` says which rows get the
    hint; `answer` is such a row, given by the columns that differ from `text`.
    """

    condition: str

    def __post_init__(self) -> None:
        super().__post_init__()
        with naming("condition"):
            self._holds = expression(self.condition, [*self.text])
            self._holds(*self._right)

    def parse(self, given: Any) -> Any:
        return {**self.text, **given}

    def read(self, answer: Any) -> tuple[Any, ...]:
        return answers.row_of(answer, self.text)

    def solution(self) -> Verdict:
        """A row that passes, and why."""
        columns = ", ".join(f"{name}: {value}" for name, value in self.text.items())
        return Verdict(True, f"{columns}; {self.why}")

    def _mistake(self, wrong: Mapping[str, Any]) -> Any:
        when = expression(wrong["when"], [*self.text])
        when(*self.read(self.parse(wrong["answer"])))
        return when

    def _verdict(self, given: tuple[Any, ...]) -> Verdict:
        if self._holds(*given):
            return Verdict(True, self.why)
        hints = (hint for when, hint in self._hints if when(*given))
        return Verdict(False, next(hints, self.otherwise))


@dataclass(kw_only=True)
class Prediction(Setting):
    """One whose answer is a guess and what was measured then: `within` a share of it.

    The `answer` of a wrong one may be a number: a guess where 1 was measured.
    """

    within: float = 0.25
    text: Any = field(init=False, default_factory=lambda: {"guess": 1, "measured": 1})
    condition: str = field(init=False)

    def __post_init__(self) -> None:
        self.condition = f"abs(guess - measured) <= {self.within} * abs(measured)"
        super().__post_init__()

    def __call__(self, guess: Any = None, measured: Any = None) -> Verdict:
        """The verdict on a guess, once there is one and something was measured."""
        both = {"guess": guess, "measured": measured}
        is_open = any(each is None or each is ... for each in both.values())
        return super().__call__(None if is_open else both)

    def parse(self, given: Any) -> Any:
        return super().parse(given if isinstance(given, dict) else {"guess": given})

    def solution(self) -> Verdict:
        """No number: only measuring tells."""
        return Verdict(True, f"what you measured; {self.why}")

    def _verdict(self, given: tuple[Any, ...]) -> Verdict:
        verdict = super()._verdict(given)
        both = "guessed {:.3g}, measured {:.3g}".format(*given)
        return Verdict(verdict.passed, f"{both}: {verdict.words}")


EVERY = (Number, Formula, Choice, Tensor, Setting, Prediction)
KINDS = {kind.__name__.lower(): kind for kind in EVERY}


def _close(given: Sequence[Any], exact: Sequence[Any]) -> bool:
    """Whether all are the same, element by element."""
    return all(
        np.shape(a) == np.shape(b)
        and np.allclose(a, b, CLOSE, CLOSE / 100 * np.abs(b).max())
        for a, b in zip(given, exact, strict=True)
    )


def _rounded(given: Sequence[Any], exact: Sequence[Any]) -> bool:
    """Whether one number is the other in 2 or 3 digits; one that has 3 is exact."""
    if len(exact) > 1 or np.ndim(exact[0]):
        return False
    value, two, three = exact[0], *(float(f"{exact[0]:.{n}g}") for n in (2, 3))
    near = [each for each in (two, three) if math.isclose(value, each, rel_tol=ROUNDED)]
    same = any(math.isclose(given[0], each, rel_tol=1e-6) for each in near)
    return same and not math.isclose(value, three)

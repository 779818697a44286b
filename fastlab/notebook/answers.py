"""Answers to exercises, and the expressions that their files hold.

What a reader passes to a check is made into what is compared, with ValueError in words.
An expression is read safely, never passed to eval: it is put together from its syntax
tree of numbers, texts, arguments, the operators and functions of `ALLOWED`, and nothing
else. Numbers are floats, so that a huge power fails at once.
"""

from __future__ import annotations

import ast
import io
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

KINDS = {str: "text", bool: "true or false", float: "no finite number", list: "a list"}
Term = Callable[[Mapping[str, Any]], Any]


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Whatever is wrong inside is a ValueError that begins with its place."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{place}: {error}") from error


def kind_of(answer: Any) -> str:
    """What an answer is that should be something else."""
    return KINDS.get(type(answer), f"of type {type(answer).__name__}")


def number(answer: Any) -> float:
    """A finite number of any type, as a float."""
    try:
        value = math.nan if isinstance(answer, (bool, str)) else float(answer)
    except Exception:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"this is {kind_of(answer)}: give a number, as in 1.5")
    return value


def array_of(answer: Any) -> np.ndarray:
    """A tensor, an array or a number, as an array of floats."""
    try:
        is_tensor = hasattr(answer, "detach")
        array = np.asarray(answer.detach().cpu().double() if is_tensor else answer)
    except Exception:
        array = np.empty(0)
    if array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"this is {kind_of(answer)}: give a tensor or an array")
    if bad := int(np.sum(~np.isfinite(array))):
        raise ValueError(f"{bad} of {array.size} numbers are NaN or infinite")
    return array.astype(float)


def result_of(
    function: Any, given: Mapping[str, Any], read: Callable[[Any], Any]
) -> Any:
    """What `read` makes of the function's result for these values of its arguments.

    Arrays are handed over as tensors where torch is installed. Raises
    NotImplementedError for a function that returns nothing yet.
    """
    if not callable(function):
        raise ValueError(f"this is {kind_of(function)}: pass the function itself")
    said = (
        f"{n} of shape {v.shape}" if np.ndim(v) else f"{n}={v}"
        for n, v in given.items()
    )
    call = f"your function, called with {', '.join(said)},"
    values = [v.copy() if isinstance(v, np.ndarray) else v for v in given.values()]
    with suppress(ImportError):  # without torch it gets arrays
        import torch

        if not isinstance(function, Expression):
            tensor = torch.from_numpy
            values = [tensor(v) if isinstance(v, np.ndarray) else v for v in values]
    try:
        with redirect_stdout(io.StringIO()) as printed:
            value = function(*values)
    except Exception as error:
        raise ValueError(f"{call} raised {type(error).__name__}: {error}") from None
    if value is None and printed.getvalue():
        raise ValueError("your function prints its result: return it instead")
    if value is None or value is ...:
        raise NotImplementedError
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{call} returned something else: {error}") from None


def row_of(answer: Any, like: Mapping[str, Any]) -> tuple[Any, ...]:
    """The columns of `like` in a dict, a Series, or a DataFrame of one row."""
    if getattr(answer, "ndim", 0) == 2 and hasattr(answer, "iloc"):
        if len(answer) != 1:
            found = f"this table has {len(answer)} rows"
            raise ValueError(f"{found}: give one of them, as in rows.iloc[0]")
        answer = answer.iloc[0]
    if not isinstance(answer, Mapping) and not hasattr(answer, "iloc"):
        raise ValueError(f"this is {kind_of(answer)}: give a row, as in rows.iloc[0]")
    if absent := [name for name in like if name not in answer]:
        raise ValueError(f"your row has no column {absent[0]}: give a row that has it")
    entries = []
    for name, value in like.items():
        with naming(name):
            given = answer[name] if isinstance(value, str) else number(answer[name])
            if isinstance(value, str) and not isinstance(given, str):
                raise ValueError(
                    f"this is {kind_of(given)}: give text, as {value!r} is"
                )
            entries.append(given)
    return tuple(entries)


def _over(two: np.ufunc) -> Callable[..., Any]:
    """`max(x, axis=1)` looks along an array, `max(x, y)` at each place of two."""

    def call(first: Any, *others: Any, **along: Any) -> Any:
        if others:
            return reduce(two, others, first)
        return two.reduce(first, **{"axis": None} | along)

    return call


ALLOWED: dict[Any, Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv},
    **{ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.USub: operator.neg},
    **{ast.And: lambda *each: all(each), ast.Or: lambda *each: any(each)},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq},
    **{ast.Gt: operator.gt, ast.GtE: operator.ge, ast.NotEq: operator.ne},
    **{"max": _over(np.maximum), "min": _over(np.minimum), "where": np.where},
    **{"maximum": np.maximum, "minimum": np.minimum},
    **{"abs": np.abs, "sum": np.sum, "mean": np.mean, "round": np.round},
    **{"sqrt": np.sqrt, "exp": np.exp, "log": np.log, "clip": np.clip},
    **{"ceil": np.ceil, "floor": np.floor, "dot": np.dot, "sort": np.sort},
    **{"argmax": np.argmax, "transpose": np.transpose},
    "reshape": lambda array, *shape: np.reshape(array, [int(n) for n in shape]),
}
ALONG = ("axis", "keepdims")  # keywords, each with a whole number, True or False


@dataclass(frozen=True)
class Expression:
    """A function of floats, arrays and texts."""

    arguments: tuple[str, ...]
    term: Term

    def __call__(self, *values: Any) -> Any:
        given = dict(zip(self.arguments, map(_plain, values), strict=True))
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            return self.term(given)


def expression(text: str, arguments: Sequence[str] = ()) -> Expression:
    """The function of `arguments` that a text stands for; ValueError if not allowed."""
    try:
        term = _compiled(ast.parse(text, mode="eval").body, arguments)
    except (SyntaxError, RecursionError, MemoryError, OverflowError):
        raise ValueError(f"{text[:80]!r} is no expression") from None
    return Expression(tuple(arguments), term)


def _plain(value: Any) -> Any:
    """A float, or an array of floats; a text stays what it is."""
    if isinstance(value, str):
        return value
    array = np.asarray(value, dtype=float)
    return array if array.ndim else float(array)


def _compiled(node: ast.expr, names: Sequence[str]) -> Term:
    does: Any = None
    parts: Sequence[ast.expr] = ()
    along: dict[str, int] = {}
    match node:
        case ast.Constant(value=value) if type(value) in (int, float, str):
            constant = _plain(value)
            return lambda given: constant
        case ast.Name(id=name) if name in names:
            return lambda given: given[name]
        case ast.BoolOp(op=sign, values=parts):
            does = type(sign)
        case ast.UnaryOp(op=sign, operand=inner):
            does, parts = type(sign), [inner]
        case (
            ast.BinOp(left=left, op=sign, right=right)
            | ast.Compare(left=left, ops=[sign], comparators=[right])
        ):
            does, parts = type(sign), [left, right]
        case ast.Call(func=ast.Name(id=does), args=parts, keywords=keywords):
            along = dict(map(_keyword, keywords))
    if does not in ALLOWED:
        raise ValueError(f"{ast.unparse(node)!r} is not allowed")
    terms = [_compiled(part, names) for part in parts]
    return lambda given: _plain(ALLOWED[does](*(t(given) for t in terms), **along))


def _keyword(given: ast.keyword) -> tuple[str, int]:
    try:
        value = ast.literal_eval(given.value)
    except ValueError:
        value = None
    if given.arg not in ALONG or not isinstance(value, int):
        raise ValueError(f"{ast.unparse(given)!r} is not allowed")
    return given.arg, value

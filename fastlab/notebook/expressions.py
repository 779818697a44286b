"""Expressions in the files of exercises: read safely, never passed to eval.

What a text stands for is put together from its syntax tree: numbers, texts, arguments,
the operators and functions of `ALLOWED`, and nothing else. Numbers are floats, so that
a huge power fails at once.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

Term = Callable[[Mapping[str, Any]], Any]


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

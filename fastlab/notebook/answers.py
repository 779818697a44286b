"""What a reader passes to a check, made into what is compared; ValueError in words."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np

from fastlab.notebook.expressions import Expression

KINDS = {str: "text", bool: "true or false", float: "no finite number", list: "a list"}


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
    call = f"your function, called with {', '.join(map(_said, given, given.values()))},"
    is_ours = isinstance(function, Expression)
    try:
        with redirect_stdout(io.StringIO()) as printed:
            value = function(*(v if is_ours else _copied(v) for v in given.values()))
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


def _said(name: str, value: Any) -> str:
    return f"{name} of shape {value.shape}" if np.ndim(value) else f"{name}={value}"


def _copied(value: Any) -> Any:
    """What the reader's function may write into: a tensor where torch is installed."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        import torch
    except ImportError:
        return value.copy()
    return torch.from_numpy(value.copy())


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
    return tuple(_entry(name, answer[name], value) for name, value in like.items())


def _entry(name: str, value: Any, like: Any) -> Any:
    with naming(name):
        if not isinstance(like, str):
            return number(value)
        if isinstance(value, str):
            return value
        raise ValueError(f"this is {kind_of(value)}: give text, as {like!r} is")

"""Calls that differ in sizes alone, counted at once: each size a column of numbers.

What counts a call is arithmetic on its batch and lengths, with a question here and
there: is there a past, is a window full? A column answers where all of its numbers
agree. Where they do not, the calls are counted in two halves. Numbers stay Python's
own, so that none overflows and none differs from those of a call alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import compress
from typing import Any

import numpy as np

from fastlab.spec.point import Point

FEW = 8  # calls that are as fast one by one
PASSES = 4096  # counted at once at most: bounds the memory of many long generations
SIZES = ("batch", "prompt_len", "prefix_len")  # of a workload, that may differ


class Split(Exception):
    """The calls differ in what they do: args[0] says which of them do one thing."""


class Column(np.ndarray):
    """One whole number of each call; asked whether it is true, one answer or Split."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __bool__(self) -> bool:
        told = np.asarray(self).astype(bool)
        if told.all() or not told.any():
            return bool(told[0])
        raise Split(told)

    def __round__(self, digits: None = None) -> Any:
        return np.frompyfunc(round, 1, 1)(self)


def most(values: Iterable[Any]) -> Any:
    """The largest of numbers, of each call where there are columns; 0 of none."""
    found = [*values]
    columns = any(isinstance(value, Column) for value in found)
    return reduce(np.maximum, found) if columns else max(found, default=0)


def width(point: Point) -> int:
    """How many calls a point stands for that was joined of several; 0 for one alone."""
    batch = point.workload.batch
    return len(batch) if isinstance(batch, Column) else 0


def apart(told: Iterable[Any], point: Point) -> list[tuple[Any, ...]]:
    """Numbers and columns of what a point stands for: as many numbers of each call."""
    n = width(point) or 1
    each = [x.tolist() if isinstance(x, Column) else [x] * n for x in told]
    return [*zip(*each, strict=True)]


def in_order(points: Sequence[Point], count: Callable[[Point], list[Any]]) -> list[Any]:
    """What `count` gives for each of the points, asked for many of them at once.

    count: a point, which may stand for many -> what it gives for each of those.
    """
    alike: dict[Any, list[int]] = {}
    for i, point in enumerate(points):
        work = point.workload
        call = work.phase, work.new_tokens, work.logits
        part = i * (work.new_tokens + 1) // PASSES
        alike.setdefault((point.shape, point.recipe, call, part), []).append(i)
    found: dict[int, Any] = {}
    groups = [*alike.values()]
    while groups:
        where = groups.pop()
        own = [points[i] for i in where]
        try:
            many = len(own) > FEW
            made = count(_joined(own)) if many else [count(one)[0] for one in own]
            found.update(zip(where, made, strict=True))
        except Split as split:
            (told,) = split.args
            groups += [[*compress(where, one)] for one in (told, ~told)]
    return [found[i] for i in range(len(points))]


def _joined(points: Sequence[Point]) -> Point:
    """One that stands for all: as the first, but for columns of sizes that differ."""
    joined, work = copy.copy(points[0]), copy.copy(points[0].workload)
    for name in SIZES:
        values = [getattr(point.workload, name) for point in points]
        if name == SIZES[0] or len({*values}) > 1:
            work._set(**{name: np.array(values, object).view(Column)})
    joined._set(workload=work)
    return joined

"""Predicted speed-ups: rows that differ in one thing, and what that one thing buys."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from fastlab.scores.correction import Errors
from fastlab.spec.checks import canonical
from fastlab.spec.point import Point

PARTS = ("shape", "workload", "recipe")  # of a point: their fields need no prefix


def speedups(
    points: Sequence[Point], predicted: np.ndarray, measured: np.ndarray
) -> Iterator[Errors]:
    """Predicted time ratios of pairs against measured ones, of all and by field.

    A pair differs in that field only.
    """
    by_field = _pairs(points)
    every = [pair for pairs in by_field.values() for pair in pairs]
    for field, pairs in {"all": every, **by_field}.items():
        if pairs:
            a, b = np.array(pairs).T
            ratios = predicted[a] / predicted[b], measured[a] / measured[b]
            off = Errors.of(field, *ratios)
            yield replace(off, bias=math.nan, spearman=spearman(*ratios))


def _pairs(points: Sequence[Point]) -> dict[str, list[tuple[int, int]]]:
    """Pairs of rows whose canonical points differ in one field and no other."""
    flat = [_flat(point.to_dict()) for point in points]
    found: dict[str, list[tuple[int, int]]] = {}
    for field in sorted({name for one in flat for name in one}):
        alike = defaultdict(list)
        for i, one in enumerate(flat):
            alike[canonical({k: v for k, v in one.items() if k != field})].append(i)
        pairs = [
            pair
            for same in alike.values()
            for pair in _ordered(same, [flat[i].get(field) for i in same])
        ]
        if pairs:
            found[field] = pairs
    return found


def _ordered(rows: Sequence[int], values: Sequence[Any]) -> Iterator[tuple[int, int]]:
    # The larger value first: its time over that of the smaller is the speed-up of
    # "fewer" or "narrower", and of bf16 over fp32. None = the field's default.
    known = [(value is not None, isinstance(value, str), value) for value in values]
    for pair in combinations(range(len(rows)), 2):
        smaller, larger = sorted(pair, key=known.__getitem__)
        if known[smaller] != known[larger]:
            yield rows[larger], rows[smaller]


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Fields of all depths; those of a recipe's parts as "pruning.ffn"."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        inside = "" if name in PARTS else f"{before}{name}."
        deeper = isinstance(value, Mapping)
        found |= _flat(value, inside) if deeper else {before + name: value}
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; NaN for fewer than 3 pairs or a constant side.

    Values with the same 7 digits are ties, or else rounding would rank them.
    """
    from scipy.stats import rankdata  # 0.5 s, and only the score needs it

    a, b = (np.array([float(f"{value:.6e}") for value in side]) for side in (a, b))
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])

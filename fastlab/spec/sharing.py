"""Sharing: weights as indices into small tables, and their bytes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastlab.spec.checks import Spec

BITS = (2, 3, 4, 6)


@dataclass(frozen=True)
class Sharing(Spec):
    """Weights that share values: each is an index of `bits` bits into a table.

    A table has 2^bits values, found by k-means. rows: output rows that share one table,
    0 = all rows of a weight. Raises ValueError naming field, value, what is allowed.
    """

    KEPT: ClassVar = ("bits",)
    bits: int = 4
    rows: int = 0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            self.refuse("bits", f"is not one of {', '.join(map(str, BITS))}")
        self._check_counts("rows", low=0, high=2**20)


def tables_of(sharing: Sharing, n: int) -> int:
    """Tables of a weight of n rows; ValueError where its groups do not divide them."""
    if sharing.rows and n % sharing.rows:
        raise ValueError(f"rows={sharing.rows}: groups do not divide {n} rows")
    return n // sharing.rows if sharing.rows else 1


def palette_bytes(sharing: Sharing, n: int, k: int, value: int = 2) -> int:
    """Bytes of one weight (n outputs, k inputs): packed indices and its tables.

    Eight indices take `bits` bytes, the last ones filled up; `value` = bytes of one
    value of a table. Biases are not in it.
    """
    indices = -(-n * k // 8) * sharing.bits
    return indices + tables_of(sharing, n) * 2**sharing.bits * value

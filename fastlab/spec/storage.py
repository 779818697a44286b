"""Weights not stored dense: with zeros among them, or as palettes. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from fastlab.spec.checks import Spec, choice, count, given

METHODS = ("magnitude", "wanda")
STORAGES = ("dense", "csr", "2:4")
SEMI_ROWS, SEMI_COLUMNS = 32, 64  # a 2:4 weight has multiples: both kernels take them
BITS = (2, 3, 4, 6)


@dataclass(frozen=True)
class Sparsity(Spec):
    """Which weights of each output row become zero, and how the others are stored.

    A pattern makes ratio 1 - N / M. method: the smallest by magnitude, or by magnitude
    times the norm of their input (Wanda). storage: dense with zeros in it, csr
    (compressed rows), or 2:4 for sparse tensor cores. Raises ValueError naming field,
    value and what is allowed.
    """

    ratio: float = given("share of zeros in each row of a weight", 0.5)
    pattern: str = given("N:M, N weights left of every M neighbours, as 2:4", "")
    method: str = choice("which weights go", METHODS, "magnitude")
    storage: str = choice("how the others are stored", STORAGES, "dense")

    def __post_init__(self) -> None:
        self._check_fields()
        if self.pattern:
            keep, of = self.group
            self._set(ratio=1 - keep / of)
        number = isinstance(self.ratio, (int, float)) and self.ratio is not True
        if not number or not 0 < self.ratio < 1:
            self.refuse("ratio", "must be above 0 and below 1")
        if self.storage == "2:4" and self.pattern != "2:4":
            given = f"this is pattern={self.pattern!r}"
            self.refuse("storage", f"needs pattern='2:4'; {given}")

    @property
    def group(self) -> tuple[int, int]:
        """(N, M) of the pattern, (0, 0) where there is none."""
        if not self.pattern:
            return 0, 0
        found = re.fullmatch(r"(\d+):(\d+)", str(self.pattern))
        keep, of = (int(n) for n in found.groups()) if found else (0, 0)
        if not 0 < keep < of <= 64:
            rule = "must be N:M, N of M weights left: 0 < N < M <= 64"
            self.refuse("pattern", rule)
        return keep, of

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: those which are not the default; ratio or pattern."""
        told = super().to_dict()
        return {n: v for n, v in told.items() if n != "ratio" or not self.pattern}


def zeros_per_row(sparsity: Sparsity, k: int) -> int:
    """Weights of a row of k that become zero; ValueError where M does not divide k."""
    keep, of = sparsity.group
    if not of:
        return round(sparsity.ratio * k)
    if k % of:
        raise ValueError(
            f"pattern={sparsity.pattern!r}: groups of {of} do not divide {k} inputs"
        )
    return k // of * (of - keep)


def check_weight(sparsity: Sparsity, name: str, n: int, k: int) -> None:
    """Raise ValueError unless a weight (n outputs, k inputs) can be made and stored."""
    zeros_per_row(sparsity, k)
    if sparsity.storage == "2:4" and (n % SEMI_ROWS or k % SEMI_COLUMNS):
        raise ValueError(
            f"storage='2:4': {n} outputs and {k} inputs of {name} must be multiples "
            f"of {SEMI_ROWS} and {SEMI_COLUMNS}"
        )


def sparse_bytes(sparsity: Sparsity, n: int, k: int, value: int = 2) -> int:
    """Bytes of one weight (n outputs, k inputs) as stored; `value` = of a dense one.

    dense: n k value, zeros too. csr: for every weight left an fp32 value (torch's CPU
    product knows no other float but double) and an int32 column, and n + 1 int32 row
    starts. 2:4: half the values and 2 bits of position for each of them.
    """
    if sparsity.storage == "csr":
        left = n * (k - zeros_per_row(sparsity, k))
        return left * (4 + 4) + (n + 1) * 4
    if sparsity.storage == "2:4":
        return n * k // 2 * value + n * k // 8
    return n * k * value


@dataclass(frozen=True)
class Sharing(Spec):
    """Weights that share values: each is an index of `bits` bits into a table.

    A table has 2^bits values, found by k-means. Raises ValueError naming field, value,
    what is allowed.
    """

    KEPT: ClassVar = ("bits",)
    bits: int = choice("bits of an index into a table of values", BITS, 4)
    rows: int = count("output rows that share a table, 0 = all", 0, low=0, high=2**20)

    def __post_init__(self) -> None:
        self._check_fields()


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

"""Sizes of a call, and what is counted in them: sums of c x monomial. No torch.

B batch, S new positions, P past ones, N = P + S, C positions whose logits are computed,
E positions that an encoder read; Mw = min(P, w - 1) + S, the keys that attention with a
window w reads, Lw = min(N, w - 1), those that its cache keeps; Kc =
ceil(S / c), chunks of c positions, and Qc the sum of the squares of their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product

Terms = list[list[int]]  # [[c, i], ...]: the sum of c x the i-th monomial


def symbols(
    batch: int, new: int, past: int, scored: int = 1, source: int = 0
) -> dict[str, int]:
    """Values of the plain symbols."""
    n = past + new
    return {"B": batch, "S": new, "P": past, "N": n, "C": scored, "E": source}


def value_of(name: str, known: Mapping[str, int]) -> int:
    """The value of one symbol, also of Mw, Lw, Kc and Qc."""
    if name in known:
        return known[name]
    kind, size = name[0], int(name[1:])
    if kind == "M":
        return min(known["P"], size - 1) + known["S"]
    if kind == "L":
        return min(known["N"], size - 1)
    whole, rest = known["S"] // size, known["S"] % size
    return whole * size**2 + rest**2 if kind == "Q" else whole + (rest > 0)


def monomial(name: str, known: Mapping[str, int]) -> int:
    """The value of a product such as "B*S*N"; that of "1" is 1."""
    value = 1
    for part in _parts(name):
        value *= known[part] if part in known else value_of(part, known)
    return value


@lru_cache(maxsize=4096)
def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split("*") if part != "1")


def candidates(windows: Iterable[int], chunks: Iterable[int]) -> list[str]:
    """Products that sizes may be proportional to, the simplest first."""
    keys = ["S", "N", "P", "C", "E"]
    keys += [f"{kind}{w}" for w in windows for kind in "ML"]
    keys += [f"K{c}" for c in chunks]
    rows = ["1", *keys, *(f"{a}*{b}" for a, b in product(keys, keys) if a <= b)]
    rows += [f"Q{c}" for c in chunks]
    return [*rows, *("B" if row == "1" else f"B*{row}" for row in rows)]


def fit(values: Sequence[int], bases: Mapping[str, Sequence[int]]) -> tuple[int, str]:
    """(c, monomial) with c x monomial = value in every trace; ("", 0) where none is."""
    for name, base in bases.items():
        c, odd = divmod(values[0], base[0]) if base[0] else (0, 1)
        if not odd and all(c * b == v for b, v in zip(base, values, strict=True)):
            return c, name
    return 0, ""

"""Sizes of a call, and what is counted in them: sums of c x monomial. No torch.

B batch, S new positions, P past ones, N = P + S, C positions whose logits are computed,
E positions that an encoder read; Mw = min(P, w - 1) + S, the keys that attention with a
window w reads, Lw = min(N, w - 1), those that its cache keeps; Kc =
ceil(S / c), chunks of c positions, and Qc the sum of the squares of their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, product

import numpy as np

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
    rows += ["B" if row == "1" else f"B*{row}" for row in rows]
    return [*rows, "B*B"]  # RWKV's step takes each sequence with every other's state


def fit(values: Sequence[int], bases: Mapping[str, Sequence[int]]) -> tuple[int, str]:
    """(c, monomial) with c x monomial = value in every trace; ("", 0) where none is."""
    for name, base in bases.items():
        c, odd = divmod(values[0], base[0]) if base[0] else (0, 1)
        if not odd and all(c * b == v for b, v in zip(base, values, strict=True)):
            return c, name
    return 0, ""


class Fitter:
    """Finds sizes that were seen in several passes as c x monomial."""

    def __init__(
        self,
        sizes: Sequence[dict[str, int]],
        names: Iterable[str],
        monomials: list[str],
    ) -> None:
        bases: dict[tuple[int, ...], str] = {}
        for name in names:
            bases.setdefault(tuple(monomial(name, s) for s in sizes), name)
        self.bases = {name: values for values, name in bases.items()}
        self.known: dict[tuple[int, ...], list[tuple[int, str]]] = {}
        self.monomials = monomials
        self.guessed, self.guesses = False, set[tuple[int, ...]]()

    def terms(self, values: Sequence[int], exact: bool = False) -> Terms:
        """The values, one of each pass, as a sum of terms.

        Where none is found they are taken as proportional to what they follow best;
        `guessed` says so of those that should be exact.
        """
        values = tuple(values)
        if values not in self.known:
            self.known[values] = self._sum(values) if any(values) else []
        self.guessed |= exact and values in self.guesses
        return [[c, self._number(name)] for c, name in self.known[values]]

    def constant(self, value: int) -> Terms:
        """The same in every pass."""
        return [[value, self._number("1")]] if value else []

    def _number(self, name: str) -> int:
        if name not in self.monomials:
            self.monomials.append(name)
        return self.monomials.index(name)

    def _sum(self, values: tuple[int, ...]) -> list[tuple[int, str]]:
        c, name = fit(values, self.bases)
        if name:
            return [(c, name)]
        plain = [name for name in self.bases if name.count("*") < 2]
        chunked = [name for name in self.bases if "S*" not in name and "K" in name]
        rows = [n for n in ("B", "S", "B*S") if n in self.bases]
        cubes = (n for n in self.bases if n.count("*") == 2 and "S" in n)
        scores = ((rows[-1], name) for name in cubes)
        few = combinations(rows + chunked, 3)
        for names in (*combinations(plain, 2), *scores, *few):
            if found := self._solved(values, names):
                return found
        self.guesses.add(values)
        logs, bases = np.log(np.maximum(values, 1)), self.bases.items()
        far = {n: float(np.ptp(logs - np.log(b))) for n, b in bases if all(b)}
        name = min(far, key=far.__getitem__)
        return [(max(1, round(sum(values) / sum(self.bases[name]))), name)]

    def _solved(
        self, values: tuple[int, ...], names: Sequence[str]
    ) -> list[tuple[int, str]]:
        """Whole c > 0 of each name that give the value in every pass, if there are."""
        rows = np.array([self.bases[name] for name in names], float).T
        found = np.linalg.lstsq(rows, np.array(values, float), rcond=None)[0]
        terms = [(round(c), name) for c, name in zip(found, names, strict=True)]
        sums = [sum(c * self.bases[n][i] for c, n in terms) for i in range(len(values))]
        exact = tuple(sums) == values and all(c > 0 for c, _ in terms)
        return terms if exact else []

"""Sizes that are sums of c x monomial are found again; others are called guessed."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab.tracing.sizes import Fitter, candidates, fit, monomial, symbols, value_of
from fastlab.tracing.trace import DECODES, FRESH, PREFILLS

NAMES = candidates([8], [64])
SIZES = [symbols(*one) for one in PREFILLS]
PLAIN = [n for n in Fitter(SIZES, NAMES, []).bases if n.count("*") < 2]


def fitter() -> Fitter:
    return Fitter(SIZES, NAMES, [])


def values(terms: list[tuple[int, str]], sizes: list[dict[str, int]]) -> list[int]:
    return [sum(c * monomial(name, s) for c, name in terms) for s in sizes]


@given(st.integers(1, 10**9), st.sampled_from(list(fitter().bases)))
def test_one_monomial_is_found_again(c: int, name: str) -> None:
    wanted = values([(c, name)], SIZES)
    assert values([fit(wanted, fitter().bases)], SIZES) == wanted


@settings(max_examples=25)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from(list(combinations(PLAIN, 2))),
)
def test_a_sum_of_two_has_its_values_at_other_sizes(
    a: int, b: int, names: tuple[str, str]
) -> None:
    one, two = names
    maker = fitter()
    found = maker.terms(values([(a, one), (b, two)], SIZES), exact=True)
    named = [(c, maker.monomials[i]) for c, i in found]
    assert values(named, SIZES) == values([(a, one), (b, two)], SIZES)
    assert not maker.guessed


@pytest.mark.parametrize("exact", [True, False])
def test_nonsense_is_guessed_and_only_said_where_it_should_be_exact(
    exact: bool,
) -> None:
    maker = fitter()
    found = maker.terms([101, 7, 900_001, 13], exact=exact)
    assert len(found) == 1 and found[0][0] > 0
    assert maker.guessed is exact
    assert maker.terms([0, 0, 0, 0], exact=exact) == []


def test_what_windows_and_chunks_hold() -> None:
    known = symbols(2, 130, 5)
    assert value_of("M8", known) == 5 + 130  # fewer past positions than the window
    assert value_of("M8", symbols(2, 1, 100)) == 7 + 1
    assert value_of("L8", known) == 7
    assert value_of("K64", known) == 3  # 64 + 64 + 2
    assert value_of("Q64", known) == 64**2 + 64**2 + 2**2


@pytest.mark.parametrize("chunk", [16, 128, 256])
def test_chunks_of_two_sizes_are_told_apart(chunk: int) -> None:
    sizes = [symbols(b, k * chunk + more, 0, b + 1) for b, k, more in FRESH]
    maker = Fitter(sizes, candidates([], sorted({64, chunk})), [])
    for name in (f"B*K{chunk}*K{chunk}", f"B*Q{chunk}"):
        terms = [(3, "B"), (5, f"B*K{chunk}"), (7, name)]
        if "Q" in name:
            terms = [(5, "B*S"), (7, name)]
        found = maker.terms(values(terms, sizes), exact=True)
        assert sorted((c, maker.monomials[i]) for c, i in found) == sorted(terms)


def test_passes_tell_past_and_batch_apart() -> None:
    for sizes in (PREFILLS, DECODES):
        maker = Fitter([symbols(*one) for one in sizes], NAMES, [])
        assert {"B", "N", "B*N", "B*P"} <= {*maker.bases}

"""The frontier against brute force, and the best along lambda against every point."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastlab.searches.result import pareto, path

rows = st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 3, np.nan])] * 3), max_size=30)
pairs = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1)


@given(rows)
def test_a_row_is_on_the_frontier_where_none_dominates_it(values):
    table = np.array(values, float).reshape(-1, 3)
    wanted = [
        np.isfinite(own).all()
        and not any((o <= own).all() and (o < own).any() for o in table)
        for own in table
    ]
    assert pareto(table).tolist() == wanted


@given(pairs, st.floats(0.01, 100))
def test_the_path_has_the_least_of_c_plus_lambda_t(values, lam):
    costs, seconds = np.array(values, float).T
    steps = path(costs, seconds)
    assert steps[0][0] == 0 and steps[-1][1] == np.inf
    assert all(a[1] == b[0] for a, b in pairwise(steps))
    (at,) = [i for low, high, i in steps if low <= lam < high]
    own = costs[at] + lam * seconds[at]
    assert own <= (costs + lam * seconds).min() * (1 + 1e-9)


def test_a_path_by_hand():
    """From (C 1, T 9) to (2, 5) at 1 / 4, to (5, 4) at 3; (4, 5) is never it."""
    costs, seconds = np.array([1.0, 4, 5, 2]), np.array([9.0, 5, 4, 5])
    assert path(costs, seconds) == [(0, 0.25, 0), (0.25, 3, 3), (3, np.inf, 2)]
    assert path(costs[:0], seconds[:0]) == []

"""Rows are all that leaves a sweep: the one table, and verbs that keep to it.

Every verb takes a DataFrame and gives one, so that notebooks, figures, scores and the
command line read the same columns.
"""

# ruff: noqa: F401  what the room gives to others
from fastlab.rows.columns import COLUMNS, ESTIMATED, MEASURED, QUESTION, table
from fastlab.rows.verbs import (
    MISSING,
    compared,
    estimated,
    merge_runs,
    only,
    over,
    points_of,
    settled,
    with_missing,
    with_quality,
)

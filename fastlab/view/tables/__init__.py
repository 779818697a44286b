"""Tables as readers see them: few columns, short names, plain units."""

from fastlab.view.tables.sweep import (
    cells,
    choose,
    compared,
    farthest,
    operations,
    settled,
    short,
)
from fastlab.view.tables.timing import (
    clocks,
    drift,
    few,
    first_calls,
    left,
    report,
    simulated,
    three_times,
)

__all__ = [
    "cells",
    "choose",
    "clocks",
    "compared",
    "drift",
    "farthest",
    "few",
    "first_calls",
    "left",
    "operations",
    "report",
    "settled",
    "short",
    "simulated",
    "three_times",
]

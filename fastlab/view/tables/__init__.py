"""Tables as readers see them: few columns, short names, plain units."""

from fastlab.view.tables.batch import batch_curves, knees
from fastlab.view.tables.roofline import bounds, datasheet, microbenchmarks, on_the_roof
from fastlab.view.tables.score import (
    ablation,
    calibration,
    errors,
    held_out,
    holdouts,
    methods,
    speedups,
    terms,
    waterfalls,
)
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
    "ablation",
    "batch_curves",
    "bounds",
    "calibration",
    "cells",
    "choose",
    "clocks",
    "compared",
    "datasheet",
    "drift",
    "errors",
    "farthest",
    "few",
    "first_calls",
    "held_out",
    "holdouts",
    "knees",
    "left",
    "methods",
    "microbenchmarks",
    "on_the_roof",
    "operations",
    "report",
    "settled",
    "short",
    "simulated",
    "speedups",
    "terms",
    "three_times",
    "waterfalls",
]

"""Tables as readers see them: few columns, short names, plain units."""

from fastlab.clock.evaluator import Evaluator, built, same_text
from fastlab.view.tables.batch import batch_curves, knees
from fastlab.view.tables.case import case_of, case_points, case_rows
from fastlab.view.tables.claims import bottom_line, case_factors, without_last
from fastlab.view.tables.distilling import (
    course,
    recovered,
    softened,
    won_back,
)
from fastlab.view.tables.neat import your_guess
from fastlab.view.tables.precisions import spread
)
)
from fastlab.view.tables.roofline import bounds, datasheet, microbenchmarks, on_the_roof
from fastlab.view.tables.score import (
    ablation,
    calibration,
    errors,
    guessed,
    held_out,
    holdouts,
    knowing,
    methods,
    sampled,
    speedups,
    terms,
    waterfalls,
)
from fastlab.view.tables.sharing import bytes_and_quality, looked_up, stored_points
from fastlab.view.tables.stored_runs import before_and_after, kept
from fastlab.view.tables.sweep import (
    cells,
    choose,
    compared,
    farthest,
    operations,
    settled,
    short,
)
from fastlab.view.tables.targets import first_under, steps_on
from fastlab.view.tables.topics import article_topics
from fastlab.view.tables.walking import walk, walk_points

__all__ = [
    "Evaluator",
    "ablation",
    "article_topics",
    "batch_curves",
    "before_and_after",
    "bottom_line",
    "bounds",
    "built",
    "bytes_and_quality",
    "calibration",
    "case_factors",
    "case_of",
    "case_points",
    "case_rows",
    "cells",
    "choose",
    "compared",
    "course",
    "datasheet",
    "errors",
    "farthest",
    "first_under",
    "guessed",
    "held_out",
    "holdouts",
    "kept",
    "knees",
    "knowing",
    "looked_up",
    "methods",
    "microbenchmarks",
    "on_the_roof",
    "operations",
    "recovered",
    "same_text",
    "sampled",
    "settled",
    "short",
    "softened",
    "speedups",
    "spread",
    "steps_on",
    "stored_points",
    "terms",
    "walk",
    "walk_points",
    "waterfalls",
    "without_last",
    "won_back",
    "your_guess",
]

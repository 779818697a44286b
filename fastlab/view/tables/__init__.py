"""Tables as readers see them: few columns, short names, plain units."""

from fastlab.clock.evaluator import Evaluator, built, same_text
from fastlab.notebook.generation import stream_text, train_tiny_lm
from fastlab.view.tables.batch import batch_curves, knees
from fastlab.view.tables.case import case_of, case_points, case_rows
from fastlab.view.tables.claims import bottom_line, case_factors, without_last
from fastlab.view.tables.distilling import (
    course,
    recovered,
    softened,
    won_back,
)
from fastlab.view.tables.kvcache import crossings, held, served, unrolled
from fastlab.view.tables.ladder import (
    ladder_caption,
    ladder_points,
    ladder_source,
    rungs,
    rungs_of,
)
from fastlab.view.tables.neat import your_guess
from fastlab.view.tables.precisions import (
    gain_curves,
    gains,
    gains_of,
    reasons,
    spread,
    together,
)
from fastlab.view.tables.pruned import (
    healed,
    reloaded,
    side_by_side,
    text_words,
    trained_model,
)
from fastlab.view.tables.pruning import (
    choice_points,
    cut_points,
    foretold,
    missing,
    savings,
    savings_of,
    zero_points,
)
from fastlab.view.tables.roofline import bounds, datasheet, microbenchmarks, on_the_roof
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
from fastlab.view.tables.topics import article_topics
from fastlab.view.tables.walking import walk, walk_points

__all__ = [
    "Evaluator",
    "article_topics",
    "batch_curves",
    "before_and_after",
    "bottom_line",
    "bounds",
    "built",
    "bytes_and_quality",
    "case_factors",
    "case_of",
    "case_points",
    "case_rows",
    "cells",
    "choice_points",
    "choose",
    "clocks",
    "compared",
    "course",
    "crossings",
    "cut_points",
    "datasheet",
    "drift",
    "farthest",
    "few",
    "first_calls",
    "first_under",
    "foretold",
    "gain_curves",
    "gains",
    "gains_of",
    "healed",
    "held",
    "kept",
    "knees",
    "ladder_caption",
    "ladder_points",
    "ladder_source",
    "left",
    "looked_up",
    "microbenchmarks",
    "missing",
    "on_the_roof",
    "operations",
    "reasons",
    "recovered",
    "reloaded",
    "report",
    "rungs",
    "rungs_of",
    "same_text",
    "savings",
    "savings_of",
    "served",
    "settled",
    "short",
    "side_by_side",
    "simulated",
    "softened",
    "spread",
    "steps_on",
    "stored_points",
    "stream_text",
    "text_words",
    "three_times",
    "together",
    "train_tiny_lm",
    "trained_model",
    "unrolled",
    "walk",
    "walk_points",
    "without_last",
    "won_back",
    "your_guess",
    "zero_points",
]

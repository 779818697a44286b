"""Alt texts that tell the numbers: each named like the figure that it describes."""

from fastlab.view.alt.case import claims, staircase, targets
from fastlab.view.alt.count import bytes_moved, factors, flop_shares
from fastlab.view.alt.distilling import recovery, softened, students
from fastlab.view.alt.first import pairs
from fastlab.view.alt.kvcache import crossover, held, prefixes, unrolled
from fastlab.view.alt.ladder import rungs
from fastlab.view.alt.precisions import by_batch, engines, promised, reasons, trade
from fastlab.view.alt.pruning import (
    break_even,
    choices,
    depth_or_width,
    foretold,
    zeros_are_not_speed,
)
from fastlab.view.alt.score import left_out, methods, waterfalls
from fastlab.view.alt.sharing import lookups, stored
from fastlab.view.alt.sweep import heatmaps, lines, scatter
from fastlab.view.alt.timing import few, here, intervals, reported, strips

__all__ = [
    "break_even",
    "by_batch",
    "bytes_moved",
    "choices",
    "claims",
    "crossover",
    "depth_or_width",
    "engines",
    "factors",
    "few",
    "flop_shares",
    "foretold",
    "heatmaps",
    "held",
    "here",
    "intervals",
    "left_out",
    "lines",
    "lookups",
    "methods",
    "pairs",
    "prefixes",
    "promised",
    "reasons",
    "recovery",
    "reported",
    "rungs",
    "scatter",
    "softened",
    "staircase",
    "stored",
    "strips",
    "students",
    "targets",
    "trade",
    "unrolled",
    "waterfalls",
    "zeros_are_not_speed",
]

"""rows -> figures: pure functions, one module for each notebook's subject."""

from fastlab.view.plots.case import claims, staircase
from fastlab.view.plots.count import bytes_moved, factors, flop_shares
from fastlab.view.plots.cuts import choices, depth_or_width, foretold
from fastlab.view.plots.distilling import recovery, softened, students
from fastlab.view.plots.first import on_devices, pairs
from fastlab.view.plots.kvcache import crossover, held, prefixes, unrolled
from fastlab.view.plots.ladder import rungs
from fastlab.view.plots.precisions import trade
from fastlab.view.plots.promises import engines, promised
from fastlab.view.plots.pruning import break_even, evens, zeros_are_not_speed
from fastlab.view.plots.score import left_out, methods, waterfalls
from fastlab.view.plots.sharing import lookups, palette, stored
from fastlab.view.plots.speedups import by_batch, reasons
from fastlab.view.plots.sweep import heatmaps, lines, scatter
from fastlab.view.plots.targeting import targets
from fastlab.view.plots.timing import few, intervals, reported, strips
from fastlab.view.style import COLORS

__all__ = [
    "COLORS",
    "break_even",
    "by_batch",
    "bytes_moved",
    "choices",
    "claims",
    "crossover",
    "depth_or_width",
    "engines",
    "evens",
    "factors",
    "few",
    "flop_shares",
    "foretold",
    "heatmaps",
    "held",
    "intervals",
    "left_out",
    "lines",
    "lookups",
    "methods",
    "on_devices",
    "pairs",
    "palette",
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

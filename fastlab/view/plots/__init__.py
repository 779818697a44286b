"""rows -> figures: pure functions, one module for each notebook's subject."""

from fastlab.view.plots.case import claims, staircase
from fastlab.view.plots.distilling import recovery, softened, students
from fastlab.view.plots.first import on_devices, pairs
from fastlab.view.plots.knee import batch_knee
from fastlab.view.plots.roofline import measured_roof, roofline
from fastlab.view.plots.score import left_out, methods, waterfalls
from fastlab.view.plots.sharing import lookups, palette, stored
from fastlab.view.plots.sweep import heatmaps, lines, scatter
from fastlab.view.plots.targeting import targets
from fastlab.view.style import COLORS

__all__ = [
    "COLORS",
    "batch_knee",
    "claims",
    "heatmaps",
    "left_out",
    "lines",
    "lookups",
    "measured_roof",
    "methods",
    "on_devices",
    "pairs",
    "palette",
    "recovery",
    "roofline",
    "scatter",
    "softened",
    "staircase",
    "stored",
    "students",
    "targets",
    "waterfalls",
]

"""Alt texts that tell the numbers: each named like the figure that it describes."""

from fastlab.view.alt.case import claims, staircase, targets
from fastlab.view.alt.distilling import recovery, softened, students
from fastlab.view.alt.first import pairs
from fastlab.view.alt.roofline import batch_knee, measured_roof, roofline
from fastlab.view.alt.score import left_out, methods, waterfalls
from fastlab.view.alt.sharing import lookups, stored
from fastlab.view.alt.sweep import heatmaps, lines, scatter

__all__ = [
    "batch_knee",
    "claims",
    "heatmaps",
    "left_out",
    "lines",
    "lookups",
    "measured_roof",
    "methods",
    "pairs",
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

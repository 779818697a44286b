"""Alt texts that tell the numbers: each named like the figure that it describes."""

from fastlab.view.alt.count import bytes_moved, factors, flop_shares
from fastlab.view.alt.first import pairs
from fastlab.view.alt.roofline import batch_knee, measured_roof, roofline
from fastlab.view.alt.score import left_out, methods, waterfalls
from fastlab.view.alt.sweep import heatmaps, lines, scatter
from fastlab.view.alt.timing import few, here, intervals, reported, strips

__all__ = [
    "batch_knee",
    "bytes_moved",
    "factors",
    "few",
    "flop_shares",
    "heatmaps",
    "here",
    "intervals",
    "left_out",
    "lines",
    "measured_roof",
    "methods",
    "pairs",
    "reported",
    "roofline",
    "scatter",
    "strips",
    "waterfalls",
]

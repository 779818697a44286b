"""Alt texts that tell the numbers: each named like the figure that it describes."""

from fastlab.view.alt.count import bytes_moved, factors, flop_shares
from fastlab.view.alt.first import pairs
from fastlab.view.alt.sweep import heatmaps, lines, scatter
from fastlab.view.alt.timing import few, here, intervals, reported, strips

__all__ = [
    "bytes_moved",
    "factors",
    "few",
    "flop_shares",
    "heatmaps",
    "here",
    "intervals",
    "lines",
    "pairs",
    "reported",
    "scatter",
    "strips",
]

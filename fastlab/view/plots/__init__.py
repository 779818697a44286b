"""rows -> figures: pure functions, one module for each notebook's subject."""

from fastlab.view.plots.count import bytes_moved, factors, flop_shares
from fastlab.view.plots.first import on_devices, pairs
from fastlab.view.plots.sweep import heatmaps, lines, scatter
from fastlab.view.plots.timing import few, intervals, reported, strips
from fastlab.view.style import COLORS

__all__ = [
    "COLORS",
    "bytes_moved",
    "factors",
    "few",
    "flop_shares",
    "heatmaps",
    "intervals",
    "lines",
    "on_devices",
    "pairs",
    "reported",
    "scatter",
    "strips",
]

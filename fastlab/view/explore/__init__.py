"""Explorers: widgets that recompute from rows and never measure."""

from fastlab.view.explore.count import counts
from fastlab.view.explore.first import depth
from fastlab.view.explore.roofline import roofs
from fastlab.view.explore.score import held_out
from fastlab.view.explore.sweep import layers_by_hidden
from fastlab.view.explore.timing import samples_taken

__all__ = [
    "counts",
    "depth",
    "held_out",
    "layers_by_hidden",
    "roofs",
    "samples_taken",
]

"""Explorers: widgets that recompute from rows and never measure."""

from fastlab.view.explore.first import depth
from fastlab.view.explore.roofline import roofs
from fastlab.view.explore.score import held_out
from fastlab.view.explore.sharing import palettes
from fastlab.view.explore.sweep import layers_by_hidden
from fastlab.view.explore.targets import target

__all__ = [
    "depth",
    "held_out",
    "layers_by_hidden",
    "palettes",
    "roofs",
    "target",
]

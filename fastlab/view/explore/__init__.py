"""Explorers: widgets that recompute from rows and never measure."""

from fastlab.view.explore.count import counts
from fastlab.view.explore.first import depth
from fastlab.view.explore.sweep import layers_by_hidden
from fastlab.view.explore.timing import samples_taken

__all__ = ["counts", "depth", "layers_by_hidden", "samples_taken"]

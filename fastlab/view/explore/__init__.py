"""Explorers: widgets that recompute from rows and never measure."""

from fastlab.view.explore.count import counts
from fastlab.view.explore.first import depth
from fastlab.view.explore.kvcache import kv_growth
from fastlab.view.explore.precisions import paying
from fastlab.view.explore.pruning import cutting
from fastlab.view.explore.score import held_out
from fastlab.view.explore.sharing import palettes
from fastlab.view.explore.sweep import layers_by_hidden
from fastlab.view.explore.targets import target
from fastlab.view.explore.timing import samples_taken

__all__ = [
    "counts",
    "cutting",
    "depth",
    "held_out",
    "kv_growth",
    "layers_by_hidden",
    "palettes",
    "paying",
    "samples_taken",
    "target",
]

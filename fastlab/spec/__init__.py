"""The question: which model, which work, which recipe, on which weights. No torch."""

from fastlab.spec.formats import PRECISIONS
from fastlab.spec.grids import GRID_FIELDS, grid, point_of
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import FAMILIES, PRESETS, ModelShape

__all__ = ["FAMILIES", "GRID_FIELDS", "PRECISIONS", "PRESETS", "ModelShape", "Point"]
__all__ += ["Recipe", "Workload", "grid", "point_of"]

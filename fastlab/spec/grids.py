"""Lists of values -> points, all checked before any of them is worked on."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

from fastlab.spec.checks import check_names
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape, find_shape


def _field_owners() -> dict[str, type]:
    owners: dict[str, type] = {}
    for cls in (ModelShape, Workload, Recipe):
        owners.update({f.name: cls for f in fields(cls)})
    return owners


OWNERS = _field_owners()
GRID_FIELDS = (*OWNERS, "model", "weights")


def grid(**lists: Any) -> list[Point]:
    """All combinations of the given fields (each a value or a list), checked at once.

    `model` is a preset's name, a hub name or a folder; shape fields beside it override
    that model's. The last field named varies fastest. Raises ValueError naming the
    field and its value before anything else happens.
    """
    check_names("grid", lists, GRID_FIELDS)
    axes = {name: _as_list(name, value) for name, value in lists.items()}
    rows = itertools.product(*axes.values())
    return [point_of(**dict(zip(axes, row, strict=True))) for row in rows]


def _as_list(name: str, value: Any) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple, range, set)) else [value]
    if not values:
        raise ValueError(f"{name}=[] must have at least one value")
    return values


def point_of(**values: Any) -> Point:
    """One point from flat field names, as in `grid`."""
    check_names("point", values, GRID_FIELDS)
    parts: dict[type, dict[str, Any]] = {ModelShape: {}, Workload: {}, Recipe: {}}
    for name, value in values.items():
        if name in OWNERS:
            parts[OWNERS[name]][name] = value
    shape = _shape_of(values.get("model"), parts[ModelShape])
    recipe, work = Recipe(**parts[Recipe]), Workload(**parts[Workload])
    return Point(shape, work, recipe, values.get("weights", "random:0"))


def _shape_of(model: str | None, over: dict[str, Any]) -> ModelShape:
    if model is not None:
        return find_shape(model, over)
    missing = [n for n in ("layers", "hidden") if n not in over]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given, or model=a preset")
    return ModelShape(**{"family": "gpt2", **over})

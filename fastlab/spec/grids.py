"""Flat field names <-> points; lists of values -> points, all checked before work."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields
from typing import Any

from fastlab.spec.checks import check_names
from fastlab.spec.hub import local_folder, weights_id
from fastlab.spec.point import Point, Workload, check_weights
from fastlab.spec.pruning import Pruning
from fastlab.spec.recipe import SMALLER, Recipe
from fastlab.spec.shape import ModelShape, find_shape
from fastlab.spec.sharing import Sharing
from fastlab.spec.sparsity import Sparsity

# Flat names are the fields' own, those of a recipe's parts with the part's verb first.
VERBS: dict[type, str] = {Pruning: "prune_", Sparsity: "sparse_", Sharing: "share_"}
# Without one of these a part of a recipe is left out, however the rest is set.
SWITCHES = {Sparsity: ("ratio", "pattern"), Sharing: ("bits",)}


def _flat_fields() -> dict[str, tuple[type, Field[Any]]]:
    whole = ((cls, "") for cls in (ModelShape, Workload, Recipe))
    return {
        verb + field.name: (cls, field)
        for cls, verb in (*whole, *VERBS.items())
        for field in fields(cls)
        if field.name not in SMALLER
    }


FLAT = _flat_fields()
GRID_FIELDS = (*FLAT, "model", "weights")


def grid(**lists: Any) -> list[Point]:
    """All combinations of the given fields (each a value or a list), checked at once.

    `model` is a preset's name, a hub name or a folder; shape fields beside it override
    that model's. prune_layers, sparse_ratio, share_bits and so on are the fields of
    Pruning, Sparsity and Sharing; 0 leaves them out. weights: random:<seed>, or trained
    for the model's own. The last field named varies fastest. Raises ValueError naming
    the field and its value before anything else happens.
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


def trained_source(*grids: Mapping[str, Any]) -> str:
    """The model of which grids ask the trained weights, "" where none does.

    Raises ValueError where they ask for those of more than one.
    """
    found = {
        str(model)
        for lists in grids
        if "trained" in _as_list("weights", lists.get("weights", ""))
        for model in _as_list("model", lists.get("model", ""))
    }
    if len(found) > 1:
        raise ValueError(
            f"model={', '.join(sorted(found))}: trained weights of one model at a time"
        )
    return next(iter(found), "")


def point_of(**values: Any) -> Point:
    """One point from flat field names, as in `grid`."""
    check_names("point", values, GRID_FIELDS)
    weights = _weights_of(values.get("weights", "random:0"), values.get("model"))
    shape = _shape_of(values.get("model"), _given(ModelShape, values))
    work = Workload(**_given(Workload, values))
    with _typed_names(values):
        recipe = Recipe(
            **_given(Recipe, values),
            pruning=Pruning(**_given(Pruning, values)),
            sparsity=_switched(Sparsity, values),
            sharing=_switched(Sharing, values),
        )
        return Point(shape, work, recipe, weights)


@contextmanager
def _typed_names(values: dict[str, Any]) -> Iterator[None]:
    """Errors about a recipe's parts name prune_layers, not Pruning's layers."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_renamed(str(error), values)) from error


def _renamed(words: str, values: dict[str, Any]) -> str:
    for cls, verb in VERBS.items():
        for own, value in _given(cls, values).items():
            if re.search(rf"\b{own}={re.escape(repr(value))}(?![\w.])", words):
                names = "|".join(field.name for field in fields(cls))
                return re.sub(rf"\b({names})=", rf"{verb}\1=", words)
    return words


def _weights_of(weights: str, model: str | None) -> str:
    """ "trained" stands for the identity of the model's own weights."""
    if weights != "trained":
        words = "trained, for the model's own"
        check_weights(weights, words, ("trained", "random:0"))
        return weights
    if model is None:
        raise ValueError("weights='trained' needs model=: a folder or a hub name")
    return weights_id(local_folder(model))


def _given(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a class among flat names, by their own names."""
    owned = {n: FLAT[n][1].name for n in values if n in FLAT and FLAT[n][0] is cls}
    return {own: values[name] for name, own in owned.items()}


def _switched(cls: Any, values: dict[str, Any]) -> Any:
    """A part of a recipe; None where none of its switches is set."""
    given = _given(cls, values)
    switches = {name: given[name] for name in SWITCHES[cls] if name in given}
    if given and not switches:
        verb, named = VERBS[cls], next(iter(given))
        raise ValueError(
            f"{verb}{named}={given[named]!r} needs "
            f"{' or '.join(verb + name for name in SWITCHES[cls])}"
        )
    for name, value in switches.items():
        if not value and not isinstance(value, bool):  # 0 and "" switch nothing on
            del given[name]
    return cls(**given) if any(switches.values()) else None


def flat(point: Point) -> dict[str, Any]:
    """The fields of a point by flat names, such that point_of(**flat(p)) == p."""
    recipe = point.recipe
    owners: dict[type, Any] = {ModelShape: point.shape, Workload: point.workload}
    owners |= {Recipe: recipe, Pruning: recipe.pruning}
    owners |= {Sparsity: recipe.sparsity, Sharing: recipe.sharing}
    return {
        name: _value_of(owners[cls], cls, field) for name, (cls, field) in FLAT.items()
    } | {"weights": point.weights}


def _value_of(owner: Any, cls: type, field: Field[Any]) -> Any:
    if owner is not None:
        return getattr(owner, field.name)
    blank: Any = field.default
    return type(blank)() if field.name in SWITCHES[cls] else blank


def _shape_of(model: str | None, over: dict[str, Any]) -> ModelShape:
    if model is not None:
        return find_shape(model, over)
    missing = [n for n in ("layers", "hidden") if n not in over]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given, or model=a preset")
    return ModelShape(**{"family": "gpt2", **over})

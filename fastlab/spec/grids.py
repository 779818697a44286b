"""Flat field names <-> points; lists of values -> points, all checked before work."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import lru_cache
from typing import Any

from fastlab.spec.checks import check_names, check_rule
from fastlab.spec.configs import check_family
from fastlab.spec.hub import local_folder, weights_id
from fastlab.spec.manifest import contradiction, held_recipe, is_stored
from fastlab.spec.point import Point, Workload, check_weights
from fastlab.spec.pruning import Pruning
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import PRESETS, ModelShape, find_shape
from fastlab.spec.storage import Sharing, Sparsity

# Flat names are the fields' own, those of a recipe's parts with the part's verb first.
VERBS: dict[type, str] = {Pruning: "prune_", Sparsity: "sparse_", Sharing: "share_"}
# Without one of these a part of a recipe is left out, however the rest is set.
SWITCHES = {Sparsity: ("ratio", "pattern"), Sharing: ("bits",)}


FLAT: dict[str, tuple[type, Field[Any]]] = {
    verb + field.name: (cls, field)
    for cls, verb in {ModelShape: "", Workload: "", Recipe: "", **VERBS}.items()
    for field in fields(cls)
    if field.metadata  # a recipe's parts have none
}
OTHERS = {
    "model": "preset (gpt2, llama-3.1-8b, ...), hub name or folder",
    "architecture": "class of transformers [that which the config names]",
    "weights": "random:<seed>, or trained: the model's own [random:0]",
}
TEXTS = (*OTHERS, "family")
MOST = 1_000_000  # points of a grid: a plan of them takes half a minute
GRID_FIELDS = (*FLAT, *OTHERS)


def about(name: str) -> str:
    """What a flat field is, its choices, and [what it is where it is not given]."""
    if name in OTHERS:
        return OTHERS[name]
    cls, field = FLAT[name]
    blank = "none" if field.name in SWITCHES.get(cls, ()) else field.default
    words, allowed = field.metadata["about"], field.metadata.get("allowed", ())
    if isinstance(allowed, Mapping):
        allowed = [f"{value} ({meaning})" for value, meaning in allowed.items()]
    words += f": {', '.join(map(str, allowed))}" if allowed else ""
    if blank in (None, MISSING):
        return words
    return f"{words} [{str(blank).removesuffix('.0')}]"


def grid(left_out: list[str] | None = None, **lists: Any) -> list[Point]:
    """All combinations of the given fields (each a value or a list), checked at once.

    `model` is a preset's name, a hub name or a folder; shape fields beside it override
    that model's. prune_layers, sparse_ratio, share_bits and so on are the fields of
    Pruning, Sparsity and Sharing; 0 leaves them out. weights: random:<seed>, or trained
    for the model's own. The last field named varies fastest. Raises ValueError naming
    the field and its value before anything else happens.

    left_out: takes why some combinations are impossible, where others are not; values
    that no point heeds are refused then, too.
    """
    check_names("grid", lists, GRID_FIELDS)
    axes = {name: _as_list(name, value) for name, value in lists.items()}
    if (many := math.prod(map(len, axes.values()))) > MOST:
        raise ValueError(f"{many} combinations: {MOST} at most, or several grids")
    points, refused = [], []
    for row in itertools.product(*axes.values()):
        values = dict(zip(axes, row, strict=True))
        try:
            points.append(point_of(**values))
        except ValueError as error:
            _check_alone(values)
            refused.append(error)
    if refused and (left_out is None or not points):
        raise refused[0]
    if left_out is not None:
        left_out += dict.fromkeys(map(str, refused))
        _check_heeded(axes, points if not refused else [])
    return points


def _check_heeded(axes: Mapping[str, list[Any]], points: list[Point]) -> None:
    """Raise ValueError for a value that decides nothing in any of the points."""
    parts = {part: p for p in points for part in (p.shape, p.workload, p.recipe)}
    rows = [flat(point) for point in parts.values()]
    for name in axes.keys() & FLAT.keys() if rows else ():
        heeded = [None, *(row[name] for row in rows)]
        if idle := [value for value in axes[name] if value not in heeded]:
            raise ValueError(f"{name}={idle[0]!r} decides nothing beside the others")


def _check_alone(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that is wrong whatever stands beside it."""
    for name, value in values.items():
        if name in FLAT and (value or FLAT[name][0] not in SWITCHES):
            check_rule(name, value, FLAT[name][1].metadata)
    if family := values.get("family"):
        check_family(family)
    if model := values.get("model"):
        find_shape(model, values.get("architecture", ""))


def _as_list(name: str, value: Any) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple, range, set)) else [value]
    if not values:
        raise ValueError(f"{name}=[] must have at least one value")
    for one in values if name in TEXTS else ():
        if not isinstance(one, (str, type(None))):
            raise ValueError(f"{name}={one!r} must be a text")
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
    model, weights = values.get("model"), values.get("weights", "random:0")
    if weights != "trained":
        check_weights(weights, "trained, for the model's own", ("trained", "random:0"))
    elif model is None:
        raise ValueError("weights='trained' needs model=: a folder or a hub name")
    else:
        weights = weights_id(local_folder(model))
    architecture, over = values.get("architecture", ""), _of(values, ModelShape)
    shape = _shape_of(model, over, architecture)
    work = _alike(Workload, _of(values, Workload))
    if model not in PRESETS and (held := held_recipe(model)):
        values = _merged(model, held, shape, values)  # a folder says what it holds
    try:
        recipe = _alike(_recipe, _of(values, Recipe, *VERBS))
        return Point(shape, work, recipe, weights)
    except ValueError as error:
        raise ValueError(_with_flat_names(str(error), values)) from error


def _of(values: Mapping[str, Any], *owners: type) -> dict[str, Any]:
    """The flat fields among the values that belong to some classes."""
    return {n: v for n, v in values.items() if n in FLAT and FLAT[n][0] in owners}


def _recipe(**values: Any) -> Recipe:
    return Recipe(
        **_given(Recipe, values),
        pruning=Pruning(**_given(Pruning, values)),
        sparsity=_switched(Sparsity, values),
        sharing=_switched(Sharing, values),
    )


def _alike(make: Callable[..., Any], values: dict[str, Any]) -> Any:
    """What is made of the values: one object for all points that share it."""
    try:
        return _made(make, **values)
    except TypeError:  # a list or mapping, which is no key: says what is wrong with it
        return make(**values)


@lru_cache(maxsize=2**14, typed=True)
def _made(make: Callable[..., Any], **values: Any) -> Any:
    return make(**values)


def _merged(model: Any, held: Recipe, shape: ModelShape, values: Any) -> dict[str, Any]:
    """The values, and what a folder holds; ValueError where they contradict it."""
    if not is_stored(held):
        return {"precision": held.precision, **values}
    own = flat(Point(shape, Workload(prompt_len=1), held))
    told = ("precision", "scope", "distill_steps", "distinct_layers")
    for name, (cls, _) in FLAT.items():
        if cls not in VERBS and name not in told:
            del own[name]
        elif (values.get(name, own[name]) or None) != (own[name] or None):
            raise contradiction(model, held, name, values[name])
    return {**own, **values}


def _with_flat_names(words: str, values: dict[str, Any]) -> str:
    """An error about a part of a recipe, of prune_layers, not of Pruning's layers."""
    for cls, verb in VERBS.items():
        for own, value in _given(cls, values).items():
            if re.search(rf"\b{own}={re.escape(repr(value))}(?![\w.])", words):
                names = "|".join(field.name for field in fields(cls))
                return re.sub(rf"\b({names})=", rf"{verb}\1=", words)
    return words


def _shape_of(model: str | None, over: dict[str, Any], architecture: str) -> ModelShape:
    if model in PRESETS and not architecture:
        return _alike(find_shape, {"model": model, **over})
    if model is not None:
        return find_shape(model, architecture, **over)
    if architecture:
        raise ValueError(f"architecture={architecture!r} needs model=")
    if missing := [n for n in ("layers", "hidden") if n not in over]:
        raise ValueError(f"{' and '.join(missing)} must be given, or model=a preset")
    return _alike(ModelShape, {"family": "gpt2", **over})


def _given(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a class among flat names, by their own names."""
    owned = {n: FLAT[n] for n in values if n in FLAT}
    return {f.name: values[n] for n, (owner, f) in owned.items() if owner is cls}


def _switched(cls: Any, values: dict[str, Any]) -> Any:
    """A part of a recipe; None where none of its switches is set."""
    given, verb = _given(cls, values), VERBS[cls]
    switches = {name: given[name] for name in SWITCHES[cls] if name in given}
    if given and not switches:
        name, value = next(iter(given.items()))
        needed = " or ".join(verb + switch for switch in SWITCHES[cls])
        raise ValueError(f"{verb}{name}={value!r} needs {needed}")
    for name, value in switches.items():
        if not value and not isinstance(value, bool):  # 0 and "" switch nothing on
            del given[name]
    return cls(**given) if any(switches.values()) else None


def flat(point: Point) -> dict[str, Any]:
    """The fields of a point by flat names, such that point_of(**flat(p)) == p."""
    parts = _flat(point.shape), _flat(point.workload), _flat(point.recipe)
    return parts[0] | parts[1] | parts[2] | {"weights": point.weights}


@lru_cache(maxsize=2**14)
def _flat(part: ModelShape | Workload | Recipe) -> dict[str, Any]:
    """The flat fields of a part of a point, and of the parts of that."""
    owners: dict[type, Any] = {type(part): part}
    if isinstance(part, Recipe):
        parts = part.pruning, part.sparsity, part.sharing
        owners |= dict.fromkeys(VERBS) | {type(one): one for one in parts if one}

    def value_of(cls: type, field: Field[Any]) -> Any:
        if owners[cls]:
            return getattr(owners[cls], field.name)
        blank: Any = field.default
        return type(blank)() if field.name in SWITCHES[cls] else blank

    own = {name: at for name, at in FLAT.items() if at[0] in owners}
    return {name: value_of(cls, field) for name, (cls, field) in own.items()}

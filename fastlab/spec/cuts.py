"""Points of what can be cut from a model: sets of them, and shares that are possible.

data/points/cuts.yaml holds sets of ways to choose what goes: set -> "layers" or "units"
-> names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fastlab.spec.checks import check_choice
from fastlab.spec.grids import grid
from fastlab.spec.point import Point
from fastlab.spec.pruning import RATIOS, WIDTHS, Pruning, check_ratio

FOLDER = Path(__file__).parents[2] / "data" / "points"
SEEDS = (0, 1, 2)  # of random choices
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


@cache
def read_points(name: str) -> dict[str, Any]:
    """What a file of data/points holds: "cuts" or "ladder"."""
    import yaml

    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def cut_points(
    shares: Sequence[float],
    ways: Sequence[str] = ("plain",),
    multiple: int = 1,
    **common: Any,
) -> list[Point]:
    """The dense point, then each share cut from layers, heads, FFN and hidden width.

    ways: names of sets, or of single ways, each where it can choose; "random" draws
    three times. Left out are cuts that leave no shape a config can say (9 of 12 heads
    where the width is 768), and what builds the same again. `common` are fields of
    `fastlab.grid`. ValueError for a bad share or an unknown way.
    """
    sets = read_points("cuts")
    every = sets["all"]
    for share in shares:
        check_ratio("shares", share)
    for way in ways:
        check_choice("ways", way, (*sets, *every["layers"], *every["units"]))
    (dense,) = grid(**common)
    found: dict[Any, Point] = {dense.shape: dense}
    for kind, share, name in itertools.product(RATIOS, shares, ways):
        of, field = ("layers", "layer_choice")
        if kind in WIDTHS:
            of, field = ("units", "importance")
        chosen = [way for way in sets.get(name, {of: [name]})[of] if way in every[of]]
        for way, seed in itertools.product(chosen, SEEDS):
            cut = {kind: share, field: way, "multiple": multiple, "seed": seed}
            point = pruned_point(dense, **cut)
            if point is not None and point.built_shape != dense.shape:
                draw = point.recipe.pruning.seed  # 0 where nothing is random
                found.setdefault((point.built_shape, way, draw), point)
    return list(found.values())


def pruned_point(point: Point, **cut: Any) -> Point | None:
    """The point with a pruning; None where that leaves no shape a config can say."""
    try:
        return replace(point, recipe=replace(point.recipe, pruning=Pruning(**cut)))
    except ValueError:
        return None


def possible_shares(point: Point, name: str, cut: Mapping[str, Any]) -> list[float]:
    """SHARES of one kind of unit that can go beside a cut, each built shape once.

    Where heads make the width (gpt2), a share of it needs the same share of heads.
    """
    found: dict[Any, float] = {}
    for share in SHARES:
        ways = [{name: share}, {name: share, "heads": share}][: 1 + (name == "hidden")]
        built = [one for way in ways if (one := pruned_point(point, **{**cut, **way}))]
        if built:
            found.setdefault(built[0].built_shape, share)
    return list(found.values())

"""Sweep files: YAML with grids of points and, where wanted, timing settings.

about: one line of text
settings: {budget_s: 1.0}          # over the device's defaults
text: [notes.txt]                  # judges trained weights; none = standard library
grids:                             # each a product of lists, as in fastlab.grid
  - {family: [gpt2, llama], layers: [2, 4], hidden: 256, precision: [fp32, bf16]}
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlab.clock.timing import Settings
from fastlab.spec.checks import check_names
from fastlab.spec.grids import GRID_FIELDS, grid, trained_source
from fastlab.spec.point import Point
from fastlab.sweeps.keeping import shard_of

SETTINGS = tuple(Settings.__dataclass_fields__)
FIELDS = ("about", "settings", "text", "grids")
LARGEST, DEEPEST, MOST = 2**18, 20, 100_000  # bytes, brackets in brackets, values
ODD = r"[-+]?(0[0-9_xb].*|\d[\d_]*(:\d+)+\S*)"  # YAML reads 010 as 8, 1:30 as 90


@dataclass(frozen=True)
class SweepFile:
    """A checked sweep file: its points in order, and its changes to the settings.

    trained: the model whose own weights are asked for, and the text that judges it.
    left_out: why some rows of the grids cannot be.
    """

    about: str
    points: list[Point]
    settings: dict[str, Any]
    trained: str = ""
    text: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def read_sweep(
    path: str | Path, shard: str = "1/1", beside: Mapping[str, Any] | None = None
) -> SweepFile:
    """Read and check a sweep file; nothing else happens.

    shard: i/n, only that share of its points, see `shard_of`. beside: fields that every
    grid gets and none may name. Raises FileNotFoundError, or ValueError naming the
    file, the grid and the field.
    """
    try:
        if (size := Path(path).stat().st_size) > LARGEST:
            raise ValueError(f"has {size} bytes, {LARGEST} at most")
        data = yaml_data(Path(path).read_text(encoding="utf-8"))
        read = _checked(data, beside or {})
        return replace(read, points=shard_of(read.points, shard))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def yaml_data(text: str) -> Any:
    """What a YAML text says, its limits checked before anything is made of it."""
    import yaml

    try:
        depth = 0
        for token in yaml.scan(text):
            name = type(token).__name__
            depth += name.endswith("StartToken") - name.endswith("EndToken")
            if depth > DEEPEST:
                raise ValueError(f"is nested more than {DEEPEST} deep")
            value = getattr(token, "value", "") if getattr(token, "plain", 0) else ""
            if re.fullmatch(ODD, value):
                raise ValueError(f"{value} must be in decimal, or a text in quotes")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if _count(node, {}) > MOST:
            raise ValueError(
                f"has more than {MOST} values with its aliases written out"
            )
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _count(node: Any, counted: dict[int, float]) -> float:
    """How many values a node has with its aliases written out; inf in a circle.

    Raises ValueError for a field that stands in a mapping twice.
    """
    if id(node) not in counted:
        counted[id(node)] = math.inf
        parts = node.value if getattr(node, "id", "scalar") != "scalar" else []
        if parts and node.id == "mapping":
            names = Counter(name.value for name, _ in parts if name.id == "scalar")
            if twice := [name for name, times in names.items() if times > 1]:
                raise ValueError(f"{twice[0]!r} stands twice in one mapping")
            parts = [part for pair in parts for part in pair]
        counted[id(node)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(node)]


def _checked(data: Any, beside: Mapping[str, Any]) -> SweepFile:
    if not isinstance(data, dict):
        raise ValueError(f"must be a mapping with {', '.join(FIELDS)}")
    check_names("sweep file", data, FIELDS)
    grids = data.get("grids")
    if not isinstance(grids, list) or not grids:
        raise ValueError("grids must be a list with at least one grid")
    grids = [_with(n, lists, beside) for n, lists in enumerate(grids, 1)]
    out: list[str] = []
    points = [one for n, lists in enumerate(grids, 1) for one in _grid(n, lists, out)]
    settings, about = data.get("settings") or {}, data.get("about") or ""
    if not isinstance(settings, dict) or not isinstance(about, str):
        raise ValueError("settings must be a mapping and about a text")
    check_names("settings", settings, SETTINGS)
    Settings.for_device("cpu", **settings)  # checked here, before any work
    points = list(dict.fromkeys(points))
    text = data.get("text") or []
    if not isinstance(text, (str, list)):
        raise ValueError(f"text={text!r} must be a file or a list of files")
    texts = (text,) if isinstance(text, str) else tuple(map(str, text))
    source = trained_source(*grids)
    return SweepFile(about, points, settings, source, texts, tuple(out))


def _with(number: int, lists: Any, beside: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(lists, dict):
        raise ValueError(f"grid {number} must be a mapping of fields to values")
    if twice := lists.keys() & beside.keys():
        why = "is given beside the file: by the scenario, or as --model"
        raise ValueError(f"grid {number}: {min(twice)} {why}")
    return {**lists, **beside}


def _grid(number: int, lists: dict[str, Any], left_out: list[str]) -> list[Point]:
    try:
        check_names("grid", lists, GRID_FIELDS)
        return grid(left_out, **lists)
    except ValueError as error:
        raise ValueError(f"grid {number}: {error}") from error

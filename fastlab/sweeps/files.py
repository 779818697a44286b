"""Sweep files: YAML with grids of points and, where wanted, timing settings.

about: one line of text
settings: {budget_s: 1.0}          # over the device's defaults
text: [notes.txt]                  # judges trained weights; none = standard library
grids:                             # each a product of lists, as in fastlab.grid
  - {family: [gpt2, llama], layers: [2, 4], hidden: 256, precision: [fp32, bf16]}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlab.clock.timing import Settings
from fastlab.spec.checks import check_names
from fastlab.spec.grids import grid, trained_source
from fastlab.spec.point import Point
from fastlab.sweeps.keeping import shard_of

FIELDS = ("about", "settings", "text", "grids")
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


def read_sweep(path: str | Path, shard: str = "1/1") -> SweepFile:
    """Read and check a sweep file; nothing else happens.

    shard: i/n, only that share of its points, see `shard_of`. Raises FileNotFoundError,
    or ValueError naming the file, the grid and the field.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        for token in yaml.scan(text):
            value = getattr(token, "value", "") if getattr(token, "plain", 0) else ""
            if re.fullmatch(ODD, value):
                raise ValueError(f"{value} must be in decimal, or a text in quotes")
        data = yaml.safe_load(text)
        read = _checked(data)
        return replace(read, points=shard_of(read.points, shard))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(data: Any) -> SweepFile:
    if not isinstance(data, dict):
        raise ValueError(f"must be a mapping with {', '.join(FIELDS)}")
    check_names("sweep file", data, FIELDS)
    grids = data.get("grids")
    if not isinstance(grids, list) or not grids:
        raise ValueError("grids must be a list with at least one grid")
    out: list[str] = []
    points = [one for n, lists in enumerate(grids, 1) for one in _grid(n, lists, out)]
    settings = data.get("settings") or {}
    Settings.for_device("cpu", **settings)  # checked here, before any work
    points, about = list(dict.fromkeys(points)), data.get("about") or ""
    text = data.get("text") or []
    if not isinstance(text, (str, list)):
        raise ValueError(f"text={text!r} must be a file or a list of files")
    texts = (text,) if isinstance(text, str) else tuple(map(str, text))
    source = trained_source(*grids)
    return SweepFile(about, points, settings, source, texts, tuple(out))


def _grid(number: int, lists: Any, left_out: list[str]) -> list[Point]:
    if not isinstance(lists, dict):
        raise ValueError(f"grid {number} must be a mapping of fields to values")
    try:
        return grid(left_out, **lists)
    except ValueError as error:
        raise ValueError(f"grid {number}: {error}") from error

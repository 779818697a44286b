"""A notebook's parameters: its defaults, and the values for them, checked before a run.

papermill takes any name and any type without a word; these checks do not. A file of
parameters is YAML: a mapping is one set of them, as papermill reads it, a list several
sets; `grid` in a mapping holds lists that are multiplied.

budget_s: 0.1
grid:
  hidden: [64, 128]                  # one run each
  precisions: [[fp32], [fp32, bf16]]  # a list of lists, where the parameter is a list
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fastlab.notebook.run import SOURCES
from fastlab.spec.checks import check_names, check_rule
from fastlab.spec.configs import check_family
from fastlab.spec.grids import FLAT, MOST
from fastlab.sweeps.files import yaml_data

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
NO_BOOK = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
NO_LITERAL = (*NO_BOOK, SyntaxError, MemoryError)
WORDS = {"true": True, "false": False, "none": None}


def parameter_sets(text: str) -> list[dict[str, Any]]:
    """The sets of parameters that a YAML text stands for, at least one; see the module.

    Raises ValueError for another shape, as `yaml_data` does for what is no YAML.
    """
    data = yaml_data(text)
    each = data if isinstance(data, list) else [data or {}]
    found = [one for entry in each for one in _multiplied(entry)]
    if not found:
        raise ValueError("there must be at least one set of parameters")
    return found


def _multiplied(entry: Any) -> Iterator[dict[str, Any]]:
    """A mapping's sets: its lists under `grid` multiplied, the last varying fastest."""
    grid = entry.get("grid", {}) if isinstance(entry, dict) else None
    if not isinstance(grid, dict) or not all(
        isinstance(v, list) for v in grid.values()
    ):
        shape = "a mapping of names to values; grid in it one of names to lists"
        raise ValueError(f"{entry!r} must be {shape}")
    if both := grid.keys() & entry.keys():
        raise ValueError(f"{min(map(str, both))} stands in the grid and beside it")
    if empty := [name for name, values in grid.items() if not values]:
        raise ValueError(f"grid: {empty[0]}=[] must have at least one value")
    if (many := math.prod(map(len, grid.values()))) > MOST:
        raise ValueError(f"{many} combinations: {MOST} at most")
    fixed = {name: value for name, value in entry.items() if name != "grid"}
    for row in product(*grid.values()):
        yield fixed | dict(zip(grid, row, strict=True))


def check_values(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that no point, or no notebook, can have.

    Parameters are named as the fields of points are, lists of them in the plural.
    """
    rules: dict[str, Any] = {name: own.metadata for name, (_, own) in FLAT.items()}
    rules["source"] = {"allowed": SOURCES}
    for name, given in parameters.items():
        one = name.removesuffix("s")
        rule = rules.get(name) or rules.get(one) or rules.get(one.removesuffix("e"), {})
        for value in given if isinstance(given, list) else [given]:
            check_rule(name, value, rule)
            if one in ("family", "familie"):
                check_family(value)


@dataclass(frozen=True)
class Parameter:
    """One assignment of the parameters cell: its default, and its comment as help."""

    name: str
    default: Any
    help: str


def notebook_parameters(path: str | Path) -> dict[str, Parameter]:
    """The parameters of a notebook by name.

    Raises FileNotFoundError, or ValueError if it is no notebook, has no cell tagged
    "parameters", or one of that cell's lines is not `name = literal`.
    """
    tagged = [
        c for c in cells_of(path) if "parameters" in c["metadata"].get("tags", [])
    ]
    if not tagged:
        raise ValueError(f"{path} has no cell tagged 'parameters'")
    source, found = "".join(tagged[0]["source"]), {}
    try:
        lines = ast.parse(source).body
    except NO_LITERAL as error:
        raise ValueError(f"{path}: the parameters are no Python: {error}") from None
    for node in lines:
        try:
            if isinstance(node, ast.AnnAssign):  # for papermill --help-notebook
                target: Any = node.target
            else:
                (target,) = node.targets  # type: ignore[attr-defined]
            default = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            name = str(target.id)
        except NO_LITERAL:
            line = f"line {node.lineno} of the parameters"
            words = f"{line}: {source.splitlines()[node.lineno - 1]}"
            raise ValueError(f"{words} is not name = literal") from None
        line = source.splitlines()[(node.end_lineno or 1) - 1]
        comment = line[node.end_col_offset or 0 :].partition("#")[2].strip()
        found[name] = Parameter(name, default, comment)
    return found


def cells_of(path: str | Path) -> list[dict[str, Any]]:
    """The cells of a notebook; ValueError if it is none."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            _ = (
                "parameters" in cell["metadata"].get("tags", []),
                "".join(cell["source"]),
            )
        return list(cells)
    except NO_BOOK:
        raise ValueError(f"{path} is no notebook (.ipynb): no cells in it") from None


def check_parameters(
    path: str | Path, given: Mapping[str, str | Any]
) -> dict[str, Any]:
    """The given values, typed like the notebook's defaults.

    Text is read as the type of the default ("2,4" or "[2, 4]" for a list). Raises
    ValueError naming the parameter, its value and what is allowed.
    """
    known = notebook_parameters(path)
    check_names("parameter", given, known)
    return {name: typed(known[name], value) for name, value in given.items()}


def typed(parameter: Parameter, value: Any) -> Any:
    """`value` as the type of the parameter's default, or ValueError."""
    default = parameter.default
    many = isinstance(default, list)
    if isinstance(value, str) and not isinstance(default, str):
        value = _parsed(value, many)
    if many and not isinstance(value, list):
        value = [value]
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    kinds = {type(each) for each in (default if many else [default])}
    kinds |= {str, int, float} if default is None else set()
    right = [not kinds or type(v) in kinds for v in (value if many else [value])]
    if not right or not all(right):
        name = NAMES.get(type(default[0] if many and default else default), "a value")
        words = f"a list of {name.removeprefix('a ')}s" if many else name
        raise ValueError(
            f"{parameter.name}={value!r} must be {words}, "
            f"like {default!r} ({parameter.help or 'see the notebook'})"
        )
    for number in value if many else [value]:  # every one counts or times something
        if isinstance(number, int | float) and not 0 <= number < math.inf:
            raise ValueError(f"{parameter.name}={number!r} must be 0 or more")
    return value


def _parsed(text: str, many: bool = False) -> Any:
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except NO_LITERAL:
        text = text[1:-1] if many and text[:1] + text[-1:] in ("[]", "()") else text
        return [_parsed(part) for part in text.split(",")] if many else text
    return list(value) if isinstance(value, tuple) else value

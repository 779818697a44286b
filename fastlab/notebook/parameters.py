"""A notebook's parameters: read from its cell, and checked before anything runs.

papermill takes any name and any type without a word; these checks do not.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlab.spec.checks import check_names

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
WORDS = {"true": True, "false": False, "none": None}


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
    tagged = [c for c in _cells(path) if "parameters" in c["metadata"].get("tags", [])]
    if not tagged:
        raise ValueError(f"{path} has no cell tagged 'parameters'")
    source = "".join(tagged[0]["source"])
    found = [_parameter(node, source) for node in ast.parse(source).body]
    return {parameter.name: parameter for parameter in found}


def _cells(path: str | Path) -> list[dict[str, Any]]:
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no notebook (.ipynb): no cells in it") from None
    return list(cells)


def _parameter(node: ast.stmt, source: str) -> Parameter:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name):
        raise ValueError(f"line {node.lineno} of the parameters is not name = literal")
    line = source.splitlines()[(node.end_lineno or node.lineno) - 1]
    comment = line[node.end_col_offset or 0 :].partition("#")[2].strip()
    try:
        return Parameter(target.id, ast.literal_eval(node.value), comment)
    except ValueError:
        text = f"{target.id} = {ast.unparse(node.value)}"
        raise ValueError(f"{text} of the parameters is not name = literal") from None


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
    except (ValueError, SyntaxError):
        text = text[1:-1] if many and text[:1] + text[-1:] in ("[]", "()") else text
        return [_parsed(part) for part in text.split(",")] if many else text
    return list(value) if isinstance(value, tuple) else value

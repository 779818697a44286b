"""Run a notebook from the command line: its parameters are checked before anything.

papermill takes any name and any type without a word; these checks do not.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastlab.notebook.run import SOURCES, results_root
from fastlab.spec.checks import check_names, check_rule
from fastlab.spec.configs import check_family
from fastlab.spec.grids import FLAT

RUN_TYPE = "application/vnd.fastlab.run+json"
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
NO_BOOK = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
NO_LITERAL = (*NO_BOOK, SyntaxError, MemoryError)
WORDS = {"true": True, "false": False, "none": None}


class NotebookFailed(RuntimeError):
    """A cell raised; the message says which, why, and where the notebook is."""


def run_notebook(notebook: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """Execute a notebook through papermill; returns what it left, by name.

    Raises ValueError for a parameter that the notebook does not have, of another type
    or with a value that no notebook knows, before the kernel starts; NotebookFailed
    with the cell's error, the partly executed notebook being kept.
    """
    parameters = check_parameters(notebook, given)
    check_values(parameters)
    folder = results_root() / notebook.stem / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}Z.ipynb"
    _execute(notebook, executed, parameters)
    outputs = [out for cell in _cells(executed) for out in cell.get("outputs", [])]
    said = [out.get("data", {}).get(RUN_TYPE) for out in outputs]
    summary = next(filter(None, said), None)  # missing where it did not get there
    folder = results_root().parent / summary["folder"] if summary else folder
    found = {"table": folder / "rows.csv", "run": folder / "run.json"}
    figures = sorted(folder.glob("*.png"))
    named = {n: str(p) for n, p in found.items() if p.exists()}
    named |= {f"figure {n}": str(p) for n, p in enumerate(figures, 1)}
    if summary:
        named = {"rows": summary["caption"]} | named
    return named | {"notebook": str(executed)}


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


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> None:
    import nbformat
    import papermill

    try:  # what papermill reads, and does not check
        nbformat.validate(nbformat.read(notebook, as_version=4))
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"{notebook} is no notebook (.ipynb): {why}") from None
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters=parameters,
            log_output=False,
            store_widget_state=False,  # a dead explorer, and GitHub trips over it
            extra_arguments=["--log-level=ERROR"],  # no warning about local sockets
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookFailed(
            f"cell {error.cell_index} of {notebook} failed: {error.ename}: "
            f"{error.evalue}\nthe partly executed notebook: {executed}"
        ) from error


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
    source, found = "".join(tagged[0]["source"]), {}
    try:
        lines = ast.parse(source).body
    except NO_LITERAL as error:
        raise ValueError(f"{path}: the parameters are no Python: {error}") from None
    for node in lines:
        try:
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


def _cells(path: str | Path) -> list[dict[str, Any]]:
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

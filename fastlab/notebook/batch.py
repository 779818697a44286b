"""Run a notebook from the command line: parameters checked, progress, results told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastlab.notebook.parameters import check_parameters
from fastlab.notebook.run import SOURCES, results_root
from fastlab.spec.checks import check_rule
from fastlab.spec.grids import FLAT

RUN_TYPE = "application/vnd.fastlab.run+json"


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
    executed = _executed_path(notebook)
    _execute(notebook, executed, parameters)
    summary = run_summary(executed)
    root = results_root().parent
    folder = root / summary["folder"] if summary else executed.parent
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


def _executed_path(notebook: Path) -> Path:
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}Z"
    folder = results_root() / notebook.stem / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stamp}.ipynb"


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> None:
    import papermill

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


def run_summary(executed: Path) -> dict[str, Any] | None:
    """What run.finish() said in an executed notebook, None if it did not get there."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    found = [
        out["data"][RUN_TYPE] for out in outputs if RUN_TYPE in out.get("data", {})
    ]
    return found[-1] if found else None

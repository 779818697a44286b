"""Times from elsewhere: published ones, as rows of the one table, and one's own."""

from __future__ import annotations

import csv
import json
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from fastlab.latency.devices import device
from fastlab.record import Record
from fastlab.rows import COLUMNS, QUESTION, typed
from fastlab.spec.checks import check_choice, check_number
from fastlab.spec.grids import flat, point_of
from fastlab.spec.point import Point, Workload

FILE = Path(__file__).parents[1] / "data" / "published.csv"
UNITS = ("ms", "s", "tokens/s")
ABOUT = ("model", "software", "value", "unit", "source", "page", "date", "verified")
EXTRA = ("engine", "note")  # may be empty


def published(path: str | Path | None = None) -> pd.DataFrame:
    """Figures of papers, repositories and blogs, a row each, in the table's columns.

    measured_ms is what they measured, status "published"; beside them stand model,
    software, the figure as it was printed (value, unit), source and page, date, when
    and where it was verified, the engine of a prior that it goes with, and a note.
    Raises ValueError with the line and column.
    """
    lines = [
        _row(where, row) for where, row in csv_rows(path or FILE, (*ABOUT, "device"))
    ]
    return pd.DataFrame(lines, columns=[*COLUMNS, *ABOUT, *EXTRA])


def measured_in(path: str | Path) -> list[tuple[Point, float, str]]:
    """(point, seconds, device) of each measured row of a file.

    A CSV as `fastlab table --csv` writes it, or JSON lines: a store's, or those of
    `fastlab measure --json`. Raises ValueError with the line, or where none has a time.
    """
    name = Path(path).name
    try:
        lines = Path(path).read_text(encoding="utf-8").lstrip().startswith("{")
        found = [*(_recorded if lines else _tabled)(Path(path))]
    except UnicodeDecodeError:
        raise ValueError(f"{name}: neither a CSV nor JSON lines, in UTF-8") from None
    if not found:
        raise ValueError(f"{name}: no row has a measured time")
    return found


def _tabled(path: Path) -> Iterator[tuple[Point, float, str]]:
    for where, row in csv_rows(path, ("device",)):
        if "measured_ms" in row:
            ms = number_in(where, row, "measured_ms")
            yield point_in(where, row), ms / 1e3, row["device"]


def _recorded(path: Path) -> Iterator[tuple[Point, float, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            data = json.loads(line)
            if data.get("kind", "record") == "record" and data["measured"]:
                record = Record.from_dict(data)
                assert record.measured
                yield record.point, record.measured.seconds, record.device
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"the field {error} is missing" * isinstance(error, KeyError)
            raise ValueError(f"{path.name} line {number}: {why or error}") from None


def csv_rows(
    path: str | Path, needed: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """("rows.csv line 2", its cells that are not empty) of each line of a CSV.

    Raises ValueError for a missing column, and for a line without a needed cell.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if absent := [name for name in needed if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{Path(path).name} lacks the columns {', '.join(absent)}")
        for row in reader:
            where = f"{Path(path).name} line {reader.line_num}"
            if None in row:
                raise ValueError(f"{where}: more cells than columns")
            if empty := [name for name in needed if not row[name]]:
                raise ValueError(f"{where}, column {empty[0]}: must not be empty")
            yield where, {name: cell for name, cell in row.items() if cell}


def point_in(where: str, row: Mapping[str, str]) -> Point:
    """The point that the cells of a line say; ValueError begins with the place."""
    cells = {name: _value(cell) for name, cell in row.items() if name in QUESTION}
    try:
        return point_of(**typed(cells))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(cell: str) -> Any:
    """A number, True or False as itself, all else as text."""
    try:
        return literal_eval(cell)
    except (SyntaxError, ValueError):
        return cell


def number_in(where: str, row: Mapping[str, str], column: str) -> float:
    """A cell as a positive number; ValueError begins with the place."""
    try:
        check_number(column, value := float(row[column]))
    except ValueError:
        problem = f"{row[column]!r} is not a positive number"
        raise ValueError(f"{where}, column {column}: {problem}") from None
    return value


def _row(where: str, row: Mapping[str, str]) -> dict[str, Any]:
    point, value = point_in(where, row), number_in(where, row, "value")
    check_choice(f"{where}, column unit", row["unit"], UNITS)
    ms = _milliseconds(point.workload, value, row["unit"])
    own = {"device": _name_of(row["device"]), "status": "published"}
    told = {name: row.get(name, "") for name in (*ABOUT, *EXTRA)}
    return flat(point) | own | {"measured_ms": ms} | told | {"value": value}


@lru_cache
def _name_of(name: str) -> str:
    return device(name).name


def _milliseconds(work: Workload, value: float, unit: str) -> float:
    """Of the call; tokens/s counts prompt tokens in a prefill, else new ones."""
    if unit == "tokens/s":
        tokens = work.prompt_len if work.phase == "prefill" else work.new_tokens
        return 1e3 * work.batch * tokens / value
    return value * (1e3 if unit == "s" else 1)

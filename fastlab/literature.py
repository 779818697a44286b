"""Times from elsewhere: published ones, as rows of the one table, and one's own."""

from __future__ import annotations

import csv
import json
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fastlab.latency.devices import devices
from fastlab.record import Record
from fastlab.rows import COLUMNS, QUESTION, typed
from fastlab.spec.checks import check_choice, check_number
from fastlab.spec.grids import flat, point_of
from fastlab.spec.point import Point

FILE = Path(__file__).parents[1] / "data" / "published.csv"
UNITS = {"ms": 1.0, "s": 1e3, "tokens/s": 0.0}  # in ms
ABOUT = ("model", "software", "value", "unit", "source", "page", "date", "verified")
EXTRA = ("engine", "note")  # may be empty


def published(path: str | Path | None = None) -> pd.DataFrame:
    """Figures of papers, repositories and blogs, a row each, in the table's columns.

    measured_ms is what they measured, status "published"; beside them stand model,
    software, the figure as it was printed (value, unit; tokens are those of the prompt
    in a prefill, else new ones), source and page, date, when and where it was verified,
    a prior's engine, and a note. Raises ValueError with the line and column.
    """
    allowed = {"unit": UNITS, "device": [one.name for one in devices()]}
    lines = []
    for row, point in _read(path or FILE, (*ABOUT, "device"), "value", allowed):
        work, value = point.workload, row["value"]
        tokens = work.prompt_len if work.phase == "prefill" else work.new_tokens
        ms = UNITS[row["unit"]] * value or 1e3 * work.batch * tokens / value
        lines.append(row | flat(point) | {"status": "published", "measured_ms": ms})
    return pd.DataFrame(lines, columns=[*COLUMNS, *ABOUT, *EXTRA])


def measured_in(path: str | Path) -> list[tuple[Point, float, str]]:
    """(point, seconds, device) of each measured row of a file.

    A CSV as `fastlab table --csv` writes it, or JSON lines: a store's, or those of
    `fastlab measure --json`. Raises ValueError for others, or where none has a time.
    """
    name, text = Path(path).name, Path(path).read_text("utf-8", "replace")
    if text.startswith("{"):
        try:
            read = map(json.loads, text.splitlines())
            lines = [one for one in read if one.get("kind", "record") == "record"]
            records = map(Record.from_dict, lines)
            timed = [
                (r.point, r.measured.seconds, r.device) for r in records if r.measured
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name} has a line that is no record: {error}") from None
    else:
        rows = _read(path, ("device",), "measured_ms")
        timed = [(p, row["measured_ms"] / 1e3, row["device"]) for row, p in rows]
    if not timed:
        raise ValueError(f"{name}: no row has a measured time")
    return timed


def _read(
    path: str | Path,
    needed: Sequence[str],
    number: str,
    allowed: Mapping[str, Iterable[str]] = {},
) -> list[tuple[dict[str, Any], Point]]:
    """Each line of a CSV that has a number: its cells, that number read; its point."""
    name, found = Path(path).name, []
    with Path(path).open(newline="", encoding="utf-8", errors="replace") as file:
        columns = (table := csv.DictReader(file)).fieldnames or ()
        rows = [*table]
    if absent := [n for n in (*needed, number) if n not in columns]:
        raise ValueError(f"{name} lacks the columns {', '.join(absent)}")
    for line, row in enumerate(rows, 2):
        try:
            if None in row:
                raise ValueError("more cells than columns")
            if empty := [n for n in needed if not row[n]]:
                raise ValueError(f"column {empty[0]} must not be empty")
            for column, choices in allowed.items():
                check_choice(column, row[column], choices)
            if row[number]:
                check_number(number, value := _value(row[number]))
                cells = {n: _value(row[n]) for n in QUESTION if row.get(n)}
                found.append((row | {number: value}, point_of(**typed(cells))))
        except ValueError as error:
            raise ValueError(f"{name} line {line}: {error}") from None
    return found


def _value(cell: str) -> Any:
    """A number, True or False as itself, all else as text."""
    try:
        return literal_eval(cell)
    except (SyntaxError, ValueError):
        return cell

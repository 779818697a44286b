"""The series of notebooks, read from their own title cells, so that it never rots."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@dataclass(frozen=True)
class Lesson:
    """A notebook as its title cell tells it: title, question, minutes, device."""

    file: str
    title: str
    question: str
    minutes: str
    device: str


@dataclass(frozen=True)
class Series:
    """The lessons that are there, in order, as a table with links."""

    lessons: tuple[Lesson, ...]

    def __repr__(self) -> str:
        return "\n".join(
            f"{each.title}: {each.question} ({each.minutes} minutes; {each.device})"
            for each in self.lessons
        )

    def _repr_html_(self) -> str:
        names = ("notebook", "question", "minutes", "device")
        head = "".join(f'<th style="text-align:left">{name}</th>' for name in names)
        rows = "".join(f"<tr>{''.join(_cells(each))}</tr>" for each in self.lessons)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def series(folder: Path = NOTEBOOKS) -> Series:
    """The notebooks of the folder, in order of their names; ValueError names a bad one.

    A notebook that is not written yet is simply absent.
    """
    return Series(tuple(map(lesson, sorted(folder.glob("[0-9]*.ipynb")))))


def lesson(path: Path) -> Lesson:
    """One notebook's title cell; ValueError names what it lacks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[0]["source"]) if cells else ""
    found = {
        "title": re.search(r"^# (.+)$", text, re.MULTILINE),
        "question": re.search(r"^\*\*(.+\?)\*\*", text, re.MULTILINE),
        "minutes": re.search(r"(\d+) minutes", text),
        "device": re.search(r"(CPU fine[^.:\n]*)", text),
    }
    absent = [name for name, match in found.items() if match is None]
    if absent:
        raise ValueError(f"the title cell of {path.name} lacks {', '.join(absent)}")
    said = {name: match[1] for name, match in found.items() if match}
    return Lesson(path.name, **said)


def _cells(each: Lesson) -> Iterator[str]:
    link = f'<a href="{html.escape(each.file)}">{html.escape(each.title)}</a>'
    yield f'<td style="text-align:left">{link}</td>'
    for text in (each.question, each.minutes, each.device):
        yield f'<td style="text-align:left">{html.escape(text)}</td>'

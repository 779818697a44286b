"""The lines of a store, and an index of them; the lines stay the truth.

.index.json says where each line begins and what it is about, so that planning reads
none of them, and a table each that counts once. It is written where much had to be read
for want of it, and made anew for a file that is not as it was.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastlab.record import SCHEMA, write_atomically
from fastlab.spec.checks import canonical

INDEX = ".index.json"
WORTH = 2**22  # bytes of lines: below, reading them takes a tenth of a second
LONGEST = 2**24  # bytes of a line: rows have thousands, with a model's config more
TAIL = 4096  # bytes before the end that tell whether a file only grew
_CRC = re.compile(r',"crc32":([0-9]+)')
_SAMPLES = re.compile(r'_ns":\[[^\]]*\]')  # quotes within strings are escaped
_WORDS = ("key", "settings_key", "env", "device", "status")
_NEEDED: dict[str, dict[str, type]] = {
    "record": dict.fromkeys(_WORDS, str) | {"round": int},
    "env": {"env": str},
    "start": dict.fromkeys(("key", "settings_key", "device"), str) | {"round": int},
}
NO_ROW = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def seal(data: Mapping[str, Any]) -> str:
    """One store line (no newline): canonical JSON with the crc32 of it without it."""
    body = canonical(dict(data))
    return canonical({**data, "crc32": zlib.crc32(body.encode())})


def unseal(line: str, samples: bool = True) -> dict[str, Any]:
    """The object of a store line; raises ValueError where its crc32 does not fit.

    samples=False leaves the lists of samples empty: 10 times faster on long rows.
    """
    fits = _text_fits(line)
    slim = fits and not samples
    data = json.loads(_SAMPLES.sub('_ns":[]', line) if slim else line)
    if not isinstance(data, dict):
        raise ValueError("a store line must be a JSON object")
    crc = data.pop("crc32", None)
    if not fits and crc != zlib.crc32(canonical(data).encode()):
        raise ValueError("crc32 does not fit the line")
    return data


def _text_fits(line: str) -> bool:
    # In a line as sealed, cutting the field out of the text leaves what was summed;
    # serialising again says the same of any layout, at 10 times the cost.
    found = _CRC.search(line)
    if found is None:
        return False
    rest = line[: found.start()] + line[found.end() :]
    return zlib.crc32(rest.encode()) == int(found[1])


@dataclass(frozen=True)
class BadLine:
    """A line that readers skip: its file's name, its number from 1, and why.

    Number 0 stands for a whole file. is_damaged: it is not as it was written.
    """

    file: str
    line: int
    why: str

    @property
    def is_damaged(self) -> bool:
        return self.why.startswith(("not JSON", "crc32", "empty", "a store line must"))


class Line(NamedTuple):
    """Where a good line begins, and what it is about; an env's key is its digest."""

    offset: int
    key: str
    kind: str
    settings_key: str = ""
    device: str = ""
    status: str = ""
    round: int = 0
    file: str = ""


_TYPES = tuple(map(type, Line(0, "", "")))


def store_files(folder: Path, linked: bool = False) -> list[Path]:
    """The JSONL files of a store in the order of their names; none if it is missing.

    A link to what lies elsewhere is none of them; linked=True gives just those.
    """
    here, files = folder.resolve(), (p for p in folder.glob("*.jsonl") if p.is_file())
    out = {path: path.resolve().parent != here for path in files}
    return sorted(path for path in out if out[path] == linked)


def links_out(folder: Path) -> list[BadLine]:
    """The links that are none of a store's files, as nobody follows them."""
    why = "a link out of the store, which is not followed"
    return [BadLine(path.name, 0, why) for path in store_files(folder, linked=True)]


def whole_lines(
    file: BinaryIO, offset: int = 0, number: int = 0
) -> Iterator[tuple[int, int, bytes]]:
    """(offset, number from 1, bytes without newline) of lines from here, `offset`, on.

    What is torn, or still being written, is no line; one that is too long comes empty.
    """
    while line := file.readline(LONGEST):
        number, began, offset = number + 1, offset, offset + len(line)
        while not line.endswith(b"\n"):
            if len(line) < LONGEST:
                return
            line = file.readline(LONGEST)
            offset += len(line)
        yield began, number, line[:-1] if offset - began <= LONGEST else b""


def line_data(line: bytes, samples: bool = True) -> dict[str, Any]:
    """The checked data of a line; raises one of NO_ROW where it is none."""
    if not line:
        raise ValueError(f"empty, or longer than {LONGEST >> 20} MiB")
    data = unseal(line.decode(), samples=samples)
    if b"\\u" in line:  # half a surrogate pair is no text
        json.dumps(data, ensure_ascii=False).encode()
    schema, kind = data["schema"], data["kind"]
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = " (newer): update fastlab to read it" if newer else ""
        raise ValueError(f"schema={schema!r} is not {SCHEMA}{hint}")
    if kind not in _NEEDED:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(_NEEDED)}")
    for name, wanted in _NEEDED[kind].items():
        if type(data[name]) is not wanted:
            raise TypeError(f"{name}={data[name]!r} must be of type {wanted.__name__}")
    return data


def why_bad(error: Exception) -> str:
    """Why a line is no row, in words."""
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return f"not JSON: {error}"
    missing = isinstance(error, KeyError)
    return f"the field {error} is missing" if missing else str(error)


class Files:
    """Lines of a store by their place, each file being opened once."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._open: dict[str, BinaryIO] = {}

    def data(self, line: Line, samples: bool = True) -> dict[str, Any]:
        """The data of a line; raises one of NO_ROW where it is not what was indexed."""
        if line.file not in self._open:
            opened = self._stack.enter_context((self._folder / line.file).open("rb"))
            self._open[line.file] = opened
        file = self._open[line.file]
        file.seek(line.offset)
        data = line_data(file.readline(LONGEST).removesuffix(b"\n"), samples)
        if data["env" if line.kind == "env" else "key"] != line.key:
            raise ValueError(f"{INDEX} does not fit the line: delete it")
        return data

    def number(self, line: Line) -> int:
        """The line's number in its file, from 1."""
        file = self._open[line.file]
        file.seek(0)
        return file.read(line.offset).count(b"\n") + 1


class Index:
    """The lines of a store as they are now; see the module. bad: those skipped."""

    def __init__(self, folder: Path) -> None:
        self._files, kept, self._unread = {}, _load(folder), 0
        for path in store_files(folder):
            self._files[path.name] = self._scanned(path, kept.get(path.name))
        if self._unread >= WORTH:
            words = json.dumps(self._files)
            with suppress(OSError):  # a folder that can only be read
                write_atomically(folder / INDEX, lambda path: path.write_text(words))
        self.bad = links_out(folder) + [
            BadLine(name, *one) for name, f in self._files.items() for one in f["bad"]
        ]

    def lines(self, *kinds: str) -> Iterator[Line]:
        """Every good line of these kinds: files by name, lines by place."""
        for name, file in self._files.items():
            for line in file["lines"]:
                if line[2] in kinds:
                    yield Line._make((*line[:7], name))

    def _scanned(self, path: Path, old: dict[str, Any] | None) -> dict[str, Any]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            at = [status.st_size, status.st_mtime_ns]
            if old and old["at"] == at:
                return old
            grown = old and at[0] > old["at"][0] and _tail(file, old["end"])
            if old is None or grown != old["tail"]:
                old = {"end": 0, "count": 0, "lines": [], "bad": []}
            file.seek(began := old["end"])
            for offset, number, line in whole_lines(file, began, old["count"]):
                try:
                    old["lines"].append(_about(offset, line_data(line, samples=False)))
                except NO_ROW as error:
                    old["bad"].append((number, why_bad(error)))
                old |= {"end": file.tell(), "count": number}
            self._unread += old["end"] - began
            return old | {"at": at, "tail": _tail(file, old["end"])}


def _about(offset: int, data: dict[str, Any]) -> Line:
    if data["kind"] == "env":
        return Line(offset, data["env"], "env")
    words = [data[name] for name in ("key", "kind", "settings_key", "device")]
    return Line._make((offset, *words, data.get("status", ""), data["round"], ""))


def _tail(file: BinaryIO, end: int) -> int:
    start = max(0, end - TAIL)
    file.seek(start)
    return zlib.crc32(file.read(end - start))


def _load(folder: Path) -> dict[str, Any]:
    """What the index says of each file; nothing where it is none of ours."""
    path = folder / INDEX
    try:
        files = {} if path.is_symlink() else json.loads(path.read_bytes())
        for one in files.values():
            counts = *one["at"], one["end"], one["count"], one["tail"]
            fits = tuple(map(type, counts)) == (int,) * 5 and min(counts) >= 0
            fits &= all(tuple(map(type, line)) == _TYPES for line in one["lines"])
            if not fits or not all(int(n) and str(why) for n, why in one["bad"]):
                return {}
        return dict(files)
    except (OSError, *NO_ROW):
        return {}

"""The lines of a store, and an index of them; the lines stay the truth.

.index.json says of each file where its lines begin and what they are about, so that
planning reads none of them and a table each that counts once. It is made where much was
read without it, and made anew where a file is not as it was.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastlab.record import SCHEMA, unseal, write_atomically

INDEX = ".index.json"
WORTH = 2**22  # bytes of lines: below, reading them takes a tenth of a second
LONGEST = 2**24  # bytes of a line: rows have thousands, models' configs in them more
TAIL = 4096  # bytes before the end that tell whether a file only grew
_WORDS = ("key", "settings_key", "env", "device", "status")
_NEEDED: dict[str, dict[str, type]] = {
    "record": dict.fromkeys(_WORDS, str) | {"round": int},
    "env": {"env": str},
    "start": dict.fromkeys(("key", "settings_key", "device"), str) | {"round": int},
}
# How reasons begin of lines that are not as they were written.
DAMAGE = ("not JSON", "crc32", "empty", "a store line must be")
NO_ROW = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_LISTS = {"offsets": int, "keys": str, "groups": int, "kinds": list, "bad": list}
_NEW: dict[str, Any] = {"at": [], "end": 0, "tail": 0, "count": 0}


@dataclass(frozen=True)
class BadLine:
    """A line that readers skip: its file's name, its number from 1, and why.

    Number 0 stands for a whole file.
    """

    file: str
    line: int
    why: str


class Line(NamedTuple):
    """Where a good line begins, and what it is about; an env's key is its digest."""

    file: str
    offset: int
    key: str
    kind: str
    settings_key: str = ""
    device: str = ""
    status: str = ""
    round: int = 0


def store_files(folder: Path) -> list[Path]:
    """The JSONL files of a store in the order of their names; none if it is missing.

    A link to what lies elsewhere is none of them.
    """
    here = folder.resolve()
    return sorted(
        path
        for path in folder.glob("*.jsonl")
        if path.is_file() and not (path.is_symlink() and _leaves(path, here))
    )


def _leaves(path: Path, here: Path) -> bool:
    return path.resolve().parent != here


def links_out(folder: Path) -> list[BadLine]:
    """The files of a store that are links to somewhere else: nobody follows them."""
    here, why = folder.resolve(), "a link out of the store, which is not followed"
    links = (path for path in folder.glob("*.jsonl") if path.is_symlink())
    return [BadLine(p.name, 0, why) for p in sorted(links) if _leaves(p, here)]


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
        whole = offset - began <= LONGEST
        yield began, number, line[:-1] if whole else b""


def line_data(line: bytes, samples: bool = True) -> dict[str, Any]:
    """The checked data of a line; raises one of NO_ROW where it is none."""
    if not line:
        raise ValueError(f"empty, or longer than {LONGEST >> 20} MiB")
    data = unseal(line.decode(), samples=samples)
    schema, kind = data["schema"], data["kind"]
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = " (newer): update fastlab to read it" if newer else ""
        raise ValueError(f"schema={schema!r} is not {SCHEMA}{hint}")
    if kind not in _NEEDED:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(_NEEDED)}")
    for name, wanted in _NEEDED[kind].items():
        if not isinstance(data[name], wanted):
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

    def line(self, line: Line) -> bytes:
        """The bytes of a line, without newline."""
        if line.file not in self._open:
            opened = self._stack.enter_context((self._folder / line.file).open("rb"))
            self._open[line.file] = opened
        file = self._open[line.file]
        file.seek(line.offset)
        return file.readline(LONGEST).removesuffix(b"\n")

    def number(self, line: Line) -> int:
        """The line's number in its file, from 1."""
        file = self._open[line.file]
        file.seek(0)
        return file.read(line.offset).count(b"\n") + 1


class Index:
    """The lines of a store as they are now; see the module."""

    def __init__(self, folder: Path) -> None:
        kept, self._files, self._read = _load(folder), {}, 0
        for path in store_files(folder):
            self._files[path.name] = self._scanned(path, kept.get(path.name))
        if self._read >= WORTH:
            words = json.dumps({"schema": SCHEMA, "files": self._files})
            with suppress(OSError):  # a folder that can only be read
                write_atomically(folder / INDEX, lambda path: path.write_text(words))
        self.bad = links_out(folder) + [
            BadLine(name, *one) for name, f in self._files.items() for one in f["bad"]
        ]

    def lines(self, *kinds: str) -> Iterator[Line]:
        """Every good line of these kinds: files by name, lines by place."""
        for name, file in self._files.items():
            places = zip(file["offsets"], file["keys"], file["groups"], strict=True)
            wanted = [kind if kind[0] in kinds else None for kind in file["kinds"]]
            for offset, key, group in places:
                if (kind := wanted[group]) is not None:
                    yield Line(name, offset, key, *kind)

    def _scanned(self, path: Path, old: dict[str, Any] | None) -> dict[str, Any]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            at = [status.st_size, status.st_mtime_ns]
            if old and old["at"] == at:
                return old
            grown = old and at[0] > old["at"][0] and _tail(file, old["end"])
            if old is None or grown != old["tail"]:
                old = _NEW | {name: [] for name in _LISTS}
            file.seek(old["end"])
            groups = {tuple(kind): n for n, kind in enumerate(old["kinds"])}
            for offset, number, line in whole_lines(file, old["end"], old["count"]):
                try:
                    key, *kind = _about(line_data(line, samples=False))
                    old["groups"].append(groups.setdefault(tuple(kind), len(groups)))
                    old["offsets"].append(offset)
                    old["keys"].append(key)
                except NO_ROW as error:
                    old["bad"].append([number, why_bad(error)])
                old["count"] = number
                end = file.tell()
                self._read += end - old["end"]
                old["end"] = end
            old |= {"at": at, "kinds": [*groups], "tail": _tail(file, old["end"])}
        return old


def _about(data: dict[str, Any]) -> tuple[Any, ...]:
    if data["kind"] == "env":
        return data["env"], "env"
    names = ("key", "kind", "settings_key", "device")
    return *(data[name] for name in names), data.get("status", ""), data["round"]


def _tail(file: BinaryIO, end: int) -> int:
    start = max(0, end - TAIL)
    file.seek(start)
    return zlib.crc32(file.read(end - start))


def _load(folder: Path) -> dict[str, Any]:
    """What the index says of each file; nothing where it is none of ours."""
    path = folder / INDEX
    try:
        if path.is_symlink():
            return {}
        data = json.loads(path.read_bytes())
        files = data["files"] if data["schema"] == SCHEMA else {}
        return {name: one for name, one in files.items() if _fits(one)}
    except (OSError, *NO_ROW):
        return {}


def _fits(one: dict[str, Any]) -> bool:
    """Whether the entry of a file has the form that it was written in."""
    lists = all(
        all(type(value) is kind for value in one[name]) for name, kind in _LISTS.items()
    )
    kinds = [Line("", 0, "", *kind) for kind in one["kinds"]]
    counts = [one["end"], one["tail"], one["count"], *one["at"]]
    return (
        lists
        and len(one["offsets"]) == len(one["keys"]) == len(one["groups"])
        and all(type(count) is int for count in counts)
        and all(0 <= group < len(kinds) for group in one["groups"])
        and all(type(kind.round) is int for kind in kinds)
        and all(isinstance(word, str) for kind in one["kinds"] for word in kind[:4])
        and all(BadLine("", *bad).line > 0 for bad in one["bad"])
    )

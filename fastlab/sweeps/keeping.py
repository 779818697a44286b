"""Stores as files to keep: checked, merged, written as tables, planned in shards."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.record import Record, write_atomically
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.sweeps.lines import (
    DAMAGE,
    NO_ROW,
    BadLine,
    line_data,
    store_files,
    whole_lines,
    why_bad,
)
from fastlab.sweeps.store import FINAL, Health, Store
from fastlab.sweeps.writer import take_lock

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "parquet")
FORMULA = re.compile(r"[=+\-@\t\r]")  # begins what a spreadsheet would compute


@dataclass(frozen=True)
class Checked:
    """What a store holds, line by line.

    damaged: lines whose checksum does not fit, of rows that are lost. foreign: whole
    lines that are no row of this version. doubled: rows that are there more than once;
    unfinished: attempts that began and left no row; poison: points left alone.
    """

    health: Health
    damaged: list[BadLine]
    foreign: list[BadLine]
    doubled: int
    unfinished: int
    poison: int


def check(store: Store) -> Checked:
    """Read every line of a store whole, and count what is there."""
    starts, rows, poison = set(), Counter[tuple[Any, ...]](), set()

    def seen(row: Record | dict[str, Any] | BadLine) -> Any:
        if isinstance(row, Record):
            rows[row.key, row.round, row.run, row.attempt] += 1
            if row.status == "poison":
                poison.add(row.key)
        elif isinstance(row, dict) and row["kind"] == "start":
            names = ("key", "round", "run", "attempt")
            starts.add(tuple(str(row.get(name)) for name in names))
        return row

    health = store.health(seen)
    bad: tuple[list[BadLine], list[BadLine]] = [], []
    for one in health.bad:
        bad[one.why.startswith(DAMAGE)].append(one)
    foreign, damaged = bad
    unfinished = starts - {tuple(map(str, row)) for row in rows}
    doubled = rows.total() - len(rows)
    return Checked(health, damaged, foreign, doubled, len(unfinished), len(poison))


def check_host(store: Store, mix: bool) -> None:
    """Raise ValueError where a store has rows of another host than this one."""
    envs = [*store.envs().values()]
    here = [env | {"host": socket.gethostname()} for env in envs]
    check_hosts([*envs, *here], mix, store.folder)


def check_hosts(envs: Iterable[Mapping[str, Any]], mix: bool, folder: Path) -> None:
    """Raise ValueError where rows of one device would come from several hosts."""
    hosts: dict[str, set[str]] = {}
    for env in () if mix else envs:
        if isinstance(host := env.get("host"), str):
            hosts.setdefault(str(env.get("device")), set()).add(host)
    for device, names in hosts.items():
        if len(names) > 1:
            raise ValueError(
                f"{folder}: {device} would be of hosts {', '.join(sorted(names))}, "
                "which differ in speed: keep a store for each, or say --mix-hosts"
            )


@dataclass
class Merged:
    """What came into a store: rows and other lines, what was skipped, what conflicts.

    conflicts: points that more than one store has a final row of, in words.
    """

    rows: int = 0
    lines: int = 0
    bad: list[BadLine] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def merge(sources: Sequence[Store], into: Store, mix_hosts: bool = False) -> Merged:
    """Copy every good line that `into` lacks, under its file's name; nothing changes.

    Rows keep their environment and run. Of two rows of one point the later file counts,
    as everywhere. Doing it again copies nothing. Raises ValueError for what is no store
    and for hosts that would be mixed, StoreBusy where `into` is written to.
    """
    for store in sources:
        if not store_files(store.folder):
            raise ValueError(f"{store.folder} is no store: it has no .jsonl file")
    every = [into, *sources]
    envs = [env for store in every for env in store.envs().values()]
    check_hosts(envs, mix_hosts, into.folder)
    into.folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(into.folder)
    try:
        merged = Merged()
        copy = _Copy(into.folder, merged)
        for path in store_files(into.folder):
            for _ in copy.fresh(path):
                pass
        merged.rows = merged.lines = 0
        for store in sources:
            for path in store_files(store.folder):
                copy.file(path)
    finally:
        os.close(lock)
    return merged


@dataclass
class _Copy:
    """The lines that a store has by now, and those that come."""

    folder: Path
    merged: Merged
    have: set[bytes] = field(default_factory=set)
    final: dict[tuple[str, int], Path] = field(default_factory=dict)

    def fresh(self, path: Path) -> Iterator[bytes]:
        """The good lines of a file that were not there yet."""
        with path.open("rb") as file:
            for _, number, line in whole_lines(file):
                try:
                    data = line_data(line, samples=False)
                except NO_ROW as error:
                    self.merged.bad.append(BadLine(str(path), number, why_bad(error)))
                    continue
                if (mark := hashlib.sha256(line).digest()) not in self.have:
                    self.have.add(mark)
                    self._count(data, path)
                    yield line + b"\n"

    def _count(self, data: dict[str, Any], path: Path) -> None:
        self.merged.lines += 1
        if data["kind"] != "record":
            return
        self.merged.rows += 1
        if data["status"] in FINAL:
            key = data["key"], data["round"]
            other = self.final.setdefault(key, path.parent)
            if other != path.parent:
                words = f"{data['key'][:12]} is in {other} and in {path.parent}"
                self.merged.conflicts.append(words)

    def file(self, path: Path) -> None:
        """Copy the fresh lines of a file, at once; none where it brings nothing."""
        lines = self.fresh(path)
        if (first := next(lines, None)) is None:
            return
        name, number = path.name, 1
        while (self.folder / name).exists():
            number += 1
            name = f"{path.stem}-{number}.jsonl"

        def write(fresh: Path) -> None:
            with fresh.open("wb") as file:
                file.write(first)
                file.writelines(lines)

        write_atomically(self.folder / name, write)


def check_format(to: str) -> None:
    """Raise ValueError for a format that tables cannot be written in here."""
    check_choice("to", to, FORMATS)
    if to == "parquet" and not find_spec("pyarrow"):
        raise ValueError("to='parquet' needs pyarrow: pip install pyarrow, or --to csv")


def write_table(rows: pd.DataFrame, path: Path, to: str = "csv") -> None:
    """Write rows to a file at once; a reader finds the old table or the new one.

    In CSV a text that a spreadsheet would compute gets a ' before it.
    """
    if to == "parquet":
        write_atomically(path, lambda fresh: rows.to_parquet(fresh, index=False))
        return
    texts = rows.select_dtypes(exclude="number").columns
    safe = rows.assign(**{name: rows[name].map(_cell) for name in texts})
    write_atomically(path, lambda fresh: safe.to_csv(fresh, index=False))


def _cell(value: Any) -> Any:
    formula = isinstance(value, str) and FORMULA.match(value)
    return f"'{value}" if formula else value


def shard_of(points: Iterable[Point], shard: str) -> list[Point]:
    """The share i of n of the points, "2/4": by their keys, the same everywhere.

    Every point is in one of the n shards. Raises ValueError for another text.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    own, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= own <= n:
        raise ValueError(f"shard={shard!r} must be i/n, i from 1 to n: 2/4")
    return [point for point in points if int(point.key, 16) % n == own - 1]

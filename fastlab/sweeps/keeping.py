"""Stores beside others: merged, written as tables, filled in shards, of one host."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.machine import host
from fastlab.record import write_atomically
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.sweeps.lines import (
    NO_ROW,
    BadLine,
    line_data,
    store_files,
    whole_lines,
    why_bad,
)
from fastlab.sweeps.rounds import hosts_of
from fastlab.sweeps.store import FINAL, Store
from fastlab.sweeps.writer import take_lock

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "parquet")
FORMULA = re.compile(r"[=+\-@\t\r]")  # begins what a spreadsheet would compute


def check_host(store: Store, mix: bool) -> None:
    """Raise ValueError where a store has rows of another host than this one."""
    envs, here = [*store.envs().values()], host()
    check_hosts([*envs, *(env | here for env in envs)], mix, store.folder)


def check_hosts(envs: Iterable[Mapping[str, Any]], mix: bool, folder: Path) -> None:
    """Raise ValueError where rows of one device would come from several hosts.

    Those that share a name or a boot of the machine are one.
    """
    numbered = {str(n): env for n, env in enumerate(envs)}
    devices: dict[str, set[str]] = {}
    for n, name in hosts_of(numbered).items():
        devices.setdefault(str(numbered[n].get("device")), set()).add(name)
    for device, names in devices.items():
        if len(names) > 1 and not mix:
            raise ValueError(
                f"{folder}: {device} would be of hosts {', '.join(sorted(names))}, "
                "which differ in speed: keep a store for each, or say --mix-hosts"
            )


@dataclass
class Merged:
    """What came into a store, the lines that are none, and points that were in two.

    conflicts: in words; of such rows the one of the later file counts, as everywhere.
    """

    rows: int = 0
    bad: list[BadLine] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def merge(sources: Sequence[Store], into: Store, mix_hosts: bool = False) -> Merged:
    """Copy every good line that `into` lacks, under its file's name; nothing changes.

    Rows keep their environment and run. Doing it again copies nothing. Raises
    ValueError for hosts that would be mixed, StoreBusy where `into` is written to.
    """
    stores = [into, *sources]
    envs = [env for store in stores for env in store.envs().values()]
    check_hosts(envs, mix_hosts, into.folder)
    into.folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(into.folder)
    try:
        have: dict[Any, Path] = {}
        merged = Merged()
        for path in store_files(into.folder):
            deque(_fresh(path, have, merged), maxlen=0)
        merged = Merged()
        others = [s.folder for s in sources if not s.folder.samefile(into.folder)]
        for path in chain.from_iterable(map(store_files, others)):
            lines = _fresh(path, have, merged)
            if first := next(lines, b""):
                target = _free_name(into.folder, path)
                write_atomically(target, partial(_write, chain([first], lines)))
    finally:
        os.close(lock)
    return merged


def _fresh(path: Path, have: dict[Any, Path], merged: Merged) -> Iterator[bytes]:
    """The good lines of a file that are not there yet.

    have: the file's folder by a line's hash, and by the key and round of final rows.
    """
    with path.open("rb") as file:
        for _, number, line in whole_lines(file):
            try:
                data = line_data(line, samples=False)
            except NO_ROW as error:
                merged.bad.append(BadLine(str(path), number, why_bad(error)))
                continue
            if have.setdefault(sha256(line).digest(), path) != path:
                continue
            merged.rows += data["kind"] == "record"
            if data.get("status") in FINAL:
                key, folder = data["key"], path.parent
                other = have.setdefault((key, data["round"]), folder)
                if other != folder:
                    words = f"{key[:12]} is in {other} and in {folder}"
                    merged.conflicts.append(words)
            yield line + b"\n"


def _write(lines: Iterable[bytes], path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(lines)


def _free_name(folder: Path, path: Path) -> Path:
    names = chain([path.name], (f"{path.stem}-{n}.jsonl" for n in count(2)))
    return next(folder / name for name in names if not (folder / name).exists())


def check_format(to: str) -> None:
    """Raise ValueError for a format that tables cannot be written in here."""
    check_choice("to", to, FORMATS)
    if to == "parquet" and not find_spec("pyarrow"):
        raise ValueError("to='parquet' needs pyarrow: pip install pyarrow, or --to csv")


def write_table(rows: pd.DataFrame, path: Path, to: str = "csv") -> None:
    """Write rows to a file at once; a reader finds the old table or the new one.

    In CSV a text that a spreadsheet would compute gets a ' before it.
    """
    if to == "csv":
        texts = rows.select_dtypes(exclude="number").columns
        rows = rows.assign(**{name: rows[name].map(_cell) for name in texts})
    write = rows.to_csv if to == "csv" else rows.to_parquet
    write_atomically(path, partial(write, index=False))


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

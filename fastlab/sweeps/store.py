"""The store: a folder of JSONL files, one for each writer, that survives any kill.

A row that `append` returned from is on disk. Rows are never changed or removed.
"""

from __future__ import annotations

import errno
import json
import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from fastlab.record import DIED, SCHEMA, TIMES, Estimate, Measurement, Record
from fastlab.spec.checks import digest
from fastlab.sweeps.lines import (
    NO_ROW,
    BadLine,
    Files,
    Index,
    Line,
    line_data,
    links_out,
    store_files,
    whole_lines,
    why_bad,
)
from fastlab.sweeps.rounds import hosts_of, of_one_host, pooled
from fastlab.sweeps.writer import Writer, torn_tail

# Others are not final: such a row is tried again by the next sweep.
FINAL = ("ok", "oom", "unsupported", "nonfinite", "poison")
Read = Record | dict[str, Any] | BadLine  # what a line may be
_OWN = ("schema", "kind", "env", "crc32")


@dataclass(frozen=True)
class Health:
    """What a store holds: counts of good rows, the lines skipped, the torn tails.

    `torn` names the files that hold or still end in a part of a line; starts: attempts
    that said when they began; unfinished: those of them that left no row; doubled: rows
    that are there once more; poison: points that are left alone.
    """

    files: int
    records: int
    envs: int
    bad: list[BadLine]
    torn: list[str]
    starts: int = 0
    unfinished: int = 0
    doubled: int = 0
    poison: int = 0


@dataclass
class Seen:
    """What a store says of each key: its status, attempts begun, workers that died.

    status: the one that `Store.visits` would show, of one round; poison is of all.
    """

    status: dict[str, str] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> set[str]:
        """Keys that need no further attempt."""
        return {key for key, status in self.status.items() if status in FINAL}

    def add(self, key: str, status: str) -> None:
        """Take a row into account."""
        self.deaths[key] += status in DIED
        if rank(status) >= rank(self.status.get(key, "error")):
            self.status[key] = status


class Store(AbstractContextManager["Store"]):
    """A folder of records; read it at any time, write between `begin` and `close`.

    Raises NotADirectoryError if `folder` is a file; a missing one reads as empty.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Writer | None = None
        if self.folder.exists() and not self.folder.is_dir():
            words = "a store must be a folder of JSONL files, or a name not yet taken"
            raise NotADirectoryError(errno.ENOTDIR, words, str(self.folder))

    def begin(self, *envs: Mapping[str, Any]) -> Self:
        """Make the folder, lock it, set torn tails aside; `envs` are those of its rows.

        Rows that name none are of the first. Raises StoreBusy naming the process that
        holds the lock, ValueError or TypeError if one is not JSON or uses a name of the
        line's own, OSError if not writable.
        """
        if taken := [name for name in _OWN if any(name in env for env in envs)]:
            raise ValueError(f"env must not name {', '.join(taken)}: set by the store")
        own = {"schema": SCHEMA, "kind": "env"}
        lines = [{**own, "env": digest(dict(env)), **env} for env in envs]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self.folder, lines)
        return self

    def start(self, **about: Any) -> None:
        """Say that an attempt begins; without its row, the planner was killed."""
        self._writing.append({"schema": SCHEMA, "kind": "start", **about}, False)

    def append(self, record: Record) -> Record:
        """Write one row and wait until it is on disk; an empty env becomes this one.

        Returns the record as it was kept: NaN is stored as null, a time that is one as
        no measurement. Raises OSError naming the file if the row could not be written
        whole (nothing of it stays), StoreGone where the folder is no more, RuntimeError
        before `begin`.
        """
        if record.estimate and not _is_finite(record.estimate):
            record = replace(record, estimate=None)
        if record.measured and not _is_finite(record.measured):
            why = "the time is not finite"
            record = replace(record, status="nonfinite", measured=None, reason=why)
        text = json.dumps(record.to_dict())
        self._writing.append(json.loads(text, parse_constant=lambda _: None))
        return record

    @property
    def _writing(self) -> Writer:
        if self._writer is None:
            raise RuntimeError(f"begin(env) must come before append to {self.folder}")
        return self._writer

    def close(self) -> None:
        """Stop writing and let the next writer in; reading goes on."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def records(
        self, samples: bool = True, keys: Container[str] | None = None
    ) -> list[Record]:
        """One record for each key, `pooled` from the visits of its rounds on one host.

        keys: only of these, no other line being read.
        """
        return list(self.each(samples, keys))

    def each(
        self,
        samples: bool = True,
        keys: Container[str] | None = None,
        bad: list[BadLine] | None = None,
    ) -> Iterator[Record]:
        """The `records` one by one, none being held. bad: takes what is skipped."""
        visits: dict[str, list[list[Line]]] = {}
        bad = [] if bad is None else bad
        for lines in self._visits(keys, bad):
            visits.setdefault(lines[-1].key, []).append(lines)
        often = any(len(rounds) > 1 for rounds in visits.values())
        hosts = hosts_of(self.envs()) if often else {}
        with ExitStack() as files:
            read = partial(self._best, Files(self.folder, files), samples, bad)
            for own in visits.values():
                if rows := [row for row in map(read, own) if row]:
                    few = rows if len(rows) == 1 else of_one_host(rows, hosts)
                    yield pooled(few)

    def visits(self, samples: bool = True) -> list[Record]:
        """One record for each key and round, in the order of the store.

        The last "ok" row wins, else the last with another final status, else the last
        error: no later attempt hides a result. samples=False leaves the lists of raw
        samples empty: 10 000 rows of 3 x 500 samples are 0.1 GB instead of 1.
        """
        with ExitStack() as files:
            read = partial(self._best, Files(self.folder, files), samples, [])
            return [row for row in map(read, self._visits(None, [])) if row]

    def _visits(
        self, keys: Container[str] | None, bad: list[BadLine]
    ) -> list[list[Line]]:
        """The lines of each key and round, the one that counts last, by its place."""
        found: dict[tuple[str, int], list[tuple[int, int, Line]]] = {}
        index = Index(self.folder)
        bad += index.bad
        for place, line in enumerate(index.lines("record")):
            if keys is None or line.key in keys:
                own = rank(line.status), place, line
                found.setdefault((line.key, line.round), []).append(own)
        ranked = sorted(map(sorted, found.values()), key=lambda lines: lines[-1][1])
        return [[line for _, _, line in lines] for lines in ranked]

    def _best(
        self, files: Files, samples: bool, bad: list[BadLine], lines: list[Line]
    ) -> Record | None:
        """The record of the last line that holds one: the index has not seen all."""
        for line in reversed(lines):
            try:
                return Record.from_dict(files.data(line, samples))
            except NO_ROW as error:
                bad.append(BadLine(line.file, files.number(line), why_bad(error)))
        return None

    def attempts(self, samples: bool = True) -> Iterator[Record]:
        """Every good row: files by name (that is, by time), lines by place."""
        return (row for row in self._read(samples) if isinstance(row, Record))

    def seen(self, device: str, settings: Mapping[str, Any], round: int = 1) -> Seen:
        """What is known of each key (`row_key`) of this device and settings."""
        wanted, found = (device, digest(dict(settings))), Seen()
        for row in self._rows("record", "start"):
            if (row.device, row.settings_key) != wanted:
                continue
            if row.kind == "start":
                found.starts[row.key] += 1
            elif row.round == round or row.status in DIED:
                found.add(row.key, row.status)
        return found

    def envs(self) -> dict[str, dict[str, Any]]:
        """Each environment by its digest, as it was given to `begin`."""
        lines = {line.key: line for line in self._rows("env")}
        with ExitStack() as stack:
            read = Files(self.folder, stack).data
            found = {key: read(line) for key, line in lines.items()}
        return {
            key: {n: v for n, v in row.items() if n not in _OWN}
            for key, row in found.items()
        }

    def health(self) -> Health:
        """Read everything and count it; a bad line is listed here and never raised."""
        rows, starts, poison, envs = Counter[Any](), Counter[Any](), set(), 0
        bad: list[BadLine] = []
        for row in self._read():
            if isinstance(row, BadLine):
                bad.append(row)
            elif isinstance(row, Record):
                rows[str((row.key, row.round, row.run, row.attempt))] += 1
                poison |= {row.key} if row.status == "poison" else set()
            elif row["kind"] == "start":
                names = ("key", "round", "run", "attempt")
                starts[str(tuple(row.get(name, "") for name in names))] += 1
            else:
                envs += 1
        counts = len(store_files(self.folder)), rows.total(), envs
        left = starts.total(), len(starts.keys() - rows.keys())
        doubled = rows.total() - len(rows)
        return Health(*counts, bad, self.torn(), *left, doubled, len(poison))

    def torn(self) -> list[str]:
        """The files that hold a part of a line, and those that end in one."""
        aside = sorted(path.name for path in self.folder.glob("*.jsonl.torn"))
        return aside + [p.name for p in store_files(self.folder) if torn_tail(p)]

    def _rows(self, *kinds: str) -> Iterator[Line]:
        return Index(self.folder).lines(*kinds)

    def _read(self, samples: bool = False) -> Iterator[Read]:
        """Each line: a record, the data of another kind, or bad."""
        yield from links_out(self.folder)
        for path in store_files(self.folder):
            with path.open("rb") as file:
                for _, number, line in whole_lines(file):
                    try:
                        data = line_data(line, samples=samples)
                        record = data["kind"] == "record"
                        yield Record.from_dict(data) if record else data
                    except NO_ROW as error:
                        yield BadLine(path.name, number, why_bad(error))


def _is_finite(times: Estimate | Measurement) -> bool:
    return all(math.isfinite(getattr(times, name)) for name in TIMES)


def rank(status: str) -> int:
    """What hides what: "ok" any other status, a final one those that are not."""
    return (status == "ok") + (status in FINAL)

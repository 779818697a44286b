"""The store: a folder of JSONL files, one for each writer, that survives any kill.

A row that `append` returned from is on disk. Rows are never changed or removed.
"""

from __future__ import annotations

import errno
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from fastlab.record import DIED, SAMPLES, SCHEMA, Measurement, Record, unseal
from fastlab.spec.checks import digest
from fastlab.sweeps.writer import Writer, store_files, torn_tail

# Others are not final: such a row is tried again by the next sweep.
FINAL = ("ok", "oom", "unsupported", "nonfinite", "poison")
_WORDS = ("key", "settings_key", "env", "device", "status")
_NEEDED: dict[str, dict[str, type]] = {
    "record": dict.fromkeys(_WORDS, str) | {"round": int},
    "env": {"env": str},
    "start": dict.fromkeys(("key", "settings_key", "device"), str) | {"round": int},
}
_NO_ROW = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_OWN = ("schema", "kind", "env", "crc32")


@dataclass(frozen=True)
class BadLine:
    """A line that readers skip: its file's name, its number from 1, and why."""

    file: str
    line: int
    why: str


@dataclass(frozen=True)
class Health:
    """What a store holds: counts of good rows, the lines skipped, the torn tails.

    `torn` names the files that hold or still end in a part of a line; `starts` counts
    the attempts that said when they began.
    """

    files: int
    records: int
    envs: int
    bad: list[BadLine]
    torn: list[str]
    starts: int = 0


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

    def begin(self, env: Mapping[str, Any]) -> Self:
        """Make the folder, lock it, set torn tails aside; `env` is this writer's line.

        Raises StoreBusy naming the process that holds the lock, ValueError or TypeError
        if `env` is not JSON or uses a name of the line's own, OSError if not writable.
        """
        taken = [n for n in _OWN if n in env]
        if taken:
            raise ValueError(f"env must not name {', '.join(taken)}: set by the store")
        line = {"schema": SCHEMA, "kind": "env", "env": digest(dict(env)), **env}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self.folder, line)
        return self

    def start(self, **about: Any) -> None:
        """Say that an attempt begins: key, settings_key, device, round, attempt, run.

        Where no row of that attempt follows, the planner was killed before its end.
        """
        self._writing.append({"schema": SCHEMA, "kind": "start", **about}, False)

    def append(self, record: Record) -> None:
        """Write one row and wait until it is on disk; an empty env becomes this one.

        Raises OSError naming the file if the row could not be written whole (nothing
        of it stays), StoreGone where the folder is no more, RuntimeError before
        `begin`. NaN is stored as null, a time that is one as no measurement.
        """
        if record.measured and not math.isfinite(record.measured.seconds):
            why = "the time is not finite"
            record = replace(record, status="nonfinite", measured=None, reason=why)
        text = json.dumps(record.to_dict())
        self._writing.append(json.loads(text, parse_constant=lambda _: None))

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

    def records(self, samples: bool = True) -> list[Record]:
        """One record for each key, `pooled` from the visits of its rounds."""
        visits: dict[str, list[Record]] = {}
        for row in self.visits(samples):
            visits.setdefault(row.key, []).append(row)
        return [pooled(rows) for rows in visits.values()]

    def visits(self, samples: bool = True) -> list[Record]:
        """One record for each key and round, in the order of the store.

        The last "ok" row wins, else the last with another final status, else the last
        error: no later attempt hides a result. samples=False leaves the lists of raw
        samples empty: 10 000 rows of 3 x 500 samples are 0.1 GB instead of 1.
        """
        best: dict[tuple[str, int], tuple[int, Record]] = {}
        for row in self.attempts(samples):
            own, name = rank(row.status), (row.key, row.round)
            if name not in best or own >= best[name][0]:
                best.pop(name, None)  # the place is the winner's
                best[name] = (own, row)
        return [row for _, row in best.values()]

    def attempts(self, samples: bool = True) -> Iterator[Record]:
        """Every good row: files by name (that is, by time), lines by place."""
        return (row for row in self._read(samples) if isinstance(row, Record))

    def seen(self, device: str, settings: Mapping[str, Any], round: int = 1) -> Seen:
        """What is known of each key (`row_key`) of this device and settings."""
        wanted, found = (device, digest(dict(settings))), Seen()
        for row in self._rows("record", "start"):
            if (row["device"], row["settings_key"]) != wanted:
                continue
            if row["kind"] == "start":
                found.starts[row["key"]] += 1
            elif row["round"] == round or row["status"] in DIED:
                found.add(row["key"], row["status"])
        return found

    def envs(self) -> dict[str, dict[str, Any]]:
        """Each environment by its digest, as it was given to `begin`."""
        return {
            row["env"]: {n: v for n, v in row.items() if n not in _OWN}
            for row in self._rows("env")
        }

    def health(self) -> Health:
        """Read everything and count it; a bad line is listed here and never raised."""
        rows, files = list(self._read()), store_files(self.folder)
        kinds = Counter(r["kind"] if isinstance(r, dict) else type(r) for r in rows)
        bad = [row for row in rows if isinstance(row, BadLine)]
        torn = sorted(p.name for p in self.folder.glob("*.jsonl.torn"))
        torn += [p.name for p in files if torn_tail(p)]
        counts = len(files), kinds[Record], kinds["env"]
        return Health(*counts, bad, torn, kinds["start"])

    def _rows(self, *kinds: str) -> Iterator[dict[str, Any]]:
        for row in self._read(whole=False):
            if isinstance(row, dict) and row["kind"] in kinds:
                yield row

    def _read(
        self, samples: bool = False, whole: bool = True
    ) -> Iterator[Record | dict[str, Any] | BadLine]:
        """Each line: a record (whole=False: its plain data), an environment, or bad."""
        for path in store_files(self.folder):
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break  # torn, or still being written: its rest is no line
                    try:
                        data = _checked(unseal(line[:-1].decode(), samples=samples))
                        record = whole and data["kind"] == "record"
                        yield Record.from_dict(data) if record else data
                    except _NO_ROW as error:
                        yield BadLine(path.name, number, _why(error))


def rank(status: str) -> int:
    """What hides what: "ok" any other status, a final one those that are not."""
    return (status == "ok") + (status in FINAL)


def _why(error: Exception) -> str:
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return f"not JSON: {error}"
    missing = isinstance(error, KeyError)
    return f"the field {error} is missing" if missing else str(error)


def _checked(data: dict[str, Any]) -> dict[str, Any]:
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


def pooled(visits: Sequence[Record]) -> Record:
    """The record of a point that was visited once or more, by round.

    A machine is now faster, now slower, for minutes: visits spread over a sweep can
    tell, samples of one cannot.
    seconds: the median of the visits', from the shortest to the longest of which low_s
    to high_s reaches at least; samples in the order of the visits. All else is of the
    visit in the middle, what was lost of the first that knows it.
    """
    good = [visit for visit in visits if visit.measured and visit.status == "ok"]
    if len(good) < 2:
        return good[0] if good else visits[-1]
    times = [visit.measured for visit in good if visit.measured]
    place = sorted(range(len(good)), key=lambda n: times[n].seconds)
    middle = place[(len(place) - 1) // 2]
    judged = next((visit.quality for visit in visits if visit.quality), None)
    measured = _joined(times[middle], times)
    return replace(good[middle], measured=measured, quality=judged, round=1)


def _joined(one: Measurement, visits: Sequence[Measurement]) -> Measurement:
    seconds, half = [visit.seconds for visit in visits], len(visits) / 2
    noisy = sum("noisy" in visit.flags for visit in visits) > half
    flags = [flag for flag in one.flags if flag != "noisy"]
    samples: dict[str, Any] = {
        name: tuple(chain.from_iterable(getattr(visit, name) for visit in visits))
        for name in SAMPLES
    }
    return replace(
        one,
        seconds=statistics.median(seconds),
        low_s=min(one.low_s, *seconds),
        high_s=max(one.high_s, *seconds),
        n=sum(visit.n for visit in visits),
        converged=sum(visit.converged for visit in visits) > half,
        flags=tuple([*flags, "noisy"] if noisy else flags),
        **samples,
    )

"""The store on bad days: kills, torn tails, full disks, damage, two writers at once."""

import contextlib
import errno
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastlab
from fastlab.record import write_atomically
from fastlab.sweeps.lines import seal, store_files
from fastlab.sweeps.store import Health, Store
from tests.sweeps.made import ENV, TIMING, fill, row, seeds

KILLS = 16  # 50 of planners and workers: test_torture.py

# What writer processes run; `row` is that of made.py, with 3 x 500 samples (13 kB:
# Linux looks for SIGKILL between the pages of a write, so that lines can tear).
CHILD = """
import itertools, os, sys, time
from fastlab.record import Measurement
from fastlab.sweeps.store import Store
from tests.sweeps import made
folder, start, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ns = tuple(range(10**6, 10**6 + 500))
measured = Measurement(1., 1., 1., 500, True, "", "", 0, 1., (), ns, ns, ns)
def row(seed):
    return made.row(seed, measured=measured)
store = Store(folder).begin(made.ENV)
print("begun", flush=True)
"""
APPENDING = """
for seed in range(start, start + count):
    store.append(row(seed))
    os.write(1, b"%d\\n" % seed)
"""


def start(code: str, *args: object) -> subprocess.Popen[str]:
    """A writer process in a session of its own."""
    env = os.environ | {"PYTHONPATH": str(Path(fastlab.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def writer(folder: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write to `folder`; killed at the end."""
    process = start(CHILD + code, folder, 0, 200)
    assert process.stdout.readline() == "begun\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- damage


def three_rows() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (path,) = store_files(fill(Path(folder), [1, 2, 3]).folder)
        return path.read_bytes()


FILE = three_rows()
SIZE = len(FILE)
LAST = FILE[:-1].rindex(b"\n") + 1


@settings(max_examples=80)
@given(st.integers(0, SIZE) | st.integers(LAST, SIZE))
@example(0)
@example(LAST)
@example(LAST + 1)
@example(SIZE - 1)
@example(SIZE)
def test_a_cut_at_any_byte_loses_only_the_row_it_hits(cut):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = fill(folder, [0])
        last = folder / "zz-last.jsonl"
        last.write_bytes(FILE[:cut])
        whole = max(0, FILE[:cut].count(b"\n") - 1)  # the first line is the env's
        assert whole >= 2 or cut < LAST
        assert seeds(before) == [0, 1, 2, 3][: 1 + whole]
        tail = FILE[FILE[:cut].rfind(b"\n") + 1 : cut]
        assert before.health().torn == ([last.name] if tail else [])
        fill(folder, [9])
        assert sorted(seeds(before)) == [*range(1 + whole), 9]
        aside = folder / "zz-last.jsonl.torn"
        assert (aside.read_bytes() if aside.exists() else b"") == tail
        assert before.health().bad == []
        assert before.health().torn == ([aside.name] if tail else [])


def test_a_second_torn_tail_is_kept_beside_the_first(tmp_path):
    path = tmp_path / "a.jsonl"
    for tail in (b'{"half', b"\xff\x00other"):
        with path.open("ab") as file:
            file.write(tail)
        Store(tmp_path).begin(ENV).close()
    assert (tmp_path / "a.jsonl.torn").read_bytes() == b'{"half\n\xff\x00other'
    assert path.read_bytes() == b""


@settings(max_examples=150)
@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_a_row(place, mask):
    damaged = bytearray(FILE)
    damaged[place] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(FILE)
        rows = list(Store(folder).attempts())
        path.write_bytes(damaged)
        kept = list(Store(folder).attempts())
    assert all(r in rows for r in kept)
    joins = FILE[place : place + 1] == b"\n"  # two lines become a bad one
    assert len(kept) >= (1 if joins else 2)


def line_with(**over: object) -> bytes:
    return seal(row(5).to_dict() | over).encode()


def line_without(name: str) -> bytes:
    return seal({k: v for k, v in row(5).to_dict().items() if k != name}).encode()


GOOD = seal(row(5).to_dict()).encode()
ESTIMATE = {"model": "m", "profile": "p"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "empty, or longer than 16 MiB"),
        (b"{" * (2**24 + 1), "empty, or longer than 16 MiB"),
        (b"garbage", "not JSON: Expecting value"),
        (b"\xff\xfe\x00", "not JSON: 'utf-8' codec"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (GOOD[: len(GOOD) // 2], "not JSON: "),
        (b"[1]", "a store line must be a JSON object"),
        (b"{}", "crc32 does not fit the line"),
        (GOOD.replace(b'"ok"', b'"no"'), "crc32 does not fit the line"),
        (GOOD.replace(b'"crc32":', b'"crc32":1'), "crc32 does not fit the line"),
        (line_with(schema=2), "schema=2 is not 1 (newer): update fastlab to read it"),
        (line_with(schema="x"), "schema='x' is not 1"),
        (line_with(kind="end"), "kind='end' is not one of record, env, start"),
        (line_with(status="maybe"), "status='maybe' is not one of ok, oom"),
        (line_with(key=None), "key=None must be of type str"),
        (line_with(round="1"), "round='1' must be of type int"),
        (line_with(point={}), "Point needs shape"),
        (line_with(estimate=ESTIMATE), "Estimate needs parameters, flops"),
        (line_with(estimate=[]), "Estimate=[] must be a mapping"),
        (line_without("key"), "the field 'key' is missing"),
        (line_without("reason"), "the field 'reason' is missing"),
        (seal({"schema": 1, "kind": "env"}).encode(), "the field 'env' is missing"),
    ],
)
def test_a_bad_line_is_skipped_counted_and_says_why(tmp_path, line, why):
    lines = FILE.splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join([*lines[:2], line, b"\n", *lines[2:]]))
    store = Store(tmp_path)
    assert seeds(store) == [1, 2, 3]
    assert {row(n).key for n in (1, 2, 3)} <= store.seen("cpu", TIMING).done
    health = store.health()
    assert (health.records, health.envs, health.torn) == (3, 1, [])
    ((file, number, words),) = [(b.file, b.line, b.why) for b in health.bad]
    assert (file, number) == ("a.jsonl", 3)
    assert words.startswith(why)
    fill(tmp_path, [4])
    assert sorted(seeds(store)) == [1, 2, 3, 4]


# ---- two at once


def test_a_second_writer_is_told_who_holds_the_store(tmp_path):
    with writer(tmp_path, "time.sleep(3600)") as holder:
        with pytest.raises(RuntimeError) as caught:
            Store(tmp_path).begin(ENV)
        words = str(caught.value)
        assert type(caught.value).__name__ == "StoreBusy"
        assert f"by process {holder.pid} on {socket.gethostname()} since 20" in words
        assert f"({sys.executable} -c ' import itertools, os, sys, " in words
        assert "reading needs no lock" in words
        assert seeds(Store(tmp_path)) == []
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert seeds(fill(tmp_path, [3])) == [3]


def test_a_second_begin_in_one_process_says_so_and_an_unsigned_lock_holds(tmp_path):
    with Store(tmp_path).begin(ENV) as first:
        with pytest.raises(RuntimeError, match="this process: close"):
            Store(tmp_path).begin(ENV)
        (tmp_path / ".lock").write_text("{")
        with pytest.raises(RuntimeError, match="by process unknown on unknown"):
            Store(tmp_path).begin(ENV)
        first.append(row(0))
    assert seeds(fill(tmp_path, [1])) == [0, 1]


def test_without_fcntl_one_far_byte_is_locked(tmp_path, monkeypatch):
    held: list[tuple[int, int, int]] = []

    def locking(fd: int, mode: int, count: int) -> None:
        if held:
            raise PermissionError(errno.EACCES, "locked")
        held.append((os.lseek(fd, 0, os.SEEK_CUR), mode, count))

    monkeypatch.setitem(sys.modules, "fcntl", None)
    fake = SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    with Store(tmp_path).begin(ENV):
        assert held == [(2**30, 2, 1)]
        with pytest.raises(RuntimeError, match=f"by process {os.getpid()} on "):
            Store(tmp_path).begin(ENV)


def test_readers_beside_a_writer_see_rows_come_and_nothing_bad(tmp_path):
    with writer(tmp_path, APPENDING) as process:
        looks: list[list[Health]] = [[], []]

        def read(seen: list[Health]) -> None:
            while len(seen) < 2 or process.poll() is None:
                seen.append(Store(tmp_path).health())

        readers = [threading.Thread(target=read, args=(seen,)) for seen in looks]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    for seen in looks:
        counts = [health.records for health in seen]
        assert counts == sorted(counts)
        assert all(health.bad == [] for health in seen)
    assert seeds(Store(tmp_path)) == list(range(200))


def test_the_rest_of_a_line_is_not_taken_for_a_line(tmp_path, monkeypatch):
    fill(tmp_path, [1, 2, 3])

    # At the first look the file ends within its last line, at the next it does not.
    looks = [FILE[: LAST + 9], b"", FILE[LAST + 9 :], b""]

    class Growing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data = looks.pop(0)
            buffer[: len(data)] = data
            return len(data)

    def opened(*_: object) -> io.BufferedReader:
        return io.BufferedReader(Growing(), 2 * SIZE)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        found = list(Store(tmp_path)._read())
    assert found == list(Store(tmp_path)._read())[:-1]


# ---- kill -9


def test_no_kill_loses_or_doubles_a_row(tmp_path):
    chance = random.Random(0)
    told: list[int] = []
    for n in range(KILLS):
        process = start(CHILD + APPENDING, tmp_path, n * 10**6, 10**6)
        # Every fourth is killed while it starts, the others after two rows or more.
        lines = chance.randint(3, 9) if n % 4 else 0
        out = "".join(process.stdout.readline() for _ in range(lines))
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        out += process.communicate()[0]
        told += [int(line) for line in out.split() if line != "begun"]
    store = Store(tmp_path)
    store.begin(ENV).close()
    found = seeds(store)
    assert len(told) >= KILLS
    assert set(told) <= set(found)
    assert len(found) == len(set(found))
    assert len(found) - len(told) <= KILLS  # written, not yet told: one for each kill
    health = store.health()
    assert health.bad == []
    assert len(health.torn) <= health.files <= KILLS
    assert all(b"\n" not in (tmp_path / t).read_bytes() for t in health.torn)


# ---- full disks


def test_a_file_size_limit_stops_the_row_and_not_the_store(tmp_path):
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    for seed in itertools.count():
        store.append(row(seed))
except OSError as error:
    print(seed, error, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.append(row(seed))
"""
    process = start(CHILD + code, tmp_path, 0, 0)
    out = process.communicate()[0].splitlines()[1]
    assert process.returncode == 0
    first, _ = store_files(tmp_path)
    sizes = [len(line) for line in first.read_bytes().splitlines(keepends=True)]
    stopped = (100_000 - sizes[0]) // max(sizes)  # rows that fit behind the env line
    assert len(sizes) - 1 == stopped
    assert out.startswith(f"{stopped} [Errno ")
    assert "this row was not kept, those before it are safe" in out
    assert out.endswith(f"'{first}'")
    assert first.read_bytes().endswith(b"\n")
    assert seeds(Store(tmp_path)) == list(range(stopped + 1))
    assert Store(tmp_path).health() == Health(2, stopped + 1, 2, [], [])


def short(fd: int, data: bytes) -> int:
    return REAL_WRITE(fd, data[: len(data) // 2])


def full(fd: int, data: bytes) -> int:
    REAL_WRITE(fd, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def stopped(fd: int, data: bytes) -> int:
    REAL_WRITE(fd, data[: len(data) // 2])
    raise KeyboardInterrupt


def failed(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


REAL_WRITE = os.write


@pytest.mark.parametrize(
    ("call", "fault", "error", "words"),
    [
        ("write", short, OSError, r"Errno 28.*only \d+ of \d+ bytes fitted.*jsonl"),
        ("write", full, OSError, r"Errno 28.*No space left.*was not kept.*jsonl"),
        ("fsync", failed, OSError, r"Errno 5.*Input/output.*was not kept.*jsonl"),
        ("write", stopped, KeyboardInterrupt, None),
    ],
)
@pytest.mark.parametrize("before", [[], [1, 2]])
def test_a_row_that_fails_is_cut_back_and_may_be_tried_again(
    tmp_path, monkeypatch, before, call, fault, error, words
):
    store = Store(tmp_path)
    with store.begin(ENV):
        for seed in before:
            store.append(row(seed))
        sizes = [path.stat().st_size for path in store_files(tmp_path)] or [0]
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fault)
            with pytest.raises(error, match=words):
                store.append(row(3))
        assert [path.stat().st_size for path in store_files(tmp_path)] == sizes
        assert seeds(store) == before
        store.append(row(3))
        store.append(row(4))
    assert seeds(store) == [*before, 3, 4]
    assert (store.health().bad, store.health().torn) == ([], [])


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_keeps_rows_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refused)
    store = Store(tmp_path / "store")
    with store.begin(ENV):
        store.append(row(1))
    assert seeds(store) == [1]
    store_files(store.folder)[0].write_bytes(FILE[:-5])  # torn
    with store.begin(ENV):
        store.append(row(9))
    write_atomically(tmp_path / "a", lambda fresh: fresh.write_text("kept"))
    assert (tmp_path / "a").read_text() == "kept"


def test_only_a_full_disk_is_told_to_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call, fault, full_disk in (("write", full, True), ("fsync", failed, False)):
        with Store(tmp_path).begin(ENV) as store, monkeypatch.context() as patch:
            patch.setattr(os, call, fault)
            with pytest.raises(OSError, match="run again") as error:
                store.append(row(3))
        assert ("make room" in str(error.value)) == full_disk


def test_where_even_the_cut_fails_the_next_row_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with store.begin(ENV):
        store.append(row(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", short)
            patch.setattr(os, "ftruncate", failed)
            with pytest.raises(OSError, match="was not kept"):
                store.append(row(2))
        store.append(row(2))
        first, _ = store_files(tmp_path)
        assert store.health() == Health(2, 2, 2, [], [first.name])
    fill(tmp_path, [3])
    assert seeds(store) == [1, 2, 3]
    assert store.health() == Health(3, 3, 3, [], [first.name + ".torn"])


def test_a_tail_that_cannot_be_kept_aside_is_not_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(FILE[:-5])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failed)
        with pytest.raises(OSError, match="Input/output"):
            Store(tmp_path).begin(ENV)
    assert path.read_bytes() == FILE[:-5]
    assert sorted(seeds(fill(tmp_path, [9]))) == [1, 2, 9]  # and the lock was let go

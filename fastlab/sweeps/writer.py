"""The one writer of a store: whole lines, each on disk before the next.

One writer per folder, by a lock that the kernel drops when its holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import shlex
import socket
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fastlab.record import sync
from fastlab.sweeps.lines import seal, store_files

SIGNING_S = 0.05  # a holder signs just after it locks: wait so long before reading
FAR_BYTE = 1 << 30  # Windows forbids others to read the locked byte: lock none of ours
_WRITING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


class Writer:
    """The lock, and the file that rows go to; a failed write starts a new file."""

    def __init__(self, folder: Path, envs: list[dict[str, Any]]) -> None:
        self._folder, self._env = folder, envs[0]["env"]
        self._head = "\n".join(map(seal, envs))
        self._fd: int | None = None
        self._lock = take_lock(folder)
        try:
            for path in store_files(folder):
                _set_aside(path)
        except BaseException:
            self.close()
            raise

    def append(self, data: dict[str, Any], durable: bool = True) -> None:
        """Write one line, behind the env lines in a new file; see Store.

        durable=False does not wait for the disk: a killed process loses nothing, a
        power cut may.
        """
        if self._fd is None:
            self._fd = self._open()
        line = seal(data | {"env": data.get("env") or self._env})
        self._write(self._fd, line, durable)

    def _open(self) -> int:
        self._path = self._folder / _new_name()
        fd = os.open(self._path, _WRITING, 0o644)
        self._write(fd, self._head)
        _sync_folder(self._folder)
        return fd

    def _write(self, fd: int, line: str, durable: bool = True) -> None:
        data = line.encode() + b"\n"
        end = os.fstat(fd).st_size
        if not self._path.exists():  # what was deleted takes lines without a word
            why = "was deleted or moved while it was written to; this row was not kept"
            raise StoreGone(f"{self._folder} {why}")
        try:
            written = os.write(fd, data)
            if written < len(data):
                words = f"only {written} of {len(data)} bytes fitted"
                raise OSError(errno.ENOSPC, words)
            if durable:
                sync(fd)
        except BaseException as error:
            self._retreat(fd, end)
            if isinstance(error, OSError):
                raise _worded(error, self._path) from error
            raise

    def _retreat(self, fd: int, end: int) -> None:
        # Where even the cut fails, the next row goes to a new file, never behind a
        # part of a line; the next `begin` sets that part aside.
        self._fd = None
        with contextlib.suppress(OSError):
            os.ftruncate(fd, end)
        os.close(fd)

    def close(self) -> None:
        """Close the file, and with the lock's descriptor let the next writer in."""
        for fd in (self._fd, self._lock):
            if fd is not None:
                os.close(fd)


def _worded(error: OSError, path: Path) -> OSError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    kept = "this row was not kept, those before it are safe"
    then = "make room and run again" if full else "run again"
    return OSError(error.errno, f"{error.strerror}; {kept}: {then}", str(path))


def _new_name() -> str:
    utc = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    return f"{utc}-{host}-{os.getpid()}.jsonl"


def _sync_folder(folder: Path) -> None:
    # So that the file's name outlives a power cut; Windows and some file systems
    # cannot sync folders.
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def torn_tail(path: Path) -> bytes:
    """What follows the last newline: empty unless a write was torn."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read(1) in (b"", b"\n"):
            return b""
        file.seek(0)
        return file.read().rpartition(b"\n")[2]


def _set_aside(path: Path) -> None:
    tail = torn_tail(path)
    if not tail:
        return
    aside = path.with_name(path.name + ".torn")
    if aside.is_symlink():
        raise OSError(errno.EINVAL, "this must be a plain file: remove it", str(aside))
    with aside.open("ab") as torn:
        torn.write(b"\n" + tail if torn.tell() else tail)
        torn.flush()
        sync(torn.fileno())
    _sync_folder(path.parent)
    with path.open("rb+") as file:
        file.truncate(file.seek(0, os.SEEK_END) - len(tail))
        sync(file.fileno())


class StoreBusy(RuntimeError):
    """Another process writes to the store; the message says which and since when."""


class StoreGone(RuntimeError):
    """The store was deleted or moved while it was written to."""


def take_lock(folder: Path) -> int:
    """Lock `folder`/.lock for this process; returns the descriptor whose close unlocks.

    Raises StoreBusy naming the holder's pid, host, start (UTC) and command, and OSError
    where the folder cannot be written to or its file system has no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    path = folder / ".lock"
    if path.is_symlink() or path.is_dir():
        raise OSError(errno.EINVAL, "this must be a plain file: remove it", str(path))
    fd = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        if not _try_lock(fd):
            time.sleep(SIGNING_S)
            if not _try_lock(fd):
                raise StoreBusy(_words(folder, _holder(fd)))
        _sign(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(fd: int) -> bool:
    try:
        import fcntl
    except ImportError:
        msvcrt: Any = importlib.import_module("msvcrt")
        os.lseek(fd, FAR_BYTE, os.SEEK_SET)
        lock = partial(msvcrt.locking, fd, msvcrt.LK_NBLCK, 1)
    else:
        lock = partial(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        lock()
    except (BlockingIOError, PermissionError):  # the second is Windows'
        return False
    return True


def _sign(fd: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(shlex.join(sys.orig_argv).split())[:200],
    }
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, json.dumps(holder).encode())


def _holder(fd: int) -> dict[str, Any]:
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(fd, 4096))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _words(folder: Path, holder: dict[str, Any]) -> str:
    names = ("pid", "host", "since", "command")
    pid, host, since, command = (holder.get(n, "unknown") for n in names)
    advice = "wait for it, end it, or write to another folder (reading needs no lock)"
    if (pid, host) == (os.getpid(), socket.gethostname()):
        advice = "that is this process: close() the store that it began before"
    return (
        f"{folder} is being written to by process {pid} on {host} since {since} "
        f"({command}); {advice}"
    )

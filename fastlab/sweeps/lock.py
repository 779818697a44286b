"""One writer per folder: a lock that the kernel drops when its holder dies."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIGNING_S = 0.05  # a holder signs just after it locks: wait so long before reading
FAR_BYTE = 1 << 30  # Windows forbids others to read the locked byte: lock none of ours


class StoreBusy(RuntimeError):
    """Another process writes to the store; the message says which and since when."""


def take_lock(folder: Path) -> int:
    """Lock `folder`/.lock for this process; returns the descriptor whose close unlocks.

    Raises StoreBusy naming the holder's pid, host, start (UTC) and command, and OSError
    where the folder cannot be written to or its file system has no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    fd = os.open(folder / ".lock", flags, 0o644)
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
        return _try_lock_windows(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_windows(fd: int) -> bool:
    msvcrt: Any = importlib.import_module("msvcrt")
    os.lseek(fd, FAR_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    except PermissionError:
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

"""Checks of folders: results, the data that comes with fastlab, a store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastlab.health.report import Finding, Subject
from fastlab.words import si

LEAST_FREE = 2**30
SHOWN_LINES = 3
BAD_FIX = (
    "bad lines are skipped, their points measured again by the same sweep; delete the "
    "lines named here to be rid of this"
)
TAIL_FIX = "start the same sweep again: it sets the tail aside and goes on"


def results(_: Subject) -> Iterator[Finding]:
    """Whether results/ can be written, and has a gigabyte left."""
    from fastlab.notebook.run import results_root

    root = results_root()
    place = next(p for p in (root, *root.parents) if p.is_dir())
    if not _writable(place):
        fix = f"work in a folder that is yours, or change the rights: `ls -ld {place}`"
        yield Finding("results", False, f"{place} cannot be written", fix)
        return
    free = shutil.disk_usage(place).free
    said, fix = f"{root.name}/, {si(free, 'B')} free", f"at least {si(LEAST_FREE, 'B')}"
    yield Finding("results", free >= LEAST_FREE, said, f"make room: {fix}")


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def data(_: Subject) -> Iterator[Finding]:
    """Whether the datasheet devices can be read, and what there is to replay."""
    from fastlab.latency.devices import devices
    from fastlab.notebook.run import reference_devices

    fix = "run fastlab from a whole checkout: `git status data` shows what is missing"
    try:
        yield Finding("data/devices.csv", True, f"{len(devices())} devices")
    except (OSError, ValueError) as error:
        yield Finding("data/devices.csv", False, str(error), fix)
    found, none = reference_devices(), "no rows to replay: notebooks measure here"
    ok = None if found == "nothing" else True
    yield Finding("data/reference", ok, f"rows to replay: {found}" if ok else none)


def store(subject: Subject) -> Iterator[Finding]:
    """Whether every line of the store can be read."""
    from fastlab.sweeps.store import Store

    folder = subject.store
    if folder is None:
        yield Finding("store", None, "none named (--store DIR)")
        return
    if not folder.is_dir():
        fix = "name a folder that `fastlab sweep` or `fastlab measure` wrote"
        yield Finding("store", False, f"{folder} is not a folder", fix)
        return
    health = Store(folder).health()
    said = f"{health.records} rows in {health.files} files of {folder}"
    if health.bad:
        lines = [f"{b.file} line {b.line}: {b.why}" for b in health.bad[:SHOWN_LINES]]
        said += f"; {len(health.bad)} bad: {'; '.join(lines)}"
    yield Finding("store", not health.bad, said, BAD_FIX)
    # A row cut off by a kill; those already set aside (.torn) are no trouble.
    live = [name for name in health.torn if not name.endswith(".torn")]
    said = f"torn: {', '.join(live)}"
    if not live:
        said = f"set aside earlier: {', '.join(health.torn)}"
    if health.torn:
        yield Finding("store tail", not live, said, TAIL_FIX)

"""Checks of Python, of the packages that fastlab stands on, and of folders."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from fastlab.health.report import Finding, Subject
from fastlab.words import si

ROOT = Path(__file__).parents[2]
INSTALL = (
    "run `make test`, or `.venv/bin/python -m pip install -e .` in the repository, "
    "then restart the kernel"
)
NOTEBOOKS_ONLY = ("ipywidgets", "papermill", "jupyterlab")
WITHOUT = {"nvidia-ml-py": "throttling and other processes on the GPU go unseen"}
_LINE = re.compile(r'^\s*"(?P<needs>[^"]+)",\s*# (?P<reason>.+)$', re.MULTILINE)


@dataclass(frozen=True)
class Need:
    """One dependency: its name and range, why it is there, and the extra it is in."""

    text: str
    reason: str
    extra: str = ""

    @property
    def name(self) -> str:
        """The distribution's name, as written in pyproject.toml."""
        return Requirement(self.text).name


def needs(pyproject: str, extras: Sequence[str] = ("gpu",)) -> list[Need]:
    """The dependencies in the text of a pyproject.toml, then those of `extras`."""
    import tomllib  # not at the top: doctor must be able to say that a Python is old

    project = tomllib.loads(pyproject)["project"]
    reasons = {m["needs"]: m["reason"].strip() for m in _LINE.finditer(pyproject)}
    groups = {"": project["dependencies"], **project.get("optional-dependencies", {})}
    return [
        Need(text, reasons.get(text, ""), extra)
        for extra in ("", *extras)
        for text in groups[extra]
    ]


def python_range(pyproject: str) -> str:
    """requires-python of a pyproject.toml: ">=3.11,<3.14"; ValueError without one."""
    found = re.search(r'^requires-python = "(.+)"', pyproject, re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml has no line requires-python = ...")
    return found[1]


def python(_: Subject) -> Iterator[Finding]:
    """Whether this Python is one that fastlab is tested on."""
    wanted, has = python_range(_pyproject()), platform.python_version()
    fix = f"make a new environment with a Python {wanted}: `make test PYTHON=...`"
    ok = Version(has) in SpecifierSet(wanted, prereleases=True)
    yield Finding("python", ok, f"{has} is {'' if ok else 'not '}in {wanted}", fix)


def packages(_: Subject) -> Iterator[Finding]:
    """Every dependency's version here, against its range in pyproject.toml."""
    for need in needs(_pyproject()):
        name, wanted = need.name, Requirement(need.text).specifier
        try:
            has = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield _missing(need)
            continue
        bounds = [Version(b.version) for b in wanted if b.operator == ">="]
        said = f"{name} {has} is not in {wanted}"
        if wanted.contains(has, prereleases=True):
            said = has
        elif bounds and Version(has) < bounds[0]:
            said = f"{name} {has} is older than {bounds[0]}"
        yield Finding(name, said == has, said, INSTALL)


def _missing(need: Need) -> Finding:
    if need.name in NOTEBOOKS_ONLY:
        return Finding(need.name, None, "not installed; needed for notebooks only")
    if need.extra:
        lost = WITHOUT.get(need.name, need.reason)
        return Finding(need.name, None, f"not installed, optional: {lost}")
    return Finding(need.name, False, f"not installed; for: {need.reason}", INSTALL)


def _pyproject() -> str:
    """The text of the checkout's pyproject.toml; without one fastlab does not work."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


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

"""Checks of Python and of the packages that fastlab stands on."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from fastlab.health.report import Finding, Subject

ROOT = Path(__file__).parents[2]
DISTRIBUTION = "fastlab-notebooks"
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
    wanted, has = _declared_python(), platform.python_version()
    fix = f"make a new environment with a Python {wanted}: `make test PYTHON=...`"
    ok = Version(has) in SpecifierSet(wanted, prereleases=True)
    said = f"{has} is in {wanted}" if ok else f"{has} is not in {wanted}"
    yield Finding("python", ok, said, fix)


def packages(_: Subject) -> Iterator[Finding]:
    """Every dependency's version here, against its range in pyproject.toml."""
    for need in _declared():
        yield _package(need)


def _package(need: Need) -> Finding:
    try:
        has = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return _missing(need)
    wanted = Requirement(need.text).specifier
    if wanted.contains(has, prereleases=True):
        return Finding(need.name, True, has)
    return Finding(need.name, False, _off(need.name, has, wanted), INSTALL)


def _missing(need: Need) -> Finding:
    if need.name in NOTEBOOKS_ONLY:
        return Finding(need.name, None, "not installed; needed for notebooks only")
    if need.extra:
        lost = WITHOUT.get(need.name, need.reason)
        return Finding(need.name, None, f"not installed, optional: {lost}")
    return Finding(need.name, False, f"not installed; for: {need.reason}", INSTALL)


def _off(name: str, has: str, wanted: SpecifierSet) -> str:
    """ "torch 2.9 is older than 2.11", or which range a version is out of."""
    for bound in wanted:
        if bound.operator == ">=" and Version(has) < Version(bound.version):
            return f"{name} {has} is older than {bound.version}"
    return f"{name} {has} is not in {wanted}"


def _declared_python() -> str:
    path = ROOT / "pyproject.toml"
    if path.is_file():
        return python_range(path.read_text(encoding="utf-8"))
    return str(metadata.metadata(DISTRIBUTION)["Requires-Python"])


def _declared() -> list[Need]:
    """The dependencies of the checkout, else of the installed distribution."""
    path = ROOT / "pyproject.toml"
    if path.is_file():
        return needs(path.read_text(encoding="utf-8"))
    required = map(Requirement, metadata.requires(DISTRIBUTION) or ())
    return [need for line in required if (need := _installed_need(line))]


def _installed_need(line: Requirement) -> Need | None:
    """A line of the metadata, None where it belongs to an extra other than gpu."""
    text = f"{line.name}{line.specifier}"
    if line.marker is None or line.marker.evaluate({"extra": ""}):
        return Need(text, "see pyproject.toml")
    if line.marker.evaluate({"extra": "gpu"}):
        return Need(text, "see pyproject.toml", "gpu")
    return None

"""environment.yml for conda, made from pyproject.toml: `python -m fastlab.environment`.

pyproject.toml is the truth. A comment behind a dependency is the reason for it, and
goes along.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

# Names on conda-forge where they differ. matplotlib there brings a Qt, this does not.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

_LINE = re.compile(r'^\s*"(?P<needs>[^"]+)",\s*# (?P<reason>.+)$', re.MULTILINE)
_HEAD = """\
# Made from pyproject.toml by `python -m fastlab.environment`: do not edit by hand.
#   conda env create -f environment.yml
#   conda activate fastlab
#   jupyter lab notebooks
"""
# conda hands this list to pip as a requirements file, where pip takes no --no-deps. All
# dependencies are in place by then, so that pip adds this checkout and nothing else.
_TAIL = """\
  - pip  # installs this checkout into the environment
  - pip:
      - -e .
"""


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

    @property
    def conda(self) -> str:
        """The same range under the name that conda-forge has for it."""
        name = CONDA_NAMES.get(self.name, self.name).lower()
        return name + self.text.removeprefix(self.name)


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


def environment(pyproject: str) -> str:
    """The text of environment.yml that belongs to the text of a pyproject.toml."""
    lines = [f"  - python{python_range(pyproject)}"]
    lines += [f"  - {need.conda}  # {need.reason}" for need in needs(pyproject)]
    channels = "channels:\n  - conda-forge\n  - nodefaults\n"
    listed = "\n".join(lines)
    return f"{_HEAD}name: fastlab\n{channels}dependencies:\n{listed}\n{_TAIL}"


def write(root: Path = ROOT) -> Path:
    """Write environment.yml beside the pyproject.toml in `root`; returns its path."""
    path = root / "environment.yml"
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    path.write_text(environment(text), encoding="utf-8")
    return path


if __name__ == "__main__":
    click.echo(write())

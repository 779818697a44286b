"""environment.yml for conda, from pyproject.toml: `python benchmarks/environment.py`.

pyproject.toml is the truth. A comment behind a dependency is the reason for it, and
goes along. With --floors it prints the lowest version of each dependency instead, as
constraints for pip.
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement

from fastlab.health.software import ROOT, Need, needs, python_range

# Names on conda-forge where they differ. matplotlib there brings a Qt, this does not.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

_HEAD = """\
# Made from pyproject.toml by `python benchmarks/environment.py`: do not edit by hand.
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


def conda(need: Need) -> str:
    """A dependency's range under the name that conda-forge has for it."""
    name = CONDA_NAMES.get(need.name, need.name).lower()
    return name + need.text.removeprefix(need.name)


def environment(pyproject: str) -> str:
    """The text of environment.yml that belongs to the text of a pyproject.toml."""
    lines = [f"  - python{python_range(pyproject)}"]
    lines += [f"  - {conda(need)}  # {need.reason}" for need in needs(pyproject)]
    channels = "channels:\n  - conda-forge\n  - nodefaults\n"
    listed = "\n".join(lines)
    return f"{_HEAD}name: fastlab\n{channels}dependencies:\n{listed}\n{_TAIL}"


def write(root: Path = ROOT) -> Path:
    """Write environment.yml beside the pyproject.toml in `root`; returns its path."""
    path = root / "environment.yml"
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    path.write_text(environment(text), encoding="utf-8")
    return path


def floors(pyproject: str) -> list[str]:
    """Each dependency at its lowest version; not torch, whose CPU builds are few."""
    ranges = [Requirement(need.text) for need in needs(pyproject, ("gpu", "dev"))]
    return [
        f"{each.name}=={part.version}"
        for each in ranges
        for part in each.specifier
        if part.operator == ">=" and each.name != "torch"
    ]


if __name__ == "__main__":
    if "--floors" in sys.argv:
        print(*floors((ROOT / "pyproject.toml").read_text("utf-8")), sep="\n")
    else:
        print(write())

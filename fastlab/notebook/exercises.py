"""The exercises: `fl.check.q05_1(answer)` says in words what is right, and why.

They are data: `notebooks/exercises/05.yaml` gives each the fields of its kind, a class
of kinds.py. Solutions and wrong answers are letters, rows, or texts that `expression`
reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fastlab.notebook.answers import naming
from fastlab.notebook.kinds import KINDS, Number, Prediction
from fastlab.spec.checks import suggest

FOLDER = Path(__file__).parents[2] / "notebooks" / "exercises"


def read_exercises(path: Path) -> Iterator[Number]:
    """The exercises of a file; ValueError names it, the exercise and the field."""
    with naming(path.name):
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            with naming(name):
                if not name.startswith(f"q{path.stem}_"):
                    raise ValueError(f"here names begin with q{path.stem}_")
                with naming("kind"):
                    kind = KINDS[entry.pop("kind")]
                if kind is not Prediction:
                    entry["text"] = entry.pop("solution")
                yield kind(name=name[1:], **entry)


@cache
def _all() -> dict[str, Number]:
    if not FOLDER.is_dir():
        raise FileNotFoundError(
            f"no exercises in {FOLDER}: they come with the notebooks, so run this from "
            "a clone of the repository, or from its unzipped archive"
        )
    files = sorted(FOLDER.glob("*.yaml"))
    return {each.name: each for path in files for each in read_exercises(path)}


def __getattr__(name: str) -> Any:
    if name == "EXERCISES":
        return _all()
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if found := _all().get(name.removeprefix("q")):
        return found
    raise AttributeError(f"there is no exercise {name!r}{suggest(name, __dir__())}")


def __dir__() -> list[str]:
    return ["EXERCISES", *(f"q{name}" for name in _all())]

"""The exercises: `fl.check.q05_1(answer)` says in words what is right, and why.

They are data: `notebooks/exercises/05.yaml` gives each the fields of its kind, a class
of kinds.py. Solutions and wrong answers are letters, rows, or texts that `expression`
reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fastlab.notebook.kinds import KINDS, Number, Prediction, naming

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
    for each in _all().values():
        if name == f"q{each.name}":
            return each
    near = get_close_matches(name, __dir__(), 1)
    advice = f"did you mean {near[0]}?" if near else "a name is as in q05_1"
    raise AttributeError(f"there is no exercise {name!r}: {advice}")


def __dir__() -> list[str]:
    return ["EXERCISES", *(f"q{name}" for name in _all())]

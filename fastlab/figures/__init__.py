"""Figures and their tables, a module for each subject: rows -> Figure.

Every name is `fl.figures.<subject>.<function>`, loaded when it is first used, so that a
new figure is a function in its subject's module and a cell that shows it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

SUBJECTS = tuple(module.name for module in iter_modules(__path__))


def __getattr__(name: str) -> Any:
    if name not in SUBJECTS:
        raise AttributeError(f"fastlab.figures has no {name!r}, but {SUBJECTS}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(SUBJECTS)

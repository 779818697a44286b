"""Runtimes, one a file: how each makes a point's call, and a decoder's steps, ready.

What each is and where it fits stands in fastlab/spec/engines.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from fastlab.runtime.engines.eager import Eager
    from fastlab.spec.point import Point


def engine_of(runtime: str) -> Eager:
    """What runs a runtime's calls: ENGINE of the file of that name."""
    engine: Eager = import_module(f"{__name__}.{runtime}").ENGINE
    return engine


def prepare(model: nn.Module, point: Point, device: str = "cpu") -> Any:
    """The point's call on the model: run(), reset(), compile_s; see `models.prepare`.

    Everything is compiled, captured and filled when this returns. Raises ValueError for
    what is `unsupported` on this machine's device.
    """
    from fastlab.machine import Here
    from fastlab.spec.unsupported import unsupported

    if reason := unsupported(point, Here(device)):
        raise ValueError(reason)
    return engine_of(point.recipe.runtime).prepare(model, point, device)

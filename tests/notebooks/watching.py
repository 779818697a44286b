"""Put into a kernel before a notebook's own cells: every figure is checked as shown."""

from __future__ import annotations

from fastlab.figures import explorer, grammar
from fastlab.notebook import run
from tests.figures.checks import faults


def begin() -> None:
    """From here on a figure with a fault ends its cell, naming it."""
    plain = grammar.show

    def show(figure, *args, **more):
        if found := faults(figure):
            raise AssertionError(f"{figure.tell()[:60]}: {found}")
        return plain(figure, *args, **more)

    run.show = explorer.show = show

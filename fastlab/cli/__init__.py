"""The command `fastlab`: predict, measure, sweep, run a notebook, generate text."""

from fastlab.cli import (
    measure,
    models,
    predict,
    run,
    scenario,
    score,
    search,
    stores,
    train,
)
from fastlab.cli.points import main

__all__ = ["main", "measure", "models", "predict", "run", "scenario", "score", "search"]
__all__ += ["stores", "train"]

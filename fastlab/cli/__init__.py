"""The command `fastlab`: predict, measure, sweep, run a notebook, generate text."""

from fastlab.cli import measure, models, predict, run, score, search, stores, train
from fastlab.cli.points import main

__all__ = ["main", "measure", "models", "predict", "run", "score", "search"]
__all__ += ["stores", "train"]

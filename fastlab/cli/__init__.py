"""The command `fastlab`: predict, measure, sweep, run a notebook, talk with a model."""

from fastlab.cli import measure, models, predict, run, score, stores, train, winner
from fastlab.cli.points import main

__all__ = [
    "main",
    "measure",
    "models",
    "predict",
    "run",
    "score",
    "stores",
    "train",
    "winner",
]

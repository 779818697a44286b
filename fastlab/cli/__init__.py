"""The command `fastlab`: predict, measure, search, run notebooks, talk with a model."""

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
    winner,
)
from fastlab.cli.points import main

__all__ = [
    "main",
    "measure",
    "models",
    "predict",
    "run",
    "scenario",
    "score",
    "search",
    "stores",
    "train",
    "winner",
]

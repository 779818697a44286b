"""A language model so small that a notebook trains it while the reader waits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastlab.notebook.run import results_root
from fastlab.spec.shape import ModelShape

# Modules of the standard library that the small model reads: 0.4 MB of Python.
READ = ("argparse", "tempfile", "pathlib", "datetime", "inspect", "socket", "typing")
TINY = ModelShape(
    *("llama", 2, 128, 4, 2, 32, 384), vocab=512, max_positions=512, tied=True
)


def tiny_lm_folder(seconds: float) -> Path:
    """The folder of a model of 0.6 M parameters, trained once on Python's sources.

    So few seconds teach it how code looks and nothing of what it means. Kept under
    results/.
    """
    from fastlab.checkpoints import without_bars
    from fastlab.learning.loop import Training
    from fastlab.learning.training import Run, train

    folder = results_root() / "small-model" / f"{seconds:g}s"
    if not (folder / "final" / "run.json").exists():
        files = [spec.origin for n in READ if (spec := find_spec(n)) and spec.origin]
        run = Run(TINY, Training(batch=16, block=64, warmup=10), tuple(files))
        with without_bars():
            train(folder, run, minutes=seconds / 60)
    return folder / "final"

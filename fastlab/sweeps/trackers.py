"""Trackers: the rows of a sweep in TensorBoard, wandb or trackio too."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.record import Record
from fastlab.spec.checks import check_choice
from fastlab.words import one_line

if TYPE_CHECKING:
    import pandas as pd

HOMES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
HOMES |= {"trackio": "trackio"}
# Neither samples the machine: that takes time from what is measured.
WANDB = {"x_disable_stats": True, "silent": True, "console": "off"}
TRACKIO = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
FIGURE = "measured against estimated"


class Tracker:
    """What a sweep tells the tracker of this name, "" for none, until it is closed.

    folder: of the store; files are in its folder `track`, but trackio's in its own.
    Raises ValueError for an unknown name or an absent package. A tracker that fails
    later gets no more, which is said: what counts is the store.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder, self._step = name, folder.resolve(), 0
        self._run: Any = None  # logs and finishes as a run of wandb does
        if not name:
            return
        check_choice("track", name, HOMES)
        try:
            self._module = import_module(HOMES[name])
            _ = self._module.SummaryWriter if "." in HOMES[name] else self._module.init
        except (ImportError, AttributeError) as error:  # the last: a folder's name
            why = f"needs {name}: pip install {name} ({one_line(str(error), 200)})"
            raise ValueError(f"track={name!r} {why}") from None

    def begin(self, run: str, env: Mapping[str, Any]) -> None:
        """Open a run with the environment of its rows; wandb's mode is WANDB_MODE."""
        self._env, folder = dict(env), self._folder / "track"
        how: dict[str, Any] = {"project": "fastlab", "group": self._folder.name}
        how |= {"name": run, "config": self._env}
        with self._safely():
            if self._name == "tensorboard":
                self._run = _TensorBoard(self._module.SummaryWriter(str(folder / run)))
                self._run.log({"environment": _listed(self._env)}, 0)
            elif self._name == "wandb":
                folder.mkdir(parents=True, exist_ok=True)
                how |= {"mode": os.environ.get("WANDB_MODE", "offline"), "dir": folder}
                self._run = self._module.init(
                    **how, reinit="create_new", settings=WANDB
                )
            elif self._name:
                self._run = self._module.init(**how, **TRACKIO)

    def row(self, record: Record) -> None:
        """Log a record that is on disk, as the next step."""
        self._step += 1
        with self._safely():
            if self._run:
                self._run.log(columns(record, self._env), self._step)

    def figure(self, rows: pd.DataFrame) -> None:
        """Log the scatter of all rows, where matplotlib is there."""
        with self._safely(), suppress(ModuleNotFoundError):
            if self._run:
                from fastlab.figures.sweep import scatter

                image = getattr(self._module, "Image", lambda pixels: pixels)
                pixels = _pixels(scatter(rows).draw())
                self._run.log({FIGURE: image(pixels)}, self._step)

    def close(self) -> None:
        """End the run, whose files are whole then."""
        run, self._run = self._run, None
        with self._safely():
            if run:
                run.finish()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            run, self._run = self._run, None
            why = one_line(f"{type(error).__name__}: {error}", 300)
            words = f"{self._name} failed and gets no more, rows are kept: {why}"
            print(f"\n{words}", file=sys.stderr)
            with suppress(Exception):
                run.finish()


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._to, self.finish = writer, writer.close

    def log(self, values: Mapping[str, Any], step: int) -> None:
        texts = {name: v for name, v in values.items() if isinstance(v, str)}
        for name in values.keys() - texts.keys():
            if isinstance(value := values[name], float):
                self._to.add_scalar(name, value, step)
            else:
                self._to.add_image(name, value, step, dataformats="HWC")
        for name in texts:
            self._to.add_text(name, texts[name], step)


def columns(record: Record, env: Mapping[str, Any]) -> dict[str, float | str]:
    """The table's columns that a record has: numbers as floats, all else as texts.

    Those of its point are named point/COLUMN.
    """
    from fastlab.rows import QUESTION, table

    (row,) = table([record], {record.env: env}).to_dict("records")
    found: dict[str, float | str] = {"round": float(record.round)}
    for column, value in row.items():
        name = f"point/{column}" if column in QUESTION else str(column)
        if isinstance(value, int | float):
            found |= {name: float(value)} if math.isfinite(value) else {}
        elif value:
            found[name] = str(value)
    return found


def _listed(values: Mapping[str, Any]) -> str:
    return "    " + json.dumps(values, indent=1).replace("\n", "\n    ")


def _pixels(picture: Any) -> Any:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

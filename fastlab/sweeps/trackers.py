"""Trackers: the rows of a sweep in TensorBoard, wandb or trackio too."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from functools import wraps
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.record import Record
from fastlab.spec.checks import check_choice, digest
from fastlab.words import one_line

if TYPE_CHECKING:
    import pandas as pd

BEGINS = {"tensorboard": "SummaryWriter", "wandb": "init", "trackio": "init"}
FIGURE = "measured against estimated"
# Neither samples the machine: that takes time from what is measured.
QUIET = {"x_disable_stats": True, "silent": True, "console": "off"}
WANDB: dict[str, Any] = {"settings": QUIET, "reinit": "create_new"}
TRACKIO = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}


def _safely(do: Callable[..., object]) -> Callable[..., None]:
    """A method that does nothing without a tracker; one that fails gets no more."""

    @wraps(do)
    def done(self: Tracker, *what: Any) -> None:
        try:
            with redirect_stdout(sys.stderr):
                if self.name:
                    do(self, *what)
        except Exception as error:
            why = one_line(f"{type(error).__name__}: {error}", 300)
            words = f"{self.name} failed and gets no more; every row is kept: {why}"
            print(f"\n{words}", file=sys.stderr)
            self.name = ""
            with suppress(Exception):
                self._to.finish()

    return done


class Tracker:
    """What a sweep tells the tracker of this name, "" for none, until it is closed.

    folder: of the store; files are in its folder `track`, but trackio's in its own.
    Raises ValueError for an unknown name or an absent package. What goes wrong later is
    said and not raised: what counts is the store.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder, self._step = name, folder.resolve(), 0
        self._to: Any = None  # logs and finishes as a run of wandb does
        if name:
            check_choice("track", name, BEGINS)
            home = "torch.utils.tensorboard" if name == "tensorboard" else name
            try:  # a mere folder of that name is imported, but begins nothing
                self._module = import_module(home)
                self._begin = getattr(self._module, BEGINS[name])
            except Exception as error:
                why = f"pip install {name} ({one_line(str(error), 200)})"
                raise ValueError(f"track={name!r} needs {name}: {why}") from None

    @_safely
    def begin(self, run: str, env: Mapping[str, Any], *more: Mapping[str, Any]) -> None:
        """Open a run with the environments of its rows; wandb's mode is WANDB_MODE."""
        self._env, folder = dict(env), self._folder / "track"
        self._more = {digest(dict(other)): other for other in more}
        how: dict[str, Any] = {"project": "fastlab", "group": self._folder.name}
        how |= {"name": run, "config": self._env}
        if self.name == "tensorboard":
            self._to = _TensorBoard(self._begin(str(folder / run)))
            text = json.dumps(self._env, indent=1)
            self._to.log({"environment": f"```\n{text}\n```"}, 0)
        elif self.name == "wandb":
            folder.mkdir(parents=True, exist_ok=True)
            mode = os.environ.get("WANDB_MODE", "offline")
            self._to = self._begin(**how, **WANDB, dir=str(folder), mode=mode)
        else:
            self._begin(**how, **TRACKIO)
            self._to = self._module

    @_safely
    def row(self, record: Record) -> None:
        """Log a record that is on disk, as the next step."""
        self._step += 1
        self._to.log(columns(record, self._more.get(record.env, self._env)), self._step)

    @_safely
    def figure(self, rows: pd.DataFrame) -> None:
        """Log the scatter of all rows."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from numpy import asarray

        from fastlab.figures.sweep import scatter

        drawn = FigureCanvasAgg(scatter(rows).draw())
        drawn.draw()
        image = getattr(self._module, "Image", asarray)(asarray(drawn.buffer_rgba()))
        self._to.log({FIGURE: image}, self._step)

    @_safely
    def close(self) -> None:
        """End the run, whose files are whole then."""
        if self._to:
            self._to.finish()
        self.name = ""


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._to, self.finish = writer, writer.close

    def log(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, float):
                self._to.add_scalar(name, value, step)
            elif isinstance(value, str):
                self._to.add_text(name, value, step)
            else:
                self._to.add_image(name, value, step, dataformats="HWC")


def columns(record: Record, env: Mapping[str, Any]) -> dict[str, float | str]:
    """The table's columns that a record has: numbers as floats, all else as texts.

    Those of its point are named point/COLUMN.
    """
    from fastlab.rows import QUESTION, table

    (row,) = table([record], {record.env: env}).to_dict("records")
    own = {f"point/{n}" if n in QUESTION else str(n): v for n, v in row.items()}
    numbers = {n: v for n, v in own.items() if isinstance(v, int | float)}
    texts = {n: v for n, v in own.items() if isinstance(v, str) and v}
    known = {n: float(v) for n, v in numbers.items() if isfinite(v)}
    return known | texts | {"round": float(record.round)}

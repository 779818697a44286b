"""Rows with worked numbers: 2 x 2 sizes, fp32 and bf16, prefill and decode."""

from dataclasses import replace
from typing import Any

import pandas as pd

import fastlab as fl
from fastlab.latency.devices import Device
from fastlab.record import Measurement, Record
from fastlab.spec import Point

SETTINGS = {"budget_s": 1.0}


def measurement(seconds: float, n: int = 20, spread: float = 0.02) -> Measurement:
    """A converged measurement with an interval of +- `spread`."""
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    return Measurement(seconds, low, high, n, True, "converged", "warm", 3, seconds)


def record(point: Point, device: Device, factor: float, **over: object) -> Record:
    """A record that was measured at `factor` times its estimate."""
    made = fl.estimate([point], device)[0]
    seconds = made.seconds * factor
    plain = Record(point, device.name, SETTINGS, "ok", made, measurement(seconds))
    return replace(plain, at_utc="2026-01-02T03:04:05.000+00:00", **over)


def one(rows: pd.DataFrame, **values: object) -> dict[str, Any]:
    """The only row with these values in its columns."""
    for name, value in values.items():
        rows = rows[rows[name] == value]
    (row,) = rows.to_dict("records")
    return row


def texts(figure: Any, panel: int | None = None) -> list[str]:
    """What stands in a panel, or in all, beside ticks and titles."""
    every = figure.draw().axes
    chosen = every if panel is None else every[panel : panel + 1]
    return [text.get_text() for axes in chosen for text in axes.texts]

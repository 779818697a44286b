"""Rows with worked numbers: 2 x 2 sizes, fp32 and bf16, prefill and decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

import fastlab as fl
from fastlab.latency.devices import Device
from fastlab.record import Measurement, Record
from fastlab.spec import Point, grid

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


@pytest.fixture(scope="session")
def device() -> Device:
    return fl.device("h200")


@pytest.fixture(scope="session")
def points() -> list[Point]:
    return grid(
        family="llama",
        layers=[2, 4],
        hidden=[256, 512],
        precision=["fp32", "bf16"],
        phase=["prefill", "decode"],
        vocab=512,
    )


@pytest.fixture(scope="session")
def records(points: list[Point], device: Device) -> list[Record]:
    """Sixteen records: fp32 takes 1.2 times its estimate, bf16 half of it."""
    factors = {"fp32": 1.2, "bf16": 0.5}
    return [record(p, device, factors[p.recipe.precision]) for p in points]


@pytest.fixture(scope="session")
def rows(records: list[Record]) -> pd.DataFrame:
    return fl.table(records)


@pytest.fixture(scope="session")
def changed(records: list[Record]) -> Callable[..., pd.DataFrame]:
    """Rows where the record at a place is replaced by one with other fields."""

    def change(place: int, **over: object) -> pd.DataFrame:
        other = list(records)
        other[place] = replace(other[place], **over)
        return fl.table(other)

    return change

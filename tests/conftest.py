"""What all tests share: a cache folder of their own, a device with round numbers."""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# Before anything can import torch or transformers: no network, no other cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="fastlab-tests-")

import fastlab as fl
from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.record import Record
from fastlab.spec import Point, grid
from tests.figures.made import record

# An example may take as long as it takes: other programs may have the cores.
hypothesis_settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("patient")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same random numbers, alone or after others."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def profile() -> Device:
    """1 TFLOP/s fp32, 2 in 16 bit, 100 GB/s, 10 us a launch, 8 GiB."""
    return Device(
        name="round numbers",
        kind="cpu",
        peak_flops={"fp32": 1e12, "fp16": 2e12, "bf16": 2e12},
        bandwidth=1e11,
        memory_bytes=8 * 2**30,
        l2_bytes=2**25,
        launch_s=1e-5,
        price_per_hour=None,
        source="made up",
        date="2026-01-01",
        profile="datasheet:round",
    )


@pytest.fixture(scope="session")
def quick() -> Settings:
    """Timing settings that only want a number: three samples."""
    return Settings.for_device(
        "cpu", budget_s=0.01, n_min=3, n_max=3, warmup_calls=0, warmup_s=0.0
    )


@pytest.fixture
def in_tmp(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The working folder is a fresh one."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return str(folder)


# --- rows with worked numbers: 2 x 2 sizes, fp32 and bf16, prefill and decode


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

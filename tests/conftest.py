"""What all tests share: a cache folder of their own, a device with round numbers."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# Before anything can import torch or transformers: no network, no other cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="fastlab-tests-")

from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device

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

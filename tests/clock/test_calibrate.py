"""Calibration: plausible numbers, kept per machine, measured anew when broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlab.clock import calibrate as module
from fastlab.clock.timing import Settings
from fastlab.cost.devices import Device


def test_a_measured_device_is_a_device(
    monkeypatch: pytest.MonkeyPatch, quick: Settings
) -> None:
    monkeypatch.setattr(module, "PRODUCTS", {"cpu": ((64, 64, 64),)})
    monkeypatch.setattr(module, "COPY_BYTES", {"cpu": 2**20})
    device = module.calibrate("cpu", quick)
    assert device.calibrated
    assert device.kind == "cpu"
    assert 1e6 < device.peak_flops["fp32"] < 1e14
    assert 1e7 < device.bandwidth < 1e13
    assert 1e-7 < device.launch_s < 1e-1
    assert Device.from_dict(device.to_dict()) == device


def test_a_profile_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: Device
) -> None:
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "calibrate", lambda kind: calls.append(kind) or profile)
    assert module.this_device("cpu") == profile
    assert module.this_device("cpu") == profile
    assert calls == ["cpu"]
    module.this_device("cpu", refresh=True)
    assert calls == ["cpu", "cpu"]
    module.profile_path("cpu").write_text("{not JSON")
    module.this_device("cpu")
    assert len(calls) == 3


def test_a_folder_that_cannot_be_written_only_costs_the_keeping(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: Device
) -> None:
    (tmp_path / "fastlab").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "calibrate", lambda kind: profile)
    assert module.this_device("cpu") == profile

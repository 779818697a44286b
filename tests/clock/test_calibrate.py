"""Calibration: plausible numbers, kept per machine, measured anew when broken."""

import os
from pathlib import Path

import pytest

from fastlab import machine
from fastlab.clock import calibrate as module
from fastlab.latency.devices import Device


@pytest.mark.parametrize("fp8", [True, False])
def test_a_measured_device_has_a_peak_for_all_that_it_can_run(monkeypatch, quick, fp8):
    """A stand-in for an H100, or an A100: fp8 can be multiplied there, or cannot."""
    able = {"fp32", "bf16", *["fp8", "fp8-dynamic"] * fp8}
    monkeypatch.setattr(
        machine, "unsupported_reason", lambda kind, p: "" if p in able else "no"
    )
    monkeypatch.setattr(module, "PRODUCTS", {"cpu": ((64, 64, 64),)})
    monkeypatch.setattr(module, "COPY_BYTES", {"cpu": 2**20})
    device = module.calibrate("cpu", quick)
    assert device.calibrated
    assert set(device.peak_flops) == {"fp32", "bf16", *["fp8"] * fp8}
    assert all(1e3 < rate < 1e14 for rate in device.peak_flops.values())
    assert [p for p in ("bf16", "int8", "fp8", "fp8-dynamic") if device.can(p)] == [
        *("bf16", "int8"),
        *["fp8", "fp8-dynamic"] * fp8,
    ]
    assert 1e4 < device.bandwidth < 1e13
    assert 1e-7 < device.launch_s < 10
    assert Device.from_dict(device.to_dict()) == device


@pytest.fixture
def calls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: Device
) -> list[str]:
    """Kinds that were calibrated, each to `profile`, on a machine that stays so."""
    calls: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "calibrate", lambda kind: calls.append(kind) or profile)
    monkeypatch.setattr(module, "launch_overhead", lambda kind, settings: 1.1e-5)
    monkeypatch.setattr(module, "matmul_rate", lambda kind, p, settings: 0.8e12)
    monkeypatch.setattr(module, "is_contended", lambda cores, kind: False)
    return calls


def test_a_profile_is_measured_once(calls, profile):
    assert module.this_device("cpu") == profile
    assert module.this_device("cpu") == profile
    assert calls == ["cpu"]
    module.this_device("cpu", refresh=True)
    assert calls == ["cpu", "cpu"]
    module.profile_path("cpu").write_text("{not JSON")
    module.this_device("cpu")
    assert len(calls) == 3


def test_what_a_busy_neighbour_spoilt_serves_ten_minutes(monkeypatch, calls, profile):
    """1.0 TFLOP/s and 10 us before; a second look at 0.6 TFLOP/s disagrees."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "matmul_rate", lambda kind, p, settings: 0.6e12)
        assert module.this_device("cpu").busy == "a second look found other rates"
    module.this_device("cpu")
    assert len(calls) == 1
    path = module.profile_path("cpu")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 601))
    assert module.this_device("cpu") == profile
    assert len(calls) == 2
    # as profiles said it before they had a field for it
    path.write_text(path.read_text().replace(profile.source, "c. on a busy machine"))
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 601))
    assert module.this_device("cpu") == profile
    assert len(calls) == 3


def test_a_folder_that_cannot_be_written_only_costs_the_keeping(
    calls, tmp_path, profile
):
    (tmp_path / "fastlab").write_text("a file where a folder should be")
    assert module.this_device("cpu") == profile


def test_a_crowded_machine_marks_what_was_measured_on_it(monkeypatch, calls, profile):
    monkeypatch.setattr(module, "is_contended", lambda cores, kind: True)
    monkeypatch.setattr(module.CpuContention, "cores", lambda self: 1.2)
    found = module.this_device("cpu")
    assert found.busy == "other programs took 1.2 cores"
    assert Device.from_dict(found.to_dict()) == found
    assert "busy" not in profile.to_dict()

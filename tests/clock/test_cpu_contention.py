"""Cores that others took, worked out from two looks at the machine's ticks."""

import os
from pathlib import Path

import pytest
import torch

from fastlab.clock import cpu_contention as module
from fastlab.clock.cpu_contention import CpuContention, is_contended

# user nice system idle iowait irq softirq steal guest guest_nice, in ticks of 10 ms
BEFORE = "cpu  100 0 50 1000 20 0 0 0 0 0\ncpu0 50 0 25 500 10 0 0 0 0 0\n"
# 4 s later on two cores: 500 ticks of user, 60 of system, 30 stolen; 210 were idle.
# What a guest used stands in user already.
AFTER = "cpu  600 0 110 1200 30 0 0 30 400 0\ncpu0 50 0 25 500 10 0 0 0 0 0\n"


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    path.write_text(BEFORE)
    monkeypatch.setattr(module, "STAT", path)
    monkeypatch.setattr(module.os, "sysconf", lambda name: 100)
    return path


def at(monkeypatch: pytest.MonkeyPatch, now: float, ours: float) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    times = os.times_result((ours - 1, 0.5, 0.25, 0.25, 0))
    monkeypatch.setattr(module.os, "times", lambda: times)


def test_what_others_took_is_all_work_but_ours(stat, monkeypatch):
    at(monkeypatch, 10.0, 3.0)
    found = CpuContention(began=10.0, taken=module.all_seconds(), ours=3.0)
    assert found.taken == 1.5
    stat.write_text(AFTER)
    at(monkeypatch, 14.0, 6.9)  # 5.9 s of work in 4 s, 3.9 of them ours
    assert found.cores() == pytest.approx(0.5)


def test_a_moment_or_another_system_tells_nothing(stat, monkeypatch):
    at(monkeypatch, 10.4, 3.0)
    assert CpuContention(began=10.0, taken=1.0, ours=3.0).cores() is None
    for text in ("", "cpu", "cpu a b c d e"):
        stat.write_text(text)
        assert module.all_seconds() is None
    stat.unlink()
    assert CpuContention(0.0, module.all_seconds(), 0.0).cores() is None


@pytest.mark.parametrize(
    ("threads", "others", "kind", "verdict"),
    [
        (2, 1.7, "cpu", True),
        (2, 0.4, "cpu", False),
        (1, 1.0, "cpu", False),
        (1, 1.6, "cpu", True),
        (2, 1.2, "cuda", False),  # one thread drives a GPU
        (2, None, "cpu", False),
    ],
)
def test_two_cores_are_crowded_by_more_than_fit(
    monkeypatch, threads, others, kind, verdict
):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert is_contended(others, kind) is verdict

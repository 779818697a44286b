"""The traps in timing code, on a scripted clock and on fixed samples."""

from __future__ import annotations

import math
import time
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastlab.clock import traps
from fastlab.clock.clocks import CpuClock
from fastlab.clock.timing import Settings
from fastlab.clock.traps import Layer, Series, compiled, warm_and_cold
from tests.clock.test_timing import MS, FakeClock, timed

QUICK = Settings.for_device("cpu", budget_s=0.05, warmup_s=0.0, n_min=3, n_max=5)


def test_the_naive_loop_keeps_every_time_and_marks_the_first():
    series = Series.naive("loop", [0.5, 0.001, 0.0, -1.0], first=2)
    assert series.ns == (5e8, 1e6, 1.0, 1.0)  # a clock set back gives no time below 0
    assert series.first == 2
    with pytest.raises(ValueError, match="loop: the loop collected no times"):
        Series.naive("loop", [], first=2)


def test_without_a_synchronise_a_loop_reads_the_queueing():
    clock = FakeClock(device_ns=[10 * MS], enqueue_ns=MS)
    read = []
    for _ in range(5):
        start = clock.now_ns()
        clock.run()
        read.append(clock.now_ns() - start)
    assert read == [MS] * 5
    assert set(Series.of("ours", timed(FakeClock())).ns) == {10 * MS}


def test_a_layer_is_a_matrix_vector_product():
    layer = Layer.square(64)
    assert layer.bytes == 64 * 64 * 4
    wanted = torch.nn.functional.silu(layer.weights @ layer.token)
    torch.testing.assert_close(layer.run(), wanted)
    assert layer.reset() is None


@pytest.mark.parametrize("side", [8, 20_000, 64.0, True])
def test_a_layer_of_another_size_is_refused(side):
    with pytest.raises(ValueError, match=r"matrix_side=.* from 16 to 16384"):
        Layer.square(side)


def test_only_the_cold_series_flushes_the_cache():
    clock = FakeClock(device_ns=[MS])
    warm, cold = warm_and_cold(clock, QUICK, clock)
    assert (warm.name, cold.name) == ("warm", "cold")
    flushes = [i for i, word in enumerate(clock.log) if word == "flush"]
    assert len(flushes) >= 1 + len(cold.ns)
    assert flushes[0] > clock.log.index("run")


def test_a_compiled_layer_has_the_compiling_in_its_first_call(monkeypatch):
    host = count(0, MS)
    clock = SimpleNamespace(
        asynchronous=False,
        now_ns=lambda: next(host),
        mark=lambda: next(host),
        sync=lambda: None,
        between_ns=lambda a, b: b - a,
        state=CpuClock().state,
        flush=lambda: None,
    )

    def compile(work, backend, **_):
        first = iter([50])

        def run(*tensors):
            for _ in range(next(first, 0)):
                next(host)
            return work(*tensors)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    found = compiled(Layer.square(16), "eager", QUICK, clock)
    assert found.first_call_s == 0.052
    assert set(found.device_ns) == {MS}


def test_a_compiler_that_is_not_there_is_told_in_words(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no C++ compiler found\nsee the manual" * 50)

    monkeypatch.setattr(torch, "compile", fail)
    words = compiled(Layer.square(16), "inductor", QUICK, CpuClock())
    assert words == "did not work here: RuntimeError: no C++ compiler found"
    assert compiled(Layer.square(16), "none", QUICK, CpuClock()).startswith("not tried")
    with pytest.raises(ValueError, match="compiler='gcc' is not one of inductor"):
        compiled(Layer.square(16), "gcc", QUICK, CpuClock())


def test_the_smallest_step_of_a_clock():
    readings = iter([5, 5, 9, 9, 11, 10, 30])
    assert traps._step(lambda: next(readings), reads=7) == 2
    assert traps._step(lambda: 1, reads=3) == math.inf


def test_the_wall_clock_can_be_set_and_the_counter_cannot():
    wall, counter = traps.sources()
    assert (wall.name, counter.name) == ("time.time", "time.perf_counter_ns")
    assert wall.adjustable and not counter.adjustable
    assert wall.step_ns >= np.spacing(time.time()) * 1e9 / 2  # 238 ns since 2004

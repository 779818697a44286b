"""CudaClock and time_call on injected durations: every number is worked out by hand."""

import itertools
import sys
from functools import partial

import pytest
import torch

from fastlab.clock.clocks import CudaClock, GpuState
from fastlab.clock.timing import REDOS, Settings, time_call
from fastlab.health import hardware
from fastlab.health.report import Subject
from tests.cuda.standin import do_bench, standin

US = 1_000  # ns
MIB = 2**20


def settings(**over):
    plain = {"budget_s": 1.0, "warmup_calls": 2, "warmup_s": 0.0, "n_min": 10}
    return Settings.for_device("cuda", **{**plain, "target": 0.5, **over})


@pytest.fixture
def cell(gpu):
    return torch.ones(1, device="cuda")


def test_the_median_of_injected_durations_is_what_is_reported(gpu, cell):
    """Ten samples of 100, 110, ... 190 us (five warm-up calls and trips of 1 ms)."""
    clock = CudaClock()
    first = [1000 * US] * 3  # the first call and the two that warm up
    gpu.takes["add"] = itertools.chain(
        first, (n * US for n in range(100, 200, 10)), itertools.repeat(1000 * US)
    )
    found = time_call(partial(cell.add, 1), settings(n_max=10, target=0.001), clock)
    assert sorted(found.device_ns) == [n * US for n in range(100, 200, 10)]
    assert (found.seconds, found.n, found.stopped) == (145e-6, 10, "n_max")
    assert found.warmup_calls == 2
    assert len(found.e2e_ns) == 5


def test_each_sample_begins_with_a_flush_of_what_l2_cannot_hold(gpu, cell):
    """Of 60 MiB of L2 256 MiB are zeroed; of 100 MiB, 400. None where warm."""
    clock = CudaClock()
    seen: list[int] = []
    gpu.takes["zero_"] = lambda kernel: seen.append(kernel.writes[0][1]) or 50 * US
    found = time_call(partial(cell.add, 1), settings(), clock)
    # two of warm-up, the samples, five round trips; the first call is not flushed
    assert seen == [256 * MIB] * (2 + found.n + 5)
    seen.clear()
    time_call(partial(cell.add, 1), settings(cache="warm"), clock)
    assert seen == []
    with standin(l2_bytes=100 * MIB):
        larger = CudaClock()
        larger.flush()
        assert larger._buffer.nbytes == 400 * MIB


def test_a_flush_empties_the_cache(gpu):
    """48 MiB at 4 TB/s: 12.6 us; a quarter of it where L2 still holds them."""
    gpu.launch_ns = 1 * US  # as fast as no host is, or its launches would show
    clock, weights = CudaClock(), torch.ones(12 * MIB, device="cuda")
    total = partial(torch.sum, weights)
    cold, warm = (
        time_call(total, settings(cache=cache), clock).seconds
        for cache in ("cold", "warm")
    )
    assert cold == pytest.approx(48 * MIB / 4e12, rel=1e-3)
    assert warm == pytest.approx(cold / 4, rel=1e-3)


def test_gaps_between_launches_count_and_are_flagged(gpu, cell):
    """100 launches of 4 us with kernels of 2 us: 398 us and the last kernel's 2."""

    def run():
        for _ in range(100):
            cell.add(1)

    gpu.takes |= {"add": 2 * US, "zero_": 2 * US}
    found = time_call(run, settings(), CudaClock())
    assert set(found.device_ns) == {100 * 4 * US + 2 * US - 2 * US}
    assert set(found.enqueue_ns) == {400 * US}
    assert found.flags == ("launch_bound",)


def test_kernels_longer_than_their_launches_hide_them(gpu, cell):
    """Ten of 50 us behind a flush of 60: exactly 500 us, queued in 40."""
    gpu.takes |= {"add": 50 * US, "zero_": 60 * US}
    found = time_call(lambda: [cell.add(1) for _ in range(10)], settings(), CudaClock())
    assert set(found.device_ns) == {500 * US}
    assert set(found.enqueue_ns) == {40 * US}
    # The trip: the flush is over when it starts, the first launch ends after 4 us.
    assert set(found.e2e_ns) == {504 * US}
    assert found.flags == ()


def test_events_come_back_to_the_pool(gpu, cell):
    clock = CudaClock()
    made = gpu.calls["Event"]
    for _ in range(3):
        time_call(partial(cell.add, 1), settings(), clock)
    assert (gpu.calls["Event"], len(clock._pool)) == (made, 64)


@pytest.mark.parametrize("bit", [0x8, 0x20, 0x40, 0x80])
def test_a_throttled_block_is_redone_and_flagged(gpu, cell, plain_nvml, bit):
    """The state is read before, after each block, and at the end."""
    plain_nvml.reasons = [0x1, bit, 0]
    slow = itertools.chain([10 * US] * 3, [900 * US] * 10, itertools.repeat(10 * US))
    gpu.takes["add"] = slow
    before = gpu.host_ns
    found = time_call(partial(cell.add, 1), settings(), CudaClock())
    assert set(found.device_ns) == {10 * US}  # none of the block that was thrown away
    assert "throttled" in found.flags
    assert gpu.host_ns - before > 50e6  # it let the GPU cool for 50 ms


def test_a_gpu_that_stays_hot_is_measured_all_the_same(gpu, cell, plain_nvml):
    """Pauses of 50, 75 and 112.5 ms, then whatever comes is kept."""
    plain_nvml.reasons = [0x8]
    before = gpu.host_ns
    found = time_call(partial(cell.add, 1), settings(), CudaClock())
    assert (found.n, "throttled" in found.flags) == (10, True)
    assert plain_nvml.asked == 1 + REDOS + 1 + 1
    assert gpu.host_ns - before > (50 + 75 + 112.5) * 1e6


def test_a_power_cap_is_no_throttling_and_a_second_process_shares(
    gpu, cell, plain_nvml
):
    plain_nvml.reasons = [0x4]
    assert time_call(partial(cell.add, 1), settings(), CudaClock()).flags == (
        "launch_bound",
    )
    plain_nvml.pids = (4711, 815)
    flags = time_call(partial(cell.add, 1), settings(), CudaClock()).flags
    assert flags == ("launch_bound", "shared_gpu")


@pytest.mark.parametrize(
    ("lacks", "state"),
    [
        ("nvmlInit", GpuState()),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", GpuState(0, frozenset({4711}))),
        (
            "nvmlDeviceGetComputeRunningProcesses",
            GpuState(0x40, frozenset(), known=True),
        ),
    ],
)
def test_what_nvml_lacks_is_unknown(gpu, plain_nvml, lacks, state):
    plain_nvml.reasons, plain_nvml.lacks = [0x40], frozenset({lacks})
    assert CudaClock().state() == state


@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (1.02, True), (1.05, False)])
def test_times_agree_with_do_bench(gpu, monkeypatch, factor, ok):
    """Both take the median of event pairs behind a flush: of the same durations."""
    monkeypatch.setattr(
        sys.modules["triton.testing"],
        "do_bench",
        lambda *a, **k: factor * do_bench(*a, **k),
    )
    finding = hardware.do_bench_agrees("cuda")
    assert finding.ok is ok
    assert finding.said.endswith(f" = {1 / factor:.4f}" if ok else "by more than 3%")


def test_doctor_on_a_gpu(gpu, plain_nvml):
    subject = Subject("cuda", "cuda")
    assert all(f.ok for f in hardware.timer(subject)), [*hardware.timer(subject)]
    shared, clocks = hardware.sharing(subject)
    assert (shared.ok, shared.said) == (True, "no other process computes on it")
    assert (clocks.ok, clocks.said) == (True, "not slowed down")
    plain_nvml.reasons, plain_nvml.pids = [0x88], (1, 2, 3)
    shared, clocks = hardware.sharing(subject)
    assert (shared.ok, shared.said) == (False, "3 processes compute on it")
    assert (clocks.ok, clocks.said) == (False, "slowed down by heat or power")
    plain_nvml.lacks = frozenset({"nvmlInit"})
    [unknown] = hardware.sharing(subject)
    assert (unknown.ok, "NVML does not answer" in unknown.said) == (None, True)
    [where] = hardware.device(subject)
    assert where.said == "NVIDIA H200, 137 GB"

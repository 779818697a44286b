"""Every rule of time_call, driven by a scripted clock: no GPU, no wall clock."""

import gc
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from types import SimpleNamespace

import pytest

from fastlab.clock.clocks import (
    THROTTLED,
    CpuClock,
    GpuState,
    clock_for,
    read_state,
    state_reader,
)
from fastlab.clock.stats import summary
from fastlab.clock.timing import Settings, flags, time_call
from fastlab.spec.checks import canonical

MS = 1_000_000
HOT = GpuState(reasons=0x40, pids=frozenset({1}), known=True)
COOL = GpuState(reasons=0x1 | 0x4, pids=frozenset({1}), known=True)
WILD = (10, 40)  # ms of calls, in turns
CROWDED = GpuState(pids=frozenset({1, 2}), known=True)


@dataclass
class FakeClock:
    """A host and a device that queues work; also the call that keeps them busy."""

    asynchronous: bool = True
    device_ns: list = field(default_factory=lambda: [10 * MS])
    enqueue_ns: int = MS
    flush_ns: int = 5 * MS
    states: list = field(default_factory=lambda: [COOL])
    host: int = 0
    device: int = 0
    log: list = field(default_factory=list)

    def __post_init__(self):
        self._durations = cycle(self.device_ns)
        self._states = iter(self.states)
        self._state = self.states[-1]

    def now_ns(self):
        return self.host

    def mark(self):
        self.log.append("mark")
        self.device = max(self.device, self.host)
        return self.device

    def sync(self):
        self.log.append("sync")
        self.host = max(self.host, self.device)

    def between_ns(self, start, stop):
        return stop - start

    def flush(self):
        self._work("flush", self.flush_ns, 0)

    def state(self):
        self.log.append("state")
        self._state = next(self._states, self._state)
        return self._state

    def sleep(self, seconds):
        self.log.append(f"sleep {seconds:.4f}")
        self.host += round(seconds * 1e9)

    def run(self):
        self._work("run", next(self._durations), self.enqueue_ns)

    def reset(self):
        self._work("reset", 2 * MS, 0)

    def _work(self, name, device_ns, host_ns):
        self.log.append(name)
        self.device = max(self.device, self.host) + device_ns
        self.host = self.host + host_ns if self.asynchronous else self.device


def settings(**over):
    plain = {"warmup_calls": 2, "warmup_s": 0, "budget_s": 60}
    return Settings.for_device("cuda", **{**plain, **over})


def timed(clock, **over):
    return time_call(clock, settings(**over), clock)


def test_steady_calls_converge_at_n_min():
    found = timed(FakeClock())
    assert (found.stopped, found.converged, found.n) == ("converged", True, 50)
    assert (found.seconds, found.low_s, found.high_s) == (0.01, 0.01, 0.01)
    assert found.device_ns == (10 * MS,) * 50
    assert (found.cache, found.flags, found.peak_bytes) == ("cold", (), None)


@pytest.mark.parametrize(
    ("device_ms", "over", "stopped", "least", "most"),
    [
        (WILD, {"n_min": 10, "n_max": 33}, "n_max", 33, 33),
        # 32 ms each, with reset and flush; the last block is cut to what is left
        (WILD, {"budget_s": 2}, "budget", 61, 65),
        ((300,), {}, "converged", 10, 10),  # a slow call is judged from ten samples
        ((4000, 5000), {"budget_s": 1}, "budget", 3, 3),  # but never from fewer
    ],
)
def test_sampling_ends_for_a_reason(device_ms, over, stopped, least, most):
    found = timed(FakeClock(device_ns=[ms * MS for ms in device_ms]), **over)
    assert (found.stopped, found.converged) == (stopped, stopped == "converged")
    assert least <= found.n <= most
    assert found.low_s == device_ms[0] / 1e3
    assert found.high_s == device_ms[-1] / 1e3


def test_samples_come_in_blocks_with_one_sync():
    clock = FakeClock()
    timed(clock, warmup_calls=0)
    block = ["reset", "flush", "mark", "run", "mark"] * 10 + ["sync", "state"]
    first = ["state", "reset", "sync", "run", "sync"]
    assert clock.log[: len(first + block)] == first + block


def test_the_first_call_is_apart():
    found = timed(FakeClock(device_ns=[900 * MS] + [10 * MS] * 10_000))
    assert found.first_call_s == 0.9
    assert max(found.device_ns + found.e2e_ns) == 10 * MS


@pytest.mark.parametrize(
    ("over", "calls"),
    [
        ({"warmup_calls": 7, "warmup_s": 0}, 7),
        ({"warmup_calls": 0, "warmup_s": 0.1}, 6),  # 17 ms each: 6 x 17 >= 100
        ({"warmup_calls": 7, "warmup_s": 0.01}, 7),
        ({"warmup_calls": 1000, "warmup_s": 0, "warmup_cap_s": 0.05}, 3),
        ({"warmup_calls": 0, "warmup_s": 0}, 0),
    ],
)
def test_warm_up_by_count_by_time_and_its_cap(over, calls):
    assert timed(FakeClock(), **over).warmup_calls == calls


def test_reset_comes_once_before_each_run_and_outside_the_clock():
    clock = FakeClock()
    found = timed(clock)
    work = [word for word in clock.log if word in ("reset", "run")]
    assert work == ["reset", "run"] * (1 + 2 + 50 + 5)
    assert set(found.device_ns) | set(found.e2e_ns) == {10 * MS}  # 2 ms reset not in it


def test_the_flush_is_outside_the_clock_and_only_when_cold():
    cold, warm = FakeClock(), FakeClock()
    assert timed(cold).device_ns == timed(warm, cache="warm").device_ns
    assert cold.log.count("flush") == 2 + 50 + 5
    assert "flush" not in warm.log
    triples = zip(cold.log, cold.log[1:], cold.log[2:], strict=False)
    assert {a for a, *rest in triples if rest == ["mark", "run"]} == {"flush"}


def test_round_trips_are_separate_and_time_the_queueing():
    found = timed(FakeClock(enqueue_ns=3 * MS))
    assert found.e2e_ns == (10 * MS,) * 5
    assert found.enqueue_ns == (3 * MS,) * 5
    many = timed(FakeClock(device_ns=[ms * MS for ms in WILD]), n_max=800)
    assert len(many.e2e_ns) == 50


@pytest.mark.parametrize(("queueing_ms", "bound"), [(8, 0), (9, 1), (30, 1)])
def test_launch_bound_where_the_device_waits_for_the_host(queueing_ms, bound):
    """Of 10 ms: within a block the host runs ahead, so that an empty queue is timed."""
    found = timed(FakeClock(enqueue_ns=queueing_ms * MS))
    assert found.flags == ("launch_bound",) * bound


def test_a_host_clock_has_one_kind_of_sample():
    found = timed(FakeClock(asynchronous=False, enqueue_ns=10 * MS), cache="warm")
    assert found.e2e_ns == found.device_ns == (10 * MS,) * 50
    assert (found.enqueue_ns, found.flags) == ((), ())


def test_a_throttled_block_is_redone_and_owned_up_to():
    slow_block = [10 * MS] * 3 + [99 * MS] * 10 + [10 * MS] * 10_000
    clock = FakeClock(device_ns=slow_block, states=[COOL, HOT, COOL])
    found = timed(clock)
    assert max(found.device_ns) == 10 * MS
    assert found.flags == ("throttled",)
    assert [w for w in clock.log if "sleep" in w] == ["sleep 0.0500"]


def test_throttled_blocks_are_redone_three_times_then_kept():
    clock = FakeClock(states=[HOT])
    found = timed(clock)
    pauses = [w for w in clock.log if "sleep" in w]
    assert pauses == ["sleep 0.0500", "sleep 0.0750", "sleep 0.1125"]
    assert (found.n, found.stopped, found.flags) == (50, "converged", ("throttled",))
    assert clock.log.count("run") == 1 + 2 + 30 + 50 + 5


@pytest.mark.parametrize("states", [[CROWDED, COOL], [COOL] * 6 + [CROWDED]])
def test_another_process_before_or_after_is_flagged(states):
    assert timed(FakeClock(states=states)).flags == ("shared_gpu",)


def test_flags_are_pure_and_in_the_order_of_the_record():
    device = summary([10] * 6 + [20] * 6)
    assert flags("converged", summary([10] * 6), (), []) == ()
    assert flags("converged", device, (), []) == ("noisy",)
    assert flags("budget", summary([10] * 6), (), []) == ("noisy",)
    everything = flags("n_max", device, (15,), [HOT, CROWDED])
    assert everything == ("noisy", "throttled", "launch_bound", "shared_gpu")


@pytest.mark.parametrize("was_on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_off_while_timing_and_restored(was_on, fails):
    seen, before = [], gc.isenabled()

    def run():
        seen.append(gc.isenabled())
        if fails:
            raise RuntimeError("out of memory")

    try:
        gc.enable() if was_on else gc.disable()
        with pytest.raises(RuntimeError) if fails else nullcontext():
            time_call(run, settings(), FakeClock())
        assert gc.isenabled() is was_on
    finally:
        gc.enable() if before else gc.disable()
    assert seen and not any(seen)


def test_the_result_lives_until_the_clock_has_stopped():
    clock = FakeClock()

    class Result:
        def __init__(self):
            clock.run()

        def __del__(self):
            clock.log.append("freed")

    call = SimpleNamespace(run=Result, reset=lambda: None)
    time_call(call, settings(), clock)
    freed = [i for i, word in enumerate(clock.log) if word == "freed"]
    assert len(freed) == 1 + 2 + 50 + 5
    assert all(clock.log[i - 1] in ("mark", "sync") for i in freed)


def test_settings_survive_json_and_one_row_has_one_key():
    wanted = settings(target=1, budget_s=3)
    assert Settings.from_dict(wanted.to_dict()) == wanted
    assert canonical(wanted.to_dict()) == canonical(
        settings(target=1.0, budget_s=3.0).to_dict()
    )


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"target": 2}, "target=2 must be a number from 0.0001 to 1"),
        ({"target": float("nan")}, "target=nan must be a number"),
        ({"budget_s": True}, "budget_s=True must be a number"),
        ({"warmup_s": "1"}, "warmup_s='1' must be a number from 0 to 600"),
        ({"n_max": 20}, "n_max=20 must be a whole number from 50"),
        ({"block": 0}, "block=0 must be a whole number from 1"),
        (
            {"cache": "cool"},
            "cache='cool' is not one of cold, warm; did you mean cold?",
        ),
        ({"targt": 0.1}, "unknown Settings field 'targt'; did you mean target?"),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(over, words):
    with pytest.raises(ValueError) as caught:
        Settings.for_device("cuda", **over)
    assert words in str(caught.value)


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="device='tpu' is not one of cuda, cpu"):
        Settings.for_device("tpu")
    with pytest.raises(ValueError, match="device='tpu' is not one of cpu, cuda"):
        clock_for("tpu:0")


def test_a_real_call_on_the_cpu():
    quick = Settings.for_device("cpu", budget_s=0.2, warmup_s=0)
    calls = []
    call = SimpleNamespace(run=lambda: sum(range(1000)), reset=lambda: calls.append(1))
    found = time_call(call, quick, clock_for("cpu"))
    assert len(calls) == 1 + found.warmup_calls + found.n
    assert 0 < found.low_s <= found.seconds <= found.high_s


def test_the_cpu_flush_keeps_one_buffer(monkeypatch):
    monkeypatch.setattr("fastlab.clock.clocks.FLUSH_BYTES", 1024)
    clock = CpuClock()
    clock.flush()
    kept = clock._buffer
    clock.flush()
    assert clock._buffer is kept
    assert not clock.state().known


def test_throttling_is_heat_slowdown_or_power_brake():
    pynvml = pytest.importorskip("pynvml")
    names = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown")
    names += ("HwPowerBrakeSlowdown",)
    bits = [getattr(pynvml, f"nvmlClocksThrottleReason{name}") for name in names]
    assert sum(bits) == THROTTLED
    assert all(GpuState(reasons=bit).throttled for bit in bits)
    capped = pynvml.nvmlClocksThrottleReasonSwPowerCap
    assert not GpuState(reasons=capped | 0x1).throttled


def test_only_a_second_process_shares_and_without_a_driver_nobody_knows():
    assert not GpuState(pids=frozenset({4_000_000})).shared
    assert GpuState(pids=frozenset({4_000_000, 7})).shared
    state = state_reader("00000000-0000-0000-0000-000000000000")()
    assert (state.known, state.throttled, state.shared) == (False, False, False)


def test_what_nvml_refuses_counts_as_nothing_seen():
    def refuse(_handle):
        raise RuntimeError("not supported")

    processes = [SimpleNamespace(pid=7), SimpleNamespace(pid=7)]
    nvml = SimpleNamespace(
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _handle: 0x48,
        nvmlDeviceGetComputeRunningProcesses=lambda _handle: processes,
    )
    assert read_state(nvml, None) == GpuState(0x48, frozenset({7}), known=True)
    nvml.nvmlDeviceGetComputeRunningProcesses = refuse
    assert read_state(nvml, None) == GpuState(0x48, frozenset(), known=True)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = refuse
    assert read_state(nvml, None) == GpuState()

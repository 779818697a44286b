"""The clocks that time_call takes: CUDA event pairs, or the host's own clock.

Each is one class that answers to the Clock protocol; a test passes a scripted one.
Between blocks of samples NVML says of a GPU: throttled, shared, or unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from fastlab.spec.checks import check_choice

FLUSH_BYTES = 256 * 2**20  # triton.testing.do_bench zeroes as much
POOL = 64  # events made ahead, so that making one falls into no sample
# NVML clock event reasons that spoil samples: HwSlowdown, SwThermalSlowdown,
# HwThermalSlowdown, HwPowerBrakeSlowdown. SwPowerCap (0x4) is not among them: large
# matrix products live there, it is their normal state.
THROTTLED = 0x8 | 0x20 | 0x40 | 0x80


@dataclass(frozen=True)
class GpuState:
    """Clock event reasons (an NVML bit mask) and the PIDs that compute on the GPU.

    `known` is False without NVML (no driver, no pynvml): then nothing is claimed.
    """

    reasons: int = 0
    pids: frozenset[int] = frozenset()
    known: bool = False

    @property
    def throttled(self) -> bool:
        """Whether heat, a slowdown or a power brake holds the clocks down."""
        return bool(self.reasons & THROTTLED)

    @property
    def shared(self) -> bool:
        """Whether more than one process computes on the GPU.

        A count, not a search for our own PID: in a container NVML gives the host's
        PIDs, which os.getpid() is not among; a single one is taken to be ourselves.
        """
        return len(self.pids) > 1


def state_reader(uuid: str) -> Callable[[], GpuState]:
    """A function that reads the GPU with this UUID; unknown states, never an error."""
    try:
        import pynvml

        pynvml.nvmlInit()
        # torch prints the bare UUID, NVML wants its kind in front.
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(name)
    except Exception:  # no package, no driver, no such GPU: all mean "unknown"
        return GpuState
    return partial(read_state, pynvml, handle)


def read_state(nvml: Any, handle: Any) -> GpuState:
    """The state now; a query that this GPU or driver refuses counts as nothing seen."""

    def ask(query: Callable[[Any], Any]) -> Any:
        try:
            return query(handle)
        except Exception:  # NVMLError_NotSupported on MIG, NoPermission in containers
            return None

    reasons = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    running = ask(nvml.nvmlDeviceGetComputeRunningProcesses)
    pids = frozenset(process.pid for process in running or ())
    return GpuState(reasons or 0, pids, known=reasons is not None)


class Clock(Protocol):
    """A device's timeline and the host's; `asynchronous` where run() only queues work.

    mark() notes a moment on the device's timeline, between_ns() the ns from one mark to
    another once sync() has waited for the device. flush() empties its caches, state()
    is what NVML says of it. now_ns() is the host's time from an arbitrary start.
    """

    asynchronous: bool

    def mark(self) -> Any: ...
    def sync(self) -> None: ...
    def between_ns(self, start: Any, stop: Any) -> int: ...
    def flush(self) -> None: ...
    def state(self) -> GpuState: ...
    def now_ns(self) -> int: ...
    def sleep(self, seconds: float) -> None: ...


class CpuClock:
    """The host's monotonic clock; work is done when run() returns, GPU states unknown.

    flush() writes 256 MiB (kept by this clock), which no CPU cache holds.
    """

    asynchronous = False
    now_ns = mark = staticmethod(time.perf_counter_ns)
    sleep = staticmethod(time.sleep)
    state = staticmethod(GpuState)

    def __init__(self) -> None:
        self._buffer: Any = None

    def sync(self) -> None:
        """Nothing to wait for."""

    def between_ns(self, start: int, stop: int) -> int:
        """ns from one mark to another."""
        return stop - start

    def flush(self) -> None:
        """Empty the caches."""
        if self._buffer is None:
            self._buffer = np.empty(FLUSH_BYTES, dtype=np.uint8)
        self._buffer.fill(0)


class CudaClock:
    """Event pairs on the current stream of a CUDA device.

    flush() keeps max(256 MiB, 4 x L2) of device memory for the life of the clock: drop
    the clock, or take a baseline, before measuring peak memory.
    """

    asynchronous = True
    now_ns = staticmethod(time.perf_counter_ns)
    sleep = staticmethod(time.sleep)

    def __init__(self, device: str = "cuda") -> None:
        import torch

        self._torch: Any = torch
        self._device = torch.device(device)
        properties = torch.cuda.get_device_properties(self._device)
        self._flush_bytes = max(FLUSH_BYTES, 4 * properties.L2_cache_size)
        self._buffer: Any = None
        self._pool: list[Any] = []
        self.state = state_reader(str(properties.uuid))
        self._pool = [self.mark() for _ in range(POOL)]
        self.sync()

    def mark(self) -> Any:
        """A timing event, recorded on the current stream."""
        cuda = self._torch.cuda
        event = self._pool.pop() if self._pool else cuda.Event(enable_timing=True)
        event.record(cuda.current_stream(self._device))
        return event

    def sync(self) -> None:
        """Wait for all work queued on the device."""
        self._torch.cuda.synchronize(self._device)

    def between_ns(self, start: Any, stop: Any) -> int:
        """ns between two events that are done; both may be recorded anew after it."""
        elapsed_ms: float = start.elapsed_time(stop)
        self._pool += [start, stop]
        return round(elapsed_ms * 1e6)

    def flush(self) -> None:
        """Queue the zeroing of a buffer that L2 cannot hold."""
        if self._buffer is None:
            # An inference tensor could not be zeroed outside of inference mode.
            with self._torch.inference_mode(False):
                size, like = self._flush_bytes // 4, {"dtype": self._torch.int32}
                self._buffer = self._torch.empty(size, device=self._device, **like)
        self._buffer.zero_()


def clock_for(device_type: str) -> Clock:
    """The clock of "cpu", "cuda" or "cuda:<index>"; ValueError for anything else."""
    kind = device_type.partition(":")[0]
    check_choice("device", kind, ("cpu", "cuda"))
    return CpuClock() if kind == "cpu" else CudaClock(device_type)

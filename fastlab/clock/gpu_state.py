"""What NVML says of a GPU between blocks of samples: throttled, shared, or unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    reasons = _asked(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    running = _asked(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
    return GpuState(
        reasons=reasons or 0,
        pids=frozenset(process.pid for process in running or ()),
        known=reasons is not None,
    )


def _asked(query: Callable[[Any], Any], handle: Any) -> Any:
    try:
        return query(handle)
    except Exception:  # NVMLError_NotSupported on MIG, NoPermission in containers
        return None

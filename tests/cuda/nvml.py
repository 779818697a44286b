"""NVML of the GPU that is not there: what pynvml is asked, and how it can refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.cuda.device import gpu


class NVMLError(Exception):
    """pynvml's."""


class NVMLError_NotSupported(NVMLError):
    """This GPU has no answer to that (MIG, for one)."""


class NVMLError_LibraryNotFound(NVMLError):
    """No driver."""


@dataclass
class Nvml:
    """reasons: one after the other, the last for ever. lacks: functions refused."""

    reasons: list[int] = field(default_factory=lambda: [0])
    pids: tuple[int, ...] = (4711,)
    lacks: frozenset[str] = frozenset()
    asked: int = 0


NVML = Nvml()


def _refused(name: str) -> None:
    if name in NVML.lacks:
        raise NVMLError_NotSupported("Not Supported")


def nvmlInit() -> None:
    if "nvmlInit" in NVML.lacks:
        raise NVMLError_LibraryNotFound("NVML Shared Library Not Found")


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    if uuid != f"GPU-{gpu().properties.uuid}":
        raise NVMLError(f"no GPU {uuid}")
    return uuid


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: str) -> int:
    _refused("nvmlDeviceGetCurrentClocksThrottleReasons")
    NVML.asked += 1
    return NVML.reasons.pop(0) if len(NVML.reasons) > 1 else NVML.reasons[0]


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[Any]:
    _refused("nvmlDeviceGetComputeRunningProcesses")
    return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in NVML.pids]


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    nvmlInit,
    nvmlDeviceGetHandleByUUID,
    nvmlDeviceGetCurrentClocksThrottleReasons,
    nvmlDeviceGetComputeRunningProcesses,
)


def module() -> ModuleType:
    """pynvml with these functions alone: any other name is an AttributeError."""
    made = ModuleType("pynvml")
    vars(made).update({f.__name__: f for f in FUNCTIONS}, NVMLError=NVMLError)
    return made

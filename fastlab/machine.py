"""The machine at hand: which device, what it really can do, and with what versions."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

from fastlab.spec.checks import check_choice, digest
from fastlab.spec.formats import FORMATS, Format

DEVICE_KINDS = ("cuda", "cpu")  # fastest first
PACKAGES = ("torch", "transformers", "numpy", "pandas", "matplotlib", "triton")


def torch_device(wanted: str = "auto") -> str:
    """ "cuda" or "cpu": the one asked for, or the fastest that is there.

    Raises ValueError for an unknown kind or one that this machine does not have.
    """
    check_choice("device", wanted, ("auto", *DEVICE_KINDS), {"gpu": "cuda"})
    there = {"cuda": _has_cuda(), "cpu": True}
    if wanted == "auto":
        return next(kind for kind in DEVICE_KINDS if there[kind])
    if not there[wanted]:
        have = ", ".join(kind for kind in DEVICE_KINDS if there[kind])
        raise ValueError(f"device={wanted!r} is not on this machine; it has {have}")
    return wanted


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def device_name(kind: str) -> str:
    """The name that rows carry: the GPU's own, or the CPU's with its thread count."""
    import torch

    if kind == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{cpu_model()} ({threads} thread{'s' if threads > 1 else ''}, {kind})"


@lru_cache
def cpu_model() -> str:
    """The CPU's name as the system tells it."""
    found = re.search(r"model name\s*:\s*(.+)", _cpuinfo())
    return found[1].strip() if found else platform.processor() or platform.machine()


@lru_cache
def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def cpu_flags() -> set[str]:
    """Instruction-set flags of the CPU, empty where the system does not list them."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return set(found[1].split()) if found else set()


class Here(NamedTuple):
    """This machine's device, as `spec.unsupported` asks it: what it lacks is probed."""

    kind: str

    def lacks(self, precision: str) -> str:
        """Why it cannot really run a precision, "" where it can."""
        return unsupported_reason(self.kind, precision)

    def lacks_compiler(self) -> str:
        """Why nothing can be compiled for it here, "" where it can."""
        return compiler_refusal(self.kind)


def unsupported_reason(kind: str, precision: str) -> str:
    """Why this device cannot really run a precision, "" where it can.

    A format that is only emulated counts as one that it cannot run.
    """
    form = FORMATS[precision]
    dense = form.autocast or form.dense
    reason = _refusal(kind, form)
    if reason or dense == precision:
        return reason
    reason = _refusal(kind, FORMATS[dense])
    return reason and f"{precision} computes in {dense}: {reason}"


def _refusal(kind: str, form: Format) -> str:
    """Why a device does not run a format itself, "" where it does."""
    import torch

    least, name = ".".join(map(str, form.capability)), form.name
    gpu = "an NVIDIA GPU with " if form.gpu_only else ""
    needs = f"{name} needs {gpu}compute capability {least} or higher"
    if kind == "cuda" and form.capability and _capability() < form.capability:
        if form.weights:
            return needs
        if torch.version.hip is None:
            has = "this GPU has {}.{}".format(*_capability())
            return f"{name} is emulated below compute capability {least}; {has}"
    if kind == "cpu" and form.gpu_only:
        return needs
    if kind == "cuda" and form.cpu_only:
        return f"{name} has kernels for CPUs only"
    flags = cpu_flags() if kind == "cpu" and form.cpu_flags else set()
    if flags and not flags & form.cpu_flags:
        return f"{name} is emulated on this CPU (no {name} instructions)"
    operator = form.operators.get(kind, "")
    if operator and not hasattr(torch.ops.aten, operator):
        return f"{name} needs aten.{operator}, which torch {torch.__version__} lacks"
    return ""


def _capability() -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability()


def compiler_refusal(kind: str) -> str:
    """Why nothing can be compiled for this device here, "" where it can.

    On a CPU torch.compile writes C++, on a GPU Triton, whose launchers are C.
    """
    if kind == "cuda" and find_spec("triton") is None:
        return "torch.compile needs the package triton on a GPU"
    known = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if any(which(name) for name in known if name):
        return ""
    return "torch.compile needs a C++ compiler (g++ or clang++), and none is here"


def memory_bytes(kind: str) -> int:
    """Memory of the device in bytes: the GPU's, or the machine's RAM."""
    import torch

    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * 2**30  # Windows without a way to ask: a cautious guess


def free_bytes(kind: str) -> int:
    """Memory that a new model could take now, in bytes."""
    import torch

    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    path = Path("/proc/meminfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else memory_bytes(kind)


def last_level_cache_bytes(kind: str) -> int:
    """Bytes of the GPU's L2 or the CPU's last cache level; 0 where unknown."""
    import torch

    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((_size_bytes(path.read_text()) for path in sizes), default=0)


def _size_bytes(text: str) -> int:
    number, unit = re.match(r"(\d+)([KMG]?)", text.strip()).groups()  # type: ignore
    return int(number) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[unit]


def environment(kind: str) -> dict[str, Any]:
    """Who measured: device, versions, host, threads, commit, command; plain JSON.

    The driver and CUDA version stand under "versions" where there is a GPU. gomp_spin:
    how long OpenMP's threads spin as they wait, "" where that was left to libgomp.
    """
    import torch

    name, *options = Path(sys.argv[0]).name, *sys.argv[1:]
    if name == "ipykernel_launcher.py":
        options = []  # a file of this machine that says nothing
    return {
        "device": device_name(kind),
        "versions": versions(),
        **host(),
        "threads": torch.get_num_threads(),
        "gomp_spin": os.environ.get("GOMP_SPINCOUNT", ""),
        "commit": commit(),
        "command": " ".join([name, *options]),
    }


def host() -> dict[str, str]:
    """The host's name, and a digest of its boot, "" where the system does not say.

    A container has another name each time that it starts, and its machine's boot id.
    """
    path = Path("/proc/sys/kernel/random/boot_id")
    boot = digest(path.read_text())[:16] if path.exists() else ""
    return {"host": socket.gethostname(), "boot": boot}


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that matter, of CUDA and of the driver."""
    import torch

    found = {name: _version(name) for name in PACKAGES}
    found |= {"python": platform.python_version(), "platform": platform.platform()}
    if torch.version.cuda and torch.cuda.is_available():
        driver = ("--query-gpu=driver_version", "--format=csv,noheader")
        found["driver"] = output_of("nvidia-smi", *driver)
        found["cuda"] = torch.version.cuda
    return {name: value for name, value in found.items() if value}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def commit() -> str:
    """The checkout's commit, "+dirty" where files differ from it; "" outside one."""
    root = str(Path(__file__).parents[1])
    head = output_of("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    tracked = ("status", "--porcelain", "--untracked-files=no")
    return head + ("+dirty" if head and output_of("git", "-C", root, *tracked) else "")


def output_of(*command: str) -> str:
    """What a command prints, without spaces around it; "" where it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""

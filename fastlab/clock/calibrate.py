"""A short measured calibration of the device at hand, kept per machine.

The rate of products in each format, copy bandwidth, and the overhead of one launched
operation: the three numbers of a roofline, with settings of their own.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from fastlab import machine
from fastlab.calls import prepare
from fastlab.clock.clocks import clock_for
from fastlab.clock.cpu_contention import CpuContention, is_contended
from fastlab.clock.timing import Settings, time_call
from fastlab.latency.costs import LAUNCHES, costs_of
from fastlab.latency.devices import Device
from fastlab.models import DTYPES, build, numerics
from fastlab.shrink.kernels import quantized_linear
from fastlab.spec.checks import digest
from fastlab.spec.formats import DENSE, FORMATS
from fastlab.spec.grids import point_of

# (m, n, k) of the products whose best rate is the peak: as large as a big model's, and
# on a CPU a prompt through one of GPT-2's MLP layers.
PRODUCTS = {
    "cuda": ((8192, 8192, 8192), (4096, 4096, 4096)),
    "cpu": ((1024, 3072, 768), (512, 2048, 2048)),
}
COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}  # far beyond an L2; a CPU's L3 if it can be
# By its name in Device.peak_flops, the precision that a peak is measured in.
PEAKS = {name: name for name in DENSE} | {
    form.weights: form.name
    for form in FORMATS.values()
    if form.needs_peak and form.dynamic
}

UNSETTLED = 1.5  # two looks further apart than this say that the machine was busy
BUSY_S = 600.0  # for so long a busy machine's profile serves

# Tiny forwards whose time is all overhead: a kernel's own work is negligible there.
LAUNCH_POINTS = tuple(
    point_of(model=name, layers=4, prompt_len=4) for name in ("tiny-gpt2", "tiny-llama")
)


def settings_for(kind: str) -> Settings:
    """The calibration's own timing settings: 0.3 s a number, caches warm."""
    quick = {"budget_s": 0.3, "warmup_s": 0.1, "warmup_cap_s": 0.5, "cache": "warm"}
    return Settings.for_device(kind, **quick, n_min=5, target=0.01)


def calibrate(kind: str = "auto", settings: Settings | None = None) -> Device:
    """The device at hand, measured: peaks, bandwidth, launch overhead. Some seconds.

    Raises ValueError for a kind of device that this machine does not have.
    """
    kind = machine.torch_device(kind)
    settings = settings or settings_for(kind)
    real = {k: p for k, p in PEAKS.items() if not machine.unsupported_reason(kind, p)}
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return Device(
        name=machine.device_name(kind),
        kind=kind,
        peak_flops={k: matmul_rate(kind, p, settings) for k, p in real.items()},
        bandwidth=copy_bandwidth(kind, settings),
        memory_bytes=machine.memory_bytes(kind),
        l2_bytes=machine.last_level_cache_bytes(kind),
        launch_s=launch_overhead(kind, settings),
        price_per_hour=None,
        source=f"calibrated {today}",
        date=today,
        profile="calibrated",
    ).stamped()


def fastest(call: Any, kind: str, settings: Settings) -> float:
    """Seconds of the fastest sample: a rate at its best, whoever else is busy."""
    with torch.inference_mode():
        return max(min(time_call(call, settings, clock_for(kind)).device_ns), 1) / 1e9


def matmul_rate(kind: str, precision: str, settings: Settings) -> float:
    """Best measured rate of a product in FLOP/s, on random data.

    Of quantized activations what quantizes them is not timed.
    """
    rates: list[float] = []
    form = FORMATS[precision]
    like: dict[str, Any] = {"device": kind, "dtype": DTYPES[form.dense]}
    for m, n, k in PRODUCTS[kind]:
        x, w = torch.randn(m, k, **like), torch.randn(n, k, **like)
        with numerics(precision):
            work: Any = partial(F.linear, x, w)
            if form.weights:
                stored = quantized_linear(form, w, None)
                work = stored.timed(x, itertools.repeat(stored))
            rates.append(2 * m * n * k / fastest(work, kind, settings))
    return max(rates)


def copy_bandwidth(kind: str, settings: Settings, size: int = 0) -> float:
    """Bytes read and written per second by the fastest copy of `size` bytes.

    On the device; by default of as many as no cache holds.
    """
    size = size or COPY_BYTES[kind]
    source = torch.ones(size // 4, device=kind)
    work = partial(torch.empty_like(source).copy_, source)
    return 2 * size / fastest(work, kind, settings)


def launch_overhead(kind: str, settings: Settings) -> float:
    """Seconds per launched operation of transformers' eager forward, host included."""
    each = []
    for point in LAUNCH_POINTS:
        call = prepare(build(point, kind), point, kind)
        with numerics("fp32"):
            seconds = fastest(call, kind, settings)
        each.append(seconds / costs_of(point).totals[LAUNCHES])
    return max(each)


def profile_path(kind: str) -> Path:
    """The file of this machine's profile; another device or torch has another one.

    In $XDG_CACHE_HOME/fastlab or ~/.cache/fastlab.
    """
    name, versions = machine.device_name(kind), machine.versions()
    identity = [name, versions["torch"], versions.get("driver", "")]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastlab" / f"device-{digest(identity)[:12]}.json"


def this_device(kind: str = "auto", refresh: bool = False) -> Device:
    """The calibrated profile of the device at hand, measured once and then kept.

    `refresh` measures again. Where other programs took our cores, or a second look
    disagrees, that profile says so (`Device.busy`), and serves ten minutes only.
    """
    kind = machine.torch_device(kind)
    device = None if refresh else kept(kind)
    if device is None:
        others = CpuContention()
        device = calibrate(kind)
        busy = busy_words(others.cores(), kind)
        if not busy and not alike(*now_to_then(device)):
            busy = "a second look found other rates"
        device = marked_busy(device, busy)
        keep(device)
    return device


def busy_words(cores: float | None, kind: str) -> str:
    """What others that took so many cores of ours did; "" where they left enough."""
    return f"other programs took {cores:.1f} cores" if is_contended(cores, kind) else ""


def marked_busy(device: Device, busy: str) -> Device:
    """The device with what was busy while it was calibrated, if anything was."""
    return replace(device, busy=busy).stamped() if busy else device


def kept(kind: str) -> Device | None:
    """The profile on file; None if there is none, a broken one or a stale busy one."""
    path = profile_path(kind)
    try:
        device = Device.from_dict(json.loads(path.read_text()))
        stale = time.time() - path.stat().st_mtime > BUSY_S
        busy = device.busy or "busy" in device.source  # where versions before said so
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if busy and stale else device


def now_to_then(device: Device) -> tuple[float, float]:
    """Launch overhead and rate of fp32 products, measured again, over the device's."""
    settings = settings_for(device.kind)
    launch_s = launch_overhead(device.kind, settings)
    rate = matmul_rate(device.kind, "fp32", settings)
    return launch_s / device.launch_s, rate / device.peak("fp32")


def alike(*ratios: float) -> bool:
    """Whether two looks are as near as they are on a quiet machine."""
    return all(1 / UNSETTLED < ratio < UNSETTLED for ratio in ratios)


def keep(device: Device) -> Path:
    """Make a device this machine's profile; a folder that cannot be written is let be.

    Returns the profile's path.
    """
    path = profile_path(device.kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps(device.to_dict(), indent=1) + "\n")
        fresh.replace(path)
    except OSError:
        pass
    return path

"""The band of the roofline, from a device's peaks and bandwidth.

Each operation takes between the longer and the sum of its compute and memory time, plus
its launches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastlab.latency.costs import (
    CAUSAL,
    KV_WRITE,
    LAUNCHES,
    WEIGHTS,
    Costs,
    Timing,
    latency_model,
)
from fastlab.latency.devices import Device
from fastlab.record import BOUNDS
from fastlab.spec.point import Point

# Shares of peak and of bandwidth with which a datasheet is read.
EFFICIENCIES = {"datasheet roofline": (1.0, 1.0), "efficiencies 0.7 / 0.9": (0.7, 0.9)}


def roofline(
    costs: np.ndarray,
    point: Point,
    device: Device,
    precisions: Sequence[str] = (),
    launches: float | None = None,
) -> tuple[float, float, float, str]:
    """The roofline band, per operation: max(compute, memory) to their sum.

    `seconds` is the geometric middle of the band. Fused attention is charged the
    causal FLOPs, since that is what its kernels do. A GPU's host queues ahead: there
    launches hide behind the work at best, and add to it at worst. precisions: what
    each row computes in, by default the point's own; launches: those of the host, by
    default all.
    """
    if (form := point.recipe.format).needs_peak:
        device.peak(form.weights)  # a device without it is not meant to run it at all
    names = precisions or [point.recipe.precision] * len(costs)
    peaks = {name: device.product_rate(name) for name in set(names)}
    own = [peaks[name] for name in names] if len(peaks) > 1 else peaks[names[0]]
    compute = costs[:, CAUSAL] / np.asarray(own)
    memory = costs[:, WEIGHTS : KV_WRITE + 1].sum(axis=1) / device.bandwidth
    launch = costs[:, LAUNCHES] * (device.launch_s * _share(costs, launches))
    work, launching = float(np.maximum(compute, memory).sum()), float(launch.sum())
    hidden = device.kind != "cpu"
    low = max(work, launching) if hidden else work + launching
    high = float((compute + memory + launch).sum())
    return (low * high) ** 0.5, low, high, _bound(compute, memory, launch)


def _share(costs: np.ndarray, launches: float | None) -> float:
    """The host's launches, as a share of all kernels that run."""
    return 1.0 if launches is None else launches / float(costs[:, LAUNCHES].sum())


@latency_model("roofline")
def _rooflines(
    costs: Sequence[Costs], points: Sequence[Point], device: Device
) -> list[Timing]:
    return [
        Timing(*roofline(c.matrix, p, device, c.precisions, c.totals[LAUNCHES]))
        for c, p in zip(costs, points, strict=True)
    ]


def _bound(compute: np.ndarray, memory: np.ndarray, launch: np.ndarray) -> str:
    """What most of the time goes to, each operation counted for its longest part."""
    times = np.stack([compute, memory, launch])
    longest = np.bincount(times.argmax(axis=0), times.max(axis=0), minlength=3)
    return BOUNDS[int(longest.argmax())]

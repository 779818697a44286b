"""The band of the roofline, from a device's peaks and bandwidth.

Each operation takes between the longer and the sum of its compute and memory time, plus
its launches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastlab.latency.costs import CAUSAL, LAUNCHES, MOVED, Costs, Timing
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
) -> Timing:
    """The roofline band, per operation: max(compute, memory) to their sum.

    `seconds` is the geometric middle of the band. Fused attention is charged the
    causal FLOPs, since that is what its kernels do. A GPU's host queues ahead: there
    launches hide behind the work at best, and add to it at worst. precisions: what
    each row computes in, by default the point's own; launches: those of the host, by
    default all.
    """
    names = precisions or [point.recipe.precision] * len(costs)
    peaks = {name: device.product_rate(name) for name in set(names)}
    compute = costs[:, CAUSAL] / np.array([peaks[name] for name in names])
    memory = costs[:, MOVED].sum(axis=1) / device.bandwidth
    every = costs[:, LAUNCHES]
    share = 1.0 if launches is None else launches / float(every.sum())
    launch = every * (device.launch_s * share)
    work, launching = float(np.maximum(compute, memory).sum()), float(launch.sum())
    hidden = device.kind != "cpu"
    low = max(work, launching) if hidden else work + launching
    high = float((compute + memory + launch).sum())
    # Bound by what most of the time goes to, each operation by its longest part.
    times = np.stack([compute, memory, launch])
    longest = np.bincount(times.argmax(axis=0), times.max(axis=0), minlength=3)
    return Timing((low * high) ** 0.5, low, high, BOUNDS[int(longest.argmax())])


def rooflines(
    costs: Sequence[Costs], points: Sequence[Point], device: Device
) -> list[Timing]:
    """The band of each point, as a latency model gives it."""
    return [
        roofline(c.matrix, p, device, c.precisions, c.totals[LAUNCHES])
        for c, p in zip(costs, points, strict=True)
    ]

"""What a batch changes: a decode step's time and throughput, and where they turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastlab.cost.memory import largest_batch
from fastlab.cost.operations import operations
from fastlab.cost.ops import PRODUCTS
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.spec.point import Point

if TYPE_CHECKING:
    import pandas as pd


def batched(point: Point, batch: int) -> Point:
    """The point at another batch size."""
    return replace(point, workload=replace(point.workload, batch=batch))


def batch_curve(
    point: Point, device: Device, batches: Sequence[int], launches: bool = True
) -> pd.DataFrame:
    """Estimated ms and tokens/s of a decode step against its batch.

    Without launches: as if work were handed over for free, as CUDA graphs nearly do.
    fits: whether weights, cache and activations find room in the device's memory.
    """
    import pandas as pd

    room = largest_batch(point, device.memory_bytes)
    device = device if launches else replace(device, launch_s=0.0)
    made = estimate([batched(point, batch) for batch in batches], device)
    rows = [
        {
            "batch": batch,
            "ms": e.seconds * 1e3,
            "low_ms": e.low_s * 1e3,
            "high_ms": e.high_s * 1e3,
            "tokens_per_s": batch / e.seconds,
            "bound": e.bound,
            "extrapolated": e.extrapolated,
            "fits": batch <= room,
        }
        for batch, e in zip(batches, made, strict=True)
    ]
    return pd.DataFrame(rows)


def batch_curves(
    points: Sequence[Point], device: Device, most: int = 2048
) -> dict[str, pd.DataFrame]:
    """Curves by "precision: tokens cached" for a figure of batches.

    Of eager calls; a datasheet's device gets a second one of each, free of launches.
    """
    batches, found = batches_to(most), {}
    points = list(dict.fromkeys(batched(point, 1) for point in points))
    for point in points:
        name = f"{point.recipe.precision}: {point.workload.prompt_len:,} cached"
        found[f"{name}, eager"] = batch_curve(point, device, batches)
        if not device.calibrated:
            free = batch_curve(point, device, batches, launches=False)
            found[f"{name}, no launches"] = free
    return found


def batches_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to `most`: two values for each doubling."""
    steps = itertools.chain.from_iterable(
        (2**n, 3 * 2 ** (n - 1)) for n in range(1, 31)
    )
    return [1, *itertools.takewhile(lambda batch: batch <= most, steps)]


def knee(point: Point, device: Device) -> float:
    """Batch at which a decode step's linear layers reach the ridge; inf if they never.

    FLOPs and activations grow with the batch B, weights do not:
    B flops / (weights + B activations) = ridge, solved for B.
    """
    ops = [op for op in operations(batched(point, 1)) if op.kind in PRODUCTS]
    flops, weights, activations = (
        sum(op.times * getattr(op, name) for op in ops)
        for name in ("flops", "weight_bytes", "activation_bytes")
    )
    ridge = device.ridge(point.recipe.precision)
    left = flops - ridge * activations
    return ridge * weights / left if left > 0 else float("inf")


def knees(points: Iterable[Point], device: Device) -> dict[str, float]:
    """The knee of each precision among the points."""
    return {point.recipe.precision: knee(point, device) for point in points}

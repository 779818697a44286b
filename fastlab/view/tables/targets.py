"""Each step of a path on many devices, estimated: which come under a target?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.whatif import LABEL, typical
from fastlab.spec.point import Point

if TYPE_CHECKING:
    import pandas as pd

OTHER_16 = {"bf16": "fp16", "fp16": "bf16"}


def steps_on(steps: Mapping[str, Point], devices: Sequence[Device]) -> pd.DataFrame:
    """Estimated ms of each step on each device; NaN where it cannot run.

    Columns: device, basis, step, precision, ms, low_ms, high_ms, bound. Datasheets are
    taken at typical efficiencies: estimated, not calibrated. A device without bf16 gets
    fp16, and the other way round.
    """
    import pandas as pd

    lines = [
        {"device": device.name, "basis": basis(device), "step": name}
        | _line(point, device)
        for device in devices
        for name, point in steps.items()
    ]
    columns = ["device", "basis", "step", "precision", "ms", "low_ms", "high_ms"]
    return pd.DataFrame(lines, columns=[*columns, "bound"])


def basis(device: Device) -> str:
    """Where a device's rates are from, in words."""
    return "calibrated" if device.calibrated else LABEL


def _line(point: Point, device: Device) -> dict[str, object]:
    point = as_it_can(point, device)
    found = device if device.calibrated else typical(device)
    line: dict[str, object] = {"precision": point.recipe.precision, "ms": float("nan")}
    try:
        made = estimate([point], found)[0]
    except ValueError:  # a precision that the device does not have
        return line
    times = {"ms": made.seconds, "low_ms": made.low_s, "high_ms": made.high_s}
    return line | {n: 1e3 * s for n, s in times.items()} | {"bound": made.bound}


def as_it_can(point: Point, device: Device) -> Point:
    """The point in the 16-bit format that the device has, if it has only the other."""
    precision = point.recipe.precision
    other = OTHER_16.get(precision, precision)
    if device.can(precision) or not device.can(other):
        return point
    return replace(point, recipe=replace(point.recipe, precision=other))


def first_under(table: pd.DataFrame, target_ms: float) -> dict[str, str]:
    """device -> the first step whose estimate is at most the target, "" for none."""
    found: dict[str, str] = {}
    for device, rows in table.groupby("device", sort=False):
        under = rows[rows["ms"] <= target_ms]["step"]
        found[str(device)] = str(under.iloc[0]) if len(under) else ""
    return found

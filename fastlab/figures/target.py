"""Which step of a path a target latency needs, on which device: estimates only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.explorer import Explorer, around, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import tiles
from fastlab.figures.panels import Axis, Panel
from fastlab.latency.devices import Device
from fastlab.latency.whatif import LABEL, typical
from fastlab.rows import estimated
from fastlab.spec.point import Point
from fastlab.words import digits

OTHER_16 = {"bf16": "fp16", "fp16": "bf16"}
TARGETS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # ms


def steps_on(steps: Mapping[str, Point], devices: Sequence[Device]) -> pd.DataFrame:
    """Estimated ms of each step on each device; NaN where it cannot run.

    Datasheets are taken at typical efficiencies: estimated, not calibrated. A device
    without bf16 gets fp16, and the other way round.
    """
    tables = []
    for device in devices:
        able = [_as_it_can(point, device) for point in steps.values()]
        rows = estimated(able, device if device.calibrated else typical(device))
        basis = "calibrated" if device.calibrated else LABEL
        tables.append(rows.assign(device=device.name, basis=basis, step=[*steps]))
    ms = ["estimated_ms", "estimated_low_ms", "estimated_high_ms"]
    found = pd.concat(tables, ignore_index=True).astype(dict.fromkeys(ms, float))
    return found[["device", "basis", "step", "precision", *ms, "bound"]]


def _as_it_can(point: Point, device: Device) -> Point:
    """The point in the 16-bit format that the device has, if it has only the other."""
    other = OTHER_16.get(point.recipe.precision, "")
    if device.can(point.recipe.precision) or not (other and device.can(other)):
        return point
    return replace(point, recipe=replace(point.recipe, precision=other))


def targets(table: pd.DataFrame, target_ms: float, call: str = "") -> Figure:
    """Estimated ms of `steps_on`: a line for each device, a column for each step.

    Blue cells come under the target; the first of a line has a tick; what a device
    cannot run is a dash.
    """
    under = table[table["estimated_ms"] <= target_ms].groupby("device")["step"].first()
    firsts = under.reindex(table["device"].unique(), fill_value="")
    first = table["device"].map(firsts) == table["step"]
    said = np.select([first, table["estimated_ms"].isna()], ["✓ ", "–"], "")
    look: dict[str, Any] = {"norm": lambda ms: 0.2 * (ms <= target_ms), "cmap": "Blues"}
    rows = table.assign(first=first, said=said)
    named = "step", "device", "estimated_ms", "estimated ms"
    basis = dict(zip(table["device"], table["basis"], strict=True))
    devices = {device: f"{device}\n({how})" for device, how in basis.items()}
    at = Axis("step: estimated milliseconds", names=list(table["step"].unique()))
    cells = tiles(rows, *named, words="said", **look)
    panel = Panel(at, Axis("device", names=devices), [cells])
    counts = firsts.value_counts().reindex([*at.names, ""]).dropna().astype(int)
    each = [f"{n} at “{s}”" if s else f"{n} at no step" for s, n in counts.items()]
    title = f"{call}: what comes under {digits(target_ms)} ms?\n"
    title += f"Of {len(firsts)} devices: {', '.join(each)}"
    return Figure([panel], title, rows, (9.8, 1.6 + 0.45 * len(firsts)))


def target(
    paths: Mapping[str, Mapping[str, Point]],
    devices: Sequence[Device | None],
    target_ms: float = 100,
) -> Explorer:
    """A target, the call, its tokens and batch, against each step on each device.

    paths: phase -> step -> point.
    """
    known = [device for device in devices if device is not None]
    longest = max(steps["dense"].workload.prompt_len for steps in paths.values())

    def make(target_ms: float, call: str, tokens: int, batch: int) -> Figure:
        cached = max(tokens - (call == "decode"), 1)  # a step fills the last position
        work = replace(paths[call]["dense"].workload, prompt_len=cached, batch=batch)
        moved = {
            name: replace(point, workload=replace(work, logits=point.workload.logits))
            for name, point in paths[call].items()
        }
        shape = moved["dense"].shape
        model = f"{shape.family} {shape.layers} x {shape.hidden}"
        length = f"of {tokens:,} tokens" if call == "prefill" else f"step {tokens:,}"
        what = f"{model}, {call} {length}, batch {batch}"
        return targets(steps_on(moved, known), target_ms, what)

    caption = (
        "nothing runs: datasheets are taken at 0.7 of their peak and 0.9 of their "
        "bandwidth, estimated, not calibrated; quality is not asked here"
    )
    controls: dict[str, Any] = {"tokens": around((64, 256, 512, 1024), longest)}
    controls = {"target_ms": around(TARGETS, target_ms), "call": [*paths]} | controls
    start = {"target_ms": target_ms, "tokens": longest}
    return explore(make, start, caption, **controls, batch=[1, 4, 16, 64])

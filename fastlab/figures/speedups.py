"""Speed-ups: at which batch they end, along a column, and whether they were predicted.

Rows are `over` a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure, against, nothing
from fastlab.figures.layers import formats, gridlines, level, line, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Panel
from fastlab.figures.precisions import GAINS, calls, comparable, with_loss
from fastlab.figures.roofline import batches_to
from fastlab.figures.style import color_of
from fastlab.latency.devices import Device
from fastlab.rows import ESTIMATED, MEASURED, estimated, only, over, points_of
from fastlab.spec.formats import FORMATS
from fastlab.spec.point import Point
from fastlab.spec.recipe import Recipe
from fastlab.words import digits, factor, times

STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
MOST = 256  # the largest batch of the explorer
LIMITS = (0.08, 8.0)  # its axis stays as controls move
GAINED = ("ratio", "measured_gain", "fitted", "host_ms", "step_ms", "compile_s")
USUAL = ("fp32", "bf16", "int8", "int8-dynamic", "int4-g128", "fp8-dynamic")


def curves(
    point: Point,
    device: Device,
    precisions: Sequence[str],
    most: int = MOST,
    baseline: str = "bf16",
) -> pd.DataFrame:
    """Estimated speed-ups over the baseline of a decode step, at batches up to `most`.

    Precisions that the device lacks, or whose groups do not divide the widths, are left
    out; ValueError where the device lacks the baseline.
    """
    device.product_rate(baseline)
    works = [replace(point.workload, batch=batch) for batch in batches_to(most)]
    steps: list[Point] = []
    for name in filter(device.can, dict.fromkeys([baseline, *precisions])):
        recipe = Recipe(name, runtime=point.recipe.runtime)
        try:
            steps += [replace(point, recipe=recipe, workload=work) for work in works]
        except ValueError:  # groups that do not divide
            if name == baseline:
                raise
    rows = estimated(steps, device).assign(status="estimated", reason="")
    sure = ~rows["extrapolated"].astype(bool) | (rows["precision"] == baseline)
    return over(rows.assign(calibrated=sure, device=device.name), precision=baseline)


def by_batch(
    lines: pd.DataFrame,
    rows: pd.DataFrame,
    baseline: str = "bf16",
    head: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Speed-up over the baseline against the batch of a decode step, log-log.

    Lines are curves(): thin and pale beyond what was calibrated, dashed where
    activations are quantized too. Filled marks are the measured rows.
    """
    lines, marks = calls(lines), calls(rows)
    shown = pd.concat([part for part in (marks, lines) if len(part)], ignore_index=True)
    others = comparable(marks, baseline)
    layers = []
    for name, own in lines.groupby("precision", sort=False):
        kind, named = FORMATS[str(name)], with_loss(str(name), marks)
        dash = "--" if kind.dynamic else ":" if kind.autocast else "-"
        look: dict[str, Any] = {"color": color_of(name), "dash": dash}
        layers.append(line(own, "batch", GAINS[0], named, **look, sure="calibrated"))
    layers += formats(others, "batch", GAINS[1], name="")
    most, gains = int(lines["batch"].max()), shown[[*GAINS]].to_numpy(float)
    ticks, ends = [2**n for n in range(30) if 2**n <= most], (0.85, most * 1.05)
    x = Axis("batch: rows in each product", "log", ticks=ticks, limits=ends)
    room = min(0.7, np.nanmin(gains) / 1.15), max(1.5, np.nanmax(gains) * 1.15)
    y = _speedup(f"speed-up over {baseline}: above ×1 is faster", limits or room)
    panel = Panel(x, y, layers, key="edge", decor=[gridlines("y")])
    title = f"{head}\n{_turns(lines, others, baseline)}".strip()
    return Figure([panel], title, shown, (9.4, 5.2))


def _speedup(label: str, limits: tuple[float, float] | None = None) -> Axis:
    """A log axis of speed-ups, its ticks the same on both sides of one: ÷2, ×1, ×2."""
    ticks = sorted({*STEPS, *(1 / step for step in STEPS)})
    write = lambda gain: factor(gain).replace("same", "×1")  # noqa: E731
    return Axis(label, "log", write, ticks, limits)


def _turns(lines: pd.DataFrame, marks: pd.DataFrame, baseline: str) -> str:
    """From which batch on precisions are slower, by the estimate and by the clock.

    Between two batches that is where a straight line, log-log, crosses one.
    """
    said = []
    for name, own in lines.groupby("precision", sort=False):
        clock = marks[marks["precision"] == name].sort_values("batch")
        turns = [
            np.exp(even_at(np.log(rows["batch"]), rows[gain]))
            for rows, gain in zip((own, clock), GAINS, strict=True)
        ]
        if name != baseline and own[GAINS[0]].iloc[0] > 1 and turns[0] > 0:
            measured = f" ({turns[1]:.0f})".replace("nan", "none") if len(clock) else ""
            said.append(f"{name} {turns[0]:.0f}{measured}")
    what = "estimated (measured)" if len(marks) else "estimated"
    each = ", ".join(said) or "none that starts out faster"
    return f"Slower than {baseline} from this batch on, {what}\n{each}"


def even_at(x: Any, gain: Any) -> float:
    """Where gains last cross one between two of x, by a straight line in log gain.

    NaN where all lie on one side. x ascends.
    """
    at, log = np.asarray(x, float), np.log(np.asarray(gain, float))
    for n in np.flatnonzero((log[:-1] > 0) != (log[1:] > 0))[-1:]:
        share = log[n] / (log[n] - log[n + 1])
        return float(at[n] + share * (at[n + 1] - at[n]))
    return float("nan")


def predicted(rows: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """Measured against predicted speed-ups over the baseline, of any calls, log-log."""
    shown = calls(rows)
    both = comparable(shown, baseline)
    if both.empty:
        return nothing(f"no precision beside {baseline} was measured")
    expected, measured = np.log(both[[*GAINS]].to_numpy(float)).T
    off = np.exp(np.median(np.abs(expected - measured)))
    title = f"{(expected * measured > 0).sum()} of {len(both)} speed-ups on the "
    title += f"predicted side of ×1; median off by a factor of {off:.2f}"
    what = f"speed-up over {baseline}"
    axes = (_speedup(f"predicted {what}"), _speedup(f"measured {what}"))
    names = {precision: with_loss(precision, both) for precision in both["precision"]}
    figure = against(both, title, *axes, GAINS, names=names)
    (panel,) = figure.panels
    panel = replace(panel, decor=[*panel.decor, level(1), level(1, "x")])
    return replace(figure, panels=[panel], rows=shown)


def over_column(
    rows: pd.DataFrame, at: str, label: str, title: str, unit: str = "ms"
) -> Figure:
    """Estimated and measured ms against a column, with each row's gain beside it.

    rows: `over` the first one. The line and its band are estimated, a "fitted" column
    is a line without marks; filled marks are measured.
    """
    if rows.empty:
        return nothing("nothing was measured")
    gains = [times(gain) if gain != 1 else "" for gain in rows["measured_gain"]]
    look: dict[str, Any] = {"color": color_of(rows["precision"].iloc[0])}
    own: dict[str, Any] = {"words": "speedup", "ends": OWN_ENDS, **look}
    layers = [
        line(rows, at, "estimated_ms", "estimated", dash="--", band=ENDS, **look),
        points(rows, at, "estimated_ms", hollow=True, size=7, **look),
        points(rows.assign(speedup=gains), at, "measured_ms", "measured", **own),
    ]
    if "fitted" in rows:
        layers.append(line(rows, at, "fitted", "fitted", dash=":", **look))
    top = 1.15 * float(rows[[ENDS[1], OWN_ENDS[1]]].max(axis=None))
    axes = Axis(label, ticks=list(rows[at])), Axis(unit, limits=(0, top))
    panel = Panel(*axes, layers, key="upper right", decor=[gridlines("y")])
    ends = zip(rows["measured_ms"].iloc[[0, -1]], rows[at].iloc[[0, -1]], strict=True)
    said = dict.fromkeys(f"{digits(ms)} {unit} at {where:g}" for ms, where in ends)
    title += f": {', '.join(said)}: {times(rows['measured_gain'].iloc[-1])}"
    names = (at, "precision", "runtime", *ESTIMATED, *MEASURED, *GAINED)
    shown = [name for name in names if name in rows]
    return Figure([panel], title, rows[shown], (8.6, 4.6))


def paying(
    point: Point, device: Device, rows: pd.DataFrame, baseline: str = "bf16"
) -> Figure:
    """At which batch each usual precision stops paying: a decode step on any device.

    rows: measured ones, drawn where they are of this step; the axis is always the same.
    """
    lines = curves(point, device, USUAL, MOST, baseline)
    here = only(rows[rows["device"] == device.name], points_of(lines))
    shape, work = point.shape, point.workload
    head = f"{shape.family} {shape.layers}x{shape.hidden} on {device.name}, "
    head += f"{point.recipe.runtime}, {work.prompt_len:,} tokens cached"
    return by_batch(lines, here, baseline, head, LIMITS)

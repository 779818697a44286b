"""How far off estimates are: held-out rows, methods, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure, against, nothing
from fastlab.figures.layers import bars, level, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import BLACK, FAINT, GREY
from fastlab.latency.devices import Device
from fastlab.latency.explain import waterfall
from fastlab.reading import SHAPE, nothing_measured, sample_counts
from fastlab.record import Record
from fastlab.rows import points_of, table
from fastlab.scores.correction import Errors
from fastlab.scores.scoreboard import HOLDOUTS, NOISE, Scoreboard, predictions
from fastlab.words import digits, percent

BAR, SUMS = ["step", "from_ms", "ms"], ("estimated_ms", "measured_ms")
LEFT, ESTIMATE, CLOCK = "residual", "= estimate", "measured"  # steps of a waterfall
STEP: dict[str, Any] = {"color": FAINT}
LOOKS: dict[Any, dict[str, Any]] = {
    **{LEFT: {"hollow": True, "hatch": "////"}, ESTIMATE: {"hollow": True}},
    CLOCK: {"color": BLACK},
}


def held_out(
    records: Iterable[Record], device: Device, holdout: str = "hidden"
) -> pd.DataFrame:
    """Rows as `table` makes them, each estimated without its `holdout` value.

    left_out is that value, no_row_used_ms the estimate from calibration alone.
    """
    predicted = predictions(records, device, holdout)
    found = predicted.found
    held = zip(found.seconds, found.low, found.high, strict=True)
    each = zip(predicted.rows, predicted.estimates, held, strict=True)
    rows = table(
        replace(row, estimate=replace(e, seconds=s, low_s=low, high_s=high))
        for row, e, (s, low, high) in each
    )
    value_of = HOLDOUTS.get(holdout, lambda point: "")
    left_out = [value_of(point) for point in predicted.points]
    alone = [1e3 * e.seconds for e in predicted.estimates]
    return rows.assign(left_out=left_out, no_row_used_ms=alone)


def without(rows: pd.DataFrame, field: str, value: Any) -> Figure:
    """Measured against predicted ms: the rows of one value in colour, others grey."""
    mine = rows["left_out"] == value
    other, chosen = rows[~mine], rows[mine]
    off, plain = (
        Errors.of("", chosen[name], chosen["measured_ms"])
        for name in ("estimated_ms", "no_row_used_ms")
    )
    title = f"{field} {value} left out, {off.n} rows: median error "
    title += f"{_percent(off.median)}, p90 {_percent(off.p90)}, bias {off.bias:+.1f} %"
    title += f"\nWith no row used at all: median error {_percent(plain.median)}"
    look: dict[str, Any] = {"color": FAINT, "size": 3.5}
    back = points(other, "estimated_ms", "measured_ms", "rows of other values", **look)
    axes = Axis("predicted without them (ms)"), Axis("measured (ms)")
    figure = against(chosen, title, *axes, behind=[back])
    first = [*SHAPE, "left_out", "no_row_used_ms", "estimated_ms", *ENDS]
    return replace(figure, rows=rows[[*first, "measured_ms", *OWN_ENDS]])


def _percent(value: float) -> str:
    return percent(value / 100)


def methods(board: Scoreboard) -> Figure:
    """Each method's |error| in %: median (mark), mean (tick), to p90 (line), log scale.

    Best first; the dashed line is the noise of repeating a measurement.
    """
    scores = pd.DataFrame(board.methods).drop(columns="spearman")
    scores = scores.rename(columns={"name": "method"})
    scores = scores.sort_values("median", ignore_index=True)
    noise, ours = scores["method"] == NOISE, scores["method"].str.startswith("fastlab")
    scores.loc[noise, "bias"] = np.nan  # noise has no direction
    groups = {"fastlab": (ours, BLACK), "baselines": (~ours & ~noise, GREY)}
    layers: list[Layer] = []
    tick: dict[str, Any] = {"marker": "|", "size": 12, "across": ("median", "p90")}
    for name, (mine, color) in (groups | {"noise": (noise, FAINT)}).items():
        own = scores[mine]
        layers.append(points(own, "median", "method", name, color=color))
        layers.append(points(own, "mean", "method", color=color, **tick))
    label = "error, % of the measured time: ● median, | mean, line up to p90"
    notes = [(name, list(scores[name].map(_percent))) for name in ("median", "p90")]
    axes = Axis(label, "log"), Axis("", names=list(scores["method"]))
    decor = [level(value, "x") for value in scores["median"][noise]]
    panel = Panel(*axes, layers, notes=notes, note_width=0.13, decor=decor)
    first, base = board.methods[0], scores[groups["baselines"][0]].iloc[0]
    title = f"{first.name}: {_percent(first.median)} off in the median of {first.n} "
    title += f"rows; {base['method']}: {_percent(base['median'])}"
    return Figure([panel], title, scores, (8.6, 1.9 + 0.48 * len(scores)))


def waterfalls(rows: pd.DataFrame, device: Device) -> Figure:
    """A panel for each measured row: what every step adds in ms, up to the clock.

    Hollow = estimated, hatched = what no step explains (the residual), filled =
    measured. Steps that add nothing to any are not there.
    """
    known = rows[rows["measured_ms"].notna()]
    if known.empty:
        return nothing(nothing_measured(rows))
    steps = _steps(known, device)
    names = list(dict.fromkeys(steps["step"]))
    names = [*names[:-1], ESTIMATE, names[-1], CLOCK]
    panels = []
    for point, own in steps.groupby("point", sort=False):  # bars, and both sums
        sums = zip((ESTIMATE, CLOCK), own[[*SUMS]].iloc[0], strict=True)
        ends = pd.DataFrame([[step, 0.0, ms] for step, ms in sums], columns=BAR)
        every = pd.concat([own[BAR], ends], ignore_index=True)
        layers = [
            bars(one, "ms", "step", str(step), base="from_ms", **LOOKS.get(step, STEP))
            for step, one in every.groupby("step", sort=False)
        ]
        ms = every.set_index("step")["ms"].reindex(names).map(digits)
        notes = [("ms", [*ms.str.replace("-", "−").replace("nan", "")])]
        axes = Axis("milliseconds"), Axis("", names=names)
        panels.append(Panel(*axes, layers, str(point), notes=notes))
    left = steps[steps["step"] == LEFT][["ms", *SUMS]].map(digits)
    each = [f"{ms} of {m} ms measured ({e} estimated)" for ms, e, m in left.to_numpy()]
    title = f"What no step explains: {', '.join(each)}".replace("-", "−")
    size = (10.5, 1.5 + 0.42 * len(names))
    return Figure(panels, title, steps, size, note=sample_counts(known))


def _steps(rows: pd.DataFrame, device: Device) -> pd.DataFrame:
    """point, step, from_ms, ms, and the sums of each point: estimated and measured."""
    lines = []
    for point, measured in zip(points_of(rows), rows["measured_ms"], strict=True):
        added = {step: 1e3 * s for step, s in waterfall(point, device).items()}
        whole = sum(added.values())
        added[LEFT] = measured - whole
        starts = np.cumsum([0.0, *added.values()])
        for start, (step, ms) in zip(starts, added.items(), strict=False):
            lines.append([point.label, step, start, ms, whole, measured])
    steps = pd.DataFrame(lines, columns=["point", "step", "from_ms", "ms", *SUMS])
    adds = steps.groupby("step")["ms"].transform(lambda ms: (ms != 0).any())
    return steps[adds | (steps["step"] == LEFT)].reset_index(drop=True)

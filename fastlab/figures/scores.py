"""How far off estimates are: held-out rows, methods, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import BLACK, FAINT, GREY, PALE, SMALL
from fastlab.figures.sweep import against
from fastlab.latency.devices import Device
from fastlab.latency.explain import waterfall
from fastlab.reading import SHAPE, sample_counts
from fastlab.record import Record
from fastlab.rows import points_of, table
from fastlab.scores.errors import Errors
from fastlab.scores.scoreboard import (
    HOLDOUTS,
    NOISE,
    ROWS,
    Scoreboard,
    predictions,
)
from fastlab.words import digits, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 0.1  # %: the least error that the axis of methods begins with
LEFT, ESTIMATE, CLOCK = "residual", "= estimate", "measured"  # steps of a waterfall
LOOKS: dict[str, dict[str, Any]] = {  # of bars that are no step of the estimate
    **{LEFT: {"fc": "white", "hatch": "////"}, ESTIMATE: {"fc": "white"}},
    CLOCK: {"fc": BLACK},
}
SUMS = ("estimated_ms", "measured_ms")  # of a waterfall's point
KNOWN = {"hidden": "hidden sizes", "seq": "prompt lengths", "batch": "batches"}
KNOWN |= {"layers": "depths", "family": "families", ROWS: "rows"}


# --- held-out rows


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


def knowing(holdout: str) -> str:
    """What held-out estimates were made from: "other hidden sizes known (held out)"."""
    return f"other {KNOWN[holdout]} known (held out)"


def leave_out(records: Iterable[Record], device: Device, caption: str = "") -> Explorer:
    """Leave a value of a field out: its rows stand out, predicted from all others.

    All predictions of a field are made once, when it is first chosen.
    """
    kept = list(records)
    rows_of = cache(lambda field: held_out(kept, device, field))
    values = {name: [of(r.point) for r in kept] for name, of in HOLDOUTS.items()}
    fields = {name: sorted(set(own)) for name, own in values.items()}
    fields = {name: own for name, own in fields.items() if len(own) > 1}
    if not fields:
        raise ValueError(f"nothing to leave out: no two values of {', '.join(values)}")
    first = next(iter(fields))

    def make(field: str, left_out: Any) -> Figure:
        return without(rows_of(field), field, left_out)

    return explore(
        make,
        {"left_out": max(fields[first], key=values[first].count)},
        caption,
        field=list(fields),
        left_out=lambda state: fields[state["field"]],
    )


def without(rows: pd.DataFrame, field: str, value: Any) -> Figure:
    """Measured against predicted ms: the rows of one value in colour, others grey."""
    mine = rows["left_out"] == value
    other, chosen = rows[~mine], rows[mine]
    off, plain = (
        Errors.of("", chosen[name], chosen["measured_ms"])
        for name in ("estimated_ms", "no_row_used_ms")
    )
    title = (
        f"{field} {value} left out, {off.n} rows: median error {_percent(off.median)}, "
        f"p90 {_percent(off.p90)}, bias {off.bias:+.1f} %\n"
        f"With no row used at all: median error {_percent(plain.median)}"
    )
    look: dict[str, Any] = {"color": FAINT, "size": 3.5}
    back = points(other, "estimated_ms", "measured_ms", "rows of other values", **look)
    axes = Axis("predicted without them (ms)"), Axis("measured (ms)")
    figure = against(chosen, title, *axes, behind=[back])
    first = [*SHAPE, "left_out", "no_row_used_ms", "estimated_ms", *ENDS]
    return replace(figure, rows=rows[[*first, "measured_ms", *OWN_ENDS]])


def _percent(value: float) -> str:
    return percent(value / 100)


# --- the scoreboard


def methods(board: Scoreboard) -> Figure:
    """Each method's |error| in %: median (mark), mean (tick), to p90 (line), log scale.

    Best first; the grey area is the noise of repeating a measurement.
    """
    scores = pd.DataFrame(board.methods).rename(columns={"name": "method"})
    scores = scores.sort_values("median", ignore_index=True)
    floor = scores["method"] == NOISE
    scores.loc[floor, "bias"] = np.nan  # noise has no direction
    noise, shown = scores[floor], scores[~floor]
    ours = shown["method"].str.startswith("fastlab")
    layers: list[Layer] = [drawn(_noise, noise, "median", "method", "noise")]
    for own, color, name in ((ours, BLACK, "fastlab"), (~ours, GREY, "baselines")):
        look: dict[str, Any] = {"color": color}
        mean = points(shown[own], "mean", "method", marker="|", size=12, **look)
        look |= {"hollow": True, "across": ("median", "p90")}
        median = points(shown[own], "median", "method", name, **look)
        layers += [median, mean]
    least = max(LEAST, scores["median"].min() / 2)
    label = "error, % of the measured time: ○ median, | mean, line up to p90"
    x = Axis(label, "log", limits=(least, scores["p90"].max() * 1.4))
    notes = [(name, shown[name].map(_percent)) for name in ("median", "p90")]
    y = Axis("", names=list(shown["method"]))
    panel = Panel(x, y, layers, notes=notes, note_width=0.13)
    first, base = board.methods[0], shown[~ours].iloc[0]
    title = (
        f"{first.name}: {_percent(first.median)} off in the median of {first.n} rows; "
        f"{base['method']}: {_percent(base['median'])}"
    )
    return Figure([panel], title, scores, (8.6, 1.9 + 0.48 * len(shown)))


def _noise(axes: Axes, noise: pd.DataFrame) -> None:
    """All that is less than the error of repeating a measurement."""
    text: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "top"}
    for value in noise["median"]:
        axes.axvspan(LEAST / 10, value, color=PALE, lw=0, zorder=0)
        axes.text(value * 0.97, -0.55, "noise", ha="right", **text)


# --- where the time goes


def waterfalls(rows: pd.DataFrame, device: Device) -> Figure:
    """A panel for each measured row: what every step adds in ms, up to the clock.

    Hollow = estimated, hatched = what no step explains (the residual), filled =
    measured. Steps that add nothing to any are not there. ValueError where nothing was
    measured.
    """
    known = rows[rows["measured_ms"].notna()]
    if known.empty:
        labels = [point.label for point in points_of(rows)]
        each = [" ".join(pair) for pair in zip(labels, rows["status"], strict=True)]
        why = ", ".join(each) or "no rows"
        raise ValueError(f"nothing measured to explain: {why}")
    steps = _steps(known, device)
    names = [*dict.fromkeys(steps["step"]), CLOCK]
    names.insert(-2, ESTIMATE)
    panels = [
        _waterfall(str(point), own, names)
        for point, own in steps.groupby("point", sort=False)
    ]
    left = steps[steps["step"] == LEFT]
    each = [
        f"{digits(row['ms'])} of {digits(row['measured_ms'])} ms measured "
        f"({digits(row['estimated_ms'])} estimated)"
        for _, row in left.iterrows()
    ]
    title = f"What no step explains: {', '.join(each)}".replace("-", "−")
    picture: dict[str, Any] = {"size": (10.5, 1.5 + 0.42 * len(names)), "share": "y"}
    picture |= {"finish": lambda _, every: [axes.grid(False) for axes in every]}
    return Figure(panels, title, steps, note=sample_counts(known), **picture)


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


def _waterfall(point: str, steps: pd.DataFrame, names: Sequence[str]) -> Panel:
    """The steps as bars, each from the end of the one before, and both sums."""
    estimated_ms, measured_ms = steps[[*SUMS]].iloc[0]
    bars = steps[["step", "from_ms", "ms"]].to_numpy().tolist()
    bars = [*bars[:-1], [ESTIMATE, 0.0, estimated_ms], bars[-1]]
    bars.append([CLOCK, 0.0, measured_ms])
    longest = max(max(start, start + ms) for _, start, ms in bars)
    text: dict[str, Any] = {"va": "center", "fontsize": SMALL}

    def draw(axes: Axes, _: pd.DataFrame) -> None:
        for n, (step, start, ms) in enumerate(bars):
            y, end, look = names.index(step), start + ms, LOOKS.get(step, {"fc": PALE})
            axes.barh(y, ms, left=start, height=0.62, ec=BLACK, **look)
            said = (digits(ms) if start == 0 else f"{ms:+.3g}").replace("-", "−")
            axes.text(max(start, end) + 0.015 * longest, y, said, **text)
            if n + 1 < len(bars):
                below = [y - 0.31, names.index(bars[n + 1][0]) + 0.31]
                axes.plot([end, end], below, color=GREY, lw=0.8, zorder=0)

    layer = drawn(draw, steps, "ms", "step", "steps", "bars", ends=("from_ms", *SUMS))
    x = Axis("milliseconds", limits=(0, 1.14 * longest))
    return Panel(x, Axis("", names=names), [layer], point)

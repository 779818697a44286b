"""How far off estimates are: held-out rows, methods, terms, and where time goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.cost.ops import PRODUCTS
from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import BLACK, FAINT, GREY, PALE, SMALL
from fastlab.figures.sweep import against
from fastlab.latency.devices import Device
from fastlab.latency.explain import waterfall
from fastlab.latency.fit import fit
from fastlab.latency.roofline import EFFICIENCIES
from fastlab.latency.samples import ATTENTION, Sample, class_of
from fastlab.reading import SHAPE, sample_counts
from fastlab.record import Record
from fastlab.rows import points_of, table
from fastlab.scores.ablation import VARIANTS, ablations
from fastlab.scores.errors import Errors
from fastlab.scores.scoreboard import (
    HOLDOUTS,
    NOISE,
    ROWS,
    Predictions,
    Scoreboard,
    predictions,
)
from fastlab.words import digits, percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ERRORS = ("n", "median", "mean", "p90", "bias")
LEAST = 0.1  # %: the least error that the axis of methods begins with
LEFT, ESTIMATE, CLOCK = "residual", "= estimate", "measured"  # steps of a waterfall
SUMS = ("estimated_ms", "measured_ms")  # of a waterfall's point
NEARBY = {"without residual": "without nearby"}  # one word for it and for its step
KNOWN = {"hidden": "hidden sizes", "seq": "prompt lengths", "batch": "batches"}
KNOWN |= {"layers": "depths", "family": "families", ROWS: "rows"}
UNFITTED = "a roofline; `fastlab calibrate` would fit a better model"
SAME = 0.5  # points of median error that do not count as a difference
FULL = next(iter(VARIANTS))
ARITHMETIC = (*PRODUCTS, *ATTENTION)  # the classes with arithmetic to speak of
SHEETS = ["datasheet roofline", "datasheet bandwidth"]  # the second of bytes moved


# --- held-out rows


def held_out(
    records: Iterable[Record], device: Device, holdout: str = "hidden"
) -> pd.DataFrame:
    """Rows as `table` makes them, each estimated without its `holdout` value."""
    return _predicted(predictions(records, device, holdout))


def _predicted(made: Predictions) -> pd.DataFrame:
    held = zip(made.found.seconds, made.found.low, made.found.high, strict=True)
    return table(
        replace(row, estimate=replace(e, seconds=s, low_s=low, high_s=high))
        for row, e, (s, low, high) in zip(made.rows, made.estimates, held, strict=True)
    )


def knowing(holdout: str) -> str:
    """What held-out estimates were made from: "other hidden sizes known (held out)"."""
    return f"other {KNOWN[holdout]} known (held out)"


def leave_out(records: Iterable[Record], device: Device, caption: str = "") -> Explorer:
    """Leave a value of a field out: its rows stand out, predicted from all others.

    All predictions of a field are made once, when it is first chosen.
    """
    kept = list(records)
    rows_of = cache(lambda field: _without_each(kept, device, field))
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


def _without_each(
    records: Sequence[Record], device: Device, field: str
) -> pd.DataFrame:
    """Held-out rows; `left_out` is each one's value, `no_row_used_ms` the estimate."""
    made = predictions(records, device, field)
    return _predicted(made).assign(
        left_out=[HOLDOUTS[field](point) for point in made.points],
        no_row_used_ms=[1e3 * e.seconds for e in made.estimates],
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


def errors(scores: Iterable[Errors], title: str = "method") -> pd.DataFrame:
    """|error| in % of the measured time: median, mean, p90, and the signed median."""
    import pandas as pd

    rows = [{title: e.name} | {k: getattr(e, k) for k in ERRORS} for e in scores]
    return pd.DataFrame(rows)


def methods(board: Scoreboard) -> Figure:
    """Each method's |error| in %: median (mark), mean (tick), to p90 (line), log scale.

    Best first; the grey area is the noise of repeating a measurement.
    """
    scores = errors(sorted(board.methods, key=lambda e: e.median))
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


def speedups(board: Scoreboard) -> pd.DataFrame:
    """|error| in % of predicted speed-ups: pairs of rows that differ in one field."""
    import pandas as pd

    rows = pd.DataFrame(map(asdict, board.speedups))
    return rows.rename(columns={"field": "what changes", "n": "pairs"})


def holdouts(records: Iterable[Record], device: Device) -> pd.DataFrame:
    """Errors by what is left out; a field with one value only says so."""
    import pandas as pd

    rows, records = [], list(records)
    for name in (ROWS, *HOLDOUTS):
        try:
            rows.append({"left out": name, **_holdout(records, device, name)})
        except ValueError as error:
            rows.append({"left out": name, "why not": str(error)})
    return pd.DataFrame(rows)


def _holdout(records: Sequence[Record], device: Device, name: str) -> dict[str, Any]:
    made = predictions(records, device, name)
    off, folds = made.errors(), len(np.unique(made.folds))
    numbers = {k: getattr(off, k) for k in ERRORS[1:]}
    inside = made.found.coverage(made.measured)
    return {"times": folds, **numbers, "inside": inside, "half": made.found.half_width}


def calibration(device: Device) -> pd.DataFrame:
    """What estimates of the device stand on, and what to type if that is too little."""
    import pandas as pd

    fits = device.fits
    spent = {"points": fits.count, "seconds": fits.seconds} if fits else {}
    model = "fits of its microbenchmarks" if fits else UNFITTED
    precisions = ", ".join(device.peak_flops)
    line = {"device": device.name, "estimates from": model, "precisions": precisions}
    return pd.DataFrame([line | spent])


# --- where the time goes


def waterfalls(rows: pd.DataFrame, device: Device) -> Figure:
    """A panel for each measured row: what every step adds in ms, up to the clock.

    Hollow = estimated, hatched = what no step explains (the residual), filled =
    measured. Steps that add nothing to any are not there. ValueError where nothing was
    measured.
    """
    known = rows[rows["measured_ms"].notna()]
    steps = _steps(known, device)
    if steps.empty:
        labels = [point.label for point in points_of(rows)]
        each = [" ".join(pair) for pair in zip(labels, rows["status"], strict=True)]
        why = ", ".join(each) or "no rows"
        raise ValueError(f"nothing measured to explain: {why}")
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
    size = (10.5, 1.5 + 0.42 * len(names))
    return Figure(
        *(panels, title, steps, size),
        share="y",
        note=sample_counts(known),
        finish=lambda _, every: list(map(_no_grid, every)),
    )


def _no_grid(axes: Axes) -> None:
    axes.grid(False)  # it would strike through the numbers


def _steps(rows: pd.DataFrame, device: Device) -> pd.DataFrame:
    """point, step, from_ms, ms, and the sums of each point: estimated and measured."""
    import pandas as pd

    lines = [
        line
        for point, ms in zip(points_of(rows), rows["measured_ms"], strict=True)
        for line in _steps_of(point, float(ms), device)
    ]
    steps = pd.DataFrame(lines, columns=["point", "step", "from_ms", "ms", *SUMS])
    adds = steps.groupby("step")["ms"].transform(lambda ms: (ms != 0).any())
    return steps[adds.astype(bool) | (steps["step"] == LEFT)].reset_index(drop=True)


def _steps_of(point: Any, measured_ms: float, device: Device) -> Iterator[list[Any]]:
    added = {step: 1e3 * s for step, s in waterfall(point, device).items()}
    whole, reached = sum(added.values()), 0.0
    for step, ms in (added | {LEFT: measured_ms - whole}).items():
        yield [point.label, step, reached, ms, whole, measured_ms]
        reached += ms


def _waterfall(point: str, steps: pd.DataFrame, names: Sequence[str]) -> Panel:
    def draw(axes: Axes, steps: pd.DataFrame) -> None:
        _draw_steps(axes, list(_bars(steps)), {name: n for n, name in enumerate(names)})

    layer = drawn(draw, steps, "ms", "step", "steps", "bars", ends=("from_ms", *SUMS))
    ends = [steps["from_ms"] + steps["ms"], steps["from_ms"]]
    x = Axis("milliseconds", limits=(0, 1.14 * max(end.max() for end in ends)))
    return Panel(x, Axis("", names=names), [layer], point)


def _bars(steps: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    """Name, beginning and length of each bar: the steps and their two sums."""
    for _, row in steps.iterrows():
        if row["step"] == LEFT:
            yield ESTIMATE, 0.0, row["estimated_ms"]
        yield row["step"], row["from_ms"], row["ms"]
    yield CLOCK, 0.0, steps["measured_ms"].iloc[0]


def _draw_steps(axes: Axes, bars: Sequence[Any], places: dict[str, int]) -> None:
    room = 0.015 * max(max(start, start + ms) for _, start, ms in bars)
    for n, (step, start, ms) in enumerate(bars):
        y, end = places[step], start + ms
        axes.barh(y, ms, left=start, height=0.62, edgecolor=BLACK, **_look(step))
        text = (digits(ms) if start == 0 else f"{ms:+.3g}").replace("-", "−")
        place: dict[str, Any] = {"va": "center", "fontsize": SMALL}
        axes.text(max(start, end) + room, y, text, **place)
        if n + 1 < len(bars):
            below = [y - 0.31, places[bars[n + 1][0]] + 0.31]
            axes.plot([end, end], below, color=GREY, lw=0.8, zorder=0)


def _look(step: str) -> dict[str, Any]:
    if step == CLOCK:
        return {"facecolor": BLACK}
    hollow = "white" if step in (LEFT, ESTIMATE) else PALE
    return {"facecolor": hollow, "hatch": "////" if step == LEFT else ""}


# --- does every term of the fit earn its place?


def ablation(
    samples: Sequence[Sample], device: Device, precisions: Sequence[str] = ()
) -> pd.DataFrame:
    """Median |error| in % of samples left out of the fit, one line for each fit.

    The best fit first; of the samples of these precisions, of all where there are none.
    Columns: class, precision, then the full model, those without a term, baselines; NaN
    where a fit has no such term. nearby = the fit's residual, which the waterfall calls
    so; span = the most bytes of a sample over the fewest. Classes with no sample to
    spare are left out.
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in [s for s in samples if s.precision in precisions] or samples:
        groups[class_of(sample), sample.precision].append(sample)
    lines = [
        {"class": kind, "precision": precision, "samples": len(group)}
        | {"span": max(s.bytes for s in group) / min(s.bytes for s in group)}
        | {e.name: e.median for e in ablations(group, device)}
        for (kind, precision), group in groups.items()
        if len(group) > len(fit(group, device).parameters)
    ]
    names = ["class", "precision", "samples", *VARIANTS, *EFFICIENCIES]
    others = [n for n in dict.fromkeys(n for f in lines for n in f) if n not in names]
    made = pd.DataFrame(lines, columns=names + others).sort_values(FULL)
    made = made.dropna(axis="columns", how="all").rename(columns=NEARBY)
    return made.reset_index(drop=True)


def fits(ablated: pd.DataFrame) -> pd.DataFrame:
    """The columns of `ablation` that fit on a page, with one baseline: the datasheet.

    Its roofline, or of what only moves bytes its bandwidth.
    """
    first = ["class", "precision", "samples", FULL]
    terms = [name for name in ablated if str(name).startswith("without ")]
    sheet = ablated.reindex(columns=SHEETS).bfill(axis="columns")[SHEETS[0]]
    return ablated[first + terms].assign(datasheet=sheet)


def farthest(ablated: pd.DataFrame) -> str:
    """The fit that is farthest off, and how few and unlike samples it had."""
    row = ablated.iloc[-1]
    return (
        f"farthest off: {row['class']} in {row['precision']}, {_percent(row[FULL])}, "
        f"where each of {row['samples']} samples is predicted from the others, though "
        f"the largest moves {digits(row['span'])} times the bytes of the smallest"
    )


def terms(ablated: pd.DataFrame) -> pd.DataFrame:
    """In how many fits the error grows, stays or falls when a term is left out.

    Apart for operations with arithmetic, and for those that only move bytes.
    """
    import pandas as pd

    arithmetic = ablated["class"].isin(ARITHMETIC)
    among = {"products, attention": arithmetic, "bytes moved": ~arithmetic}
    rows = [
        _term(name, where, (ablated[name] - ablated[FULL])[mine].dropna())
        for where, mine in among.items()
        for name in (NEARBY.get(name, name) for name in VARIANTS)
        if name in ablated and name != FULL
    ]
    return pd.DataFrame([row for row in rows if row["fits"]])


def _term(name: str, where: str, change: pd.Series) -> dict[str, Any]:
    worse, better = int((change > SAME).sum()), int((change < -SAME).sum())
    return {
        "left out": name.removeprefix("without "),
        "among": where,
        "fits": len(change),
        "worse": worse,
        "same": len(change) - worse - better,
        "better": better,
        "median change": float(change.median()),
        "pays": "yes" if worse > better else "no",
    }

"""Number formats: what each buys in time and bytes, over which batches, at what loss.

Rows have speed-ups and quality: over(with_quality(estimated(rows, device), known),
precision=baseline).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.figures.explorer import Explorer, around, explore
from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import bars, clocks, even_at, gridlines, level, line, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.roofline import batches_to, device_menu
from fastlab.figures.style import GREY, color_of, look_of
from fastlab.figures.sweep import against
from fastlab.latency.devices import Device
from fastlab.reading import name_of, nothing_measured
from fastlab.rows import compared, over, table, with_missing
from fastlab.spec.formats import FORMATS
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import override
from fastlab.words import digits, factor, percent, si, times

if TYPE_CHECKING:
    import pandas as pd

GAINS = ("estimated_gain", "measured_gain")
CALL = ("phase", "batch", "rows", "precision")
SHOWN = (
    *(*CALL, "runtime", "device", "status", "reason", "estimated_ms", *ENDS, "bound"),
    *("calibrated", "measured_ms", *OWN_ENDS, "n", "compile_s", "weights_mb"),
    *("kl_nats", "top1", "max_abs", *GAINS),
)
ALONE = {"arithmetic ms": "o", "memory ms": "s"}  # what each would take; its marker
TICKS = tuple(step * 10.0**n for n in range(-4, 6) for step in (1, 3))  # ms
STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
HIDDEN = (256, 512, 1024, 2048, 4096, 8192)
LENGTHS = (32, 64, 512, 2048, 8192)
MOST = 256  # the largest batch of the explorer
LIMITS = (0.08, 8.0)  # its axis stays as controls move
USUAL = ("fp32", "bf16", "int8", "int8-dynamic", "int4-g128", "fp8-dynamic")


def calls(rows: pd.DataFrame) -> pd.DataFrame:
    """What figures here show of rows; `rows`: tokens that each product computes."""
    tokens = rows["prompt_len"].where(rows["phase"] == "prefill", 1)
    counted = rows.assign(rows=(rows["batch"] * tokens).astype(int))
    return counted[[name for name in SHOWN if name in counted]]


def with_loss(precision: str, rows: pd.DataFrame, between: str = ", ") -> str:
    """The precision's name, with its KL against fp32 where that is known and not 0."""
    lost = [kl for kl in rows[rows["precision"] == precision]["kl_nats"].dropna() if kl]
    return f"{precision}{between}KL {lost[0]:.1g}" if lost else precision


def comparable(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The rows with a predicted and a measured speed-up, but the baseline's."""
    both = rows[[*GAINS]].notna().all(axis="columns")
    return rows[both & (rows["precision"] != baseline)]


def _each(rows: pd.DataFrame, make: Callable[[Any, pd.DataFrame], Any]) -> list[Any]:
    """All that is made of each precision's name and rows, in their order."""
    groups = rows.groupby("precision", sort=False)
    return [one for name, own in groups for one in make(name, own)]


# --- time, bytes and quality


def trade(rows: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """A line for each precision: ms of each phase, MB stored, KL against fp32.

    Hollow marks are estimated, with their interval; filled ones measured.
    """
    shown = calls(rows)
    each = shown.groupby("precision", sort=False, as_index=False).first()
    names = Axis("", names=list(each["precision"]))
    phases = [own for _, own in shown.groupby("phase", sort=False)]
    panels = [_phase(own, names, baseline) for own in phases]
    panels += [_weights(each, names), _quality(each, names)]
    others = comparable(shown, baseline)
    best = others.loc[others.groupby("phase", sort=False)["measured_gain"].idxmax()]
    fastest = [
        f"at {row['phase']} {times(row['measured_gain'])} by "
        f"{with_loss(row['precision'], shown)}"
        for _, row in best.iterrows()
    ]
    title = f"Fastest beside {baseline}: {'; '.join(fastest) or 'nothing measured'}"
    widths = [1.5] * len(phases) + [0.7, 1.0]
    size = (10.8, 2.2 + 0.5 * len(each))
    return Figure(panels, title, shown, size, widths=widths, share="y")


def _phase(rows: pd.DataFrame, names: Axis, baseline: str) -> Panel:
    phase = rows["phase"].iloc[0]
    layers = _each(
        rows,
        lambda p, own: clocks(own, "precision", f"{p} {phase}", **look_of(p, phase)),
    )
    said = {row["precision"]: _gained(row, baseline) for _, row in rows.iterrows()}
    notes = [(f"over {baseline}\n(predicted)", [said.get(n, "") for n in names.names])]
    axis = Axis("ms: hollow = estimated", "log", ticks=TICKS)
    return Panel(axis, names, layers, _call(phase, rows["rows"].iloc[0]), notes=notes)


def _call(phase: str, rows: int) -> str:
    return f"{phase}, {rows:,} row{'s' if rows > 1 else ''}"


def _gained(row: Any, baseline: str) -> str:
    if row["measured_ms"] != row["measured_ms"]:
        return str(row["status"])
    if row["precision"] == baseline:
        return "baseline"
    made, found = (times(row[n]) if row[n] == row[n] else "" for n in GAINS)
    return f"{found} ({made})" if made else found


def _weights(each: pd.DataFrame, names: Axis) -> Panel:
    """Bars of the weights as stored, scales and all that stays dense included."""
    layers = _each(
        each[each["weights_mb"].notna()],
        lambda p, own: [bars(own, "weights_mb", "precision", p, color=color_of(p))],
    )
    said = [digits(mb) if mb == mb else "" for mb in each["weights_mb"].astype(float)]
    return Panel(Axis("MB"), names, layers, "weights", notes=[("as\nstored", said)])


def _quality(each: pd.DataFrame, names: Axis) -> Panel:
    """KL on a log scale; top-1 agreement and the largest difference beside it."""
    lost = each[each["kl_nats"].astype(float) > 0]
    layers = [
        points(own, "kl_nats", "precision", "KL", marker="D", color=color_of(p))
        for p, own in lost.groupby("precision", sort=False)
    ]
    low, high = lost["kl_nats"].min() / 4, lost["kl_nats"].max() * 4
    ticks, limits = [10.0**n for n in range(-8, 3, 2)], (low, high)
    axis = Axis("KL (nats)", "log", ticks=ticks, limits=limits if len(lost) else None)
    said = [
        "reference" if kl == 0 else f"{percent(same)}, {off:.2g}".removesuffix(", nan")
        for kl, same, off in each[["kl_nats", "top1", "max_abs"]].to_numpy(float)
    ]
    notes = [("top-1,\nmax |Δ logit|", said)]
    return Panel(axis, names, layers, "quality lost", notes=notes)


# --- why


def reasons(floors: pd.DataFrame, rows: pd.DataFrame, rates: str) -> Figure:
    """A panel for each call: what arithmetic and memory would take alone, in ms.

    floors: a line for each call (phase, batch, rows, precision), "arithmetic ms" and
    "memory ms". What is to the right decides. Filled: measured, where `rows` have it.
    """
    measured = calls(rows)[[*CALL, "measured_ms", *OWN_ENDS]]
    alone = floors.merge(measured, "left", [*CALL])
    names = Axis("", names=list(dict.fromkeys(alone["precision"])))
    axis, panels, said = Axis("ms", "log", ticks=TICKS), [], []
    for (phase, many), own in alone.groupby(["phase", "rows"], sort=False):
        call, longer = _call(phase, many), own["memory ms"] > own["arithmetic ms"]
        panels.append(Panel(axis, names, _each(own, _alone), call))
        said.append(f"{longer.sum()} of {len(own)} at {call}")
    title = f"Memory takes longer than arithmetic for {'; '.join(said)}\n"
    title += "○ arithmetic alone, □ memory alone (large: the longer), ◆ measured; "
    size = (10.8, 2.2 + 0.42 * len(names.names))
    return Figure(panels, title + rates, alone, size, share="y")


def _alone(precision: str, rows: pd.DataFrame) -> list[Layer]:
    color, longest = color_of(precision), rows[[*ALONE]].to_numpy().max()
    layers = []
    for what, marker in ALONE.items():
        look: dict[str, Any] = {"color": color, "marker": marker, "hollow": True}
        look |= {"size": 11 if rows[what].max() == longest else 6, "across": (*ALONE,)}
        name = f"{precision} {what.removesuffix(' ms')}"
        layers.append(points(rows, what, "precision", name, **look))
    measured = clocks(rows, "precision", precision, color=color, marker="D", size=7)
    return [*layers, *measured]


def per_byte(rows: pd.DataFrame) -> Figure:
    """Measured ms against the bytes that a call moves, log-log, a mark for each row.

    The line is the highest rate that any row reached: who lies above it waits for
    something else than for bytes.
    """
    known = compared(rows)
    if known.empty:
        return nothing(nothing_measured(rows))
    known = known.assign(gb_per_s=known["bytes"] / known["measured_ms"] / 1e6)
    fastest = known.loc[known["gb_per_s"].astype(float).idxmax()]
    rate = f"{digits(fastest['gb_per_s'])} GB/s"
    ends = np.array([known["bytes"].min(), known["bytes"].max()])
    along: dict[str, Any] = {"color": GREY, "ls": "--", "lw": 1.2, "label": rate}
    layers = []
    for (p, phase), own in known.groupby(["precision", "phase"], sort=False):
        named, look = f"{p} {phase}", look_of(p, phase)
        layers.append(points(own, "bytes", "measured_ms", named, ends=OWN_ENDS, **look))
    sizes = [step * 10.0**n for n in range(3, 14) for step in (1, 2, 5)]
    moved = Axis("bytes moved", "log", ticks=sizes, write=lambda size: si(size, "B"))
    panel = Panel(
        *(moved, Axis("measured ms", "log", ticks=TICKS), layers),
        key="beside",
        decor=[lambda axes: axes.plot(ends, ends / fastest["gb_per_s"] / 1e6, **along)],
    )
    title = f"The most bytes a second: {rate}, {name_of(fastest)}"
    names = [*CALL[:2], "precision", "bytes", "measured_ms", *OWN_ENDS, "gb_per_s"]
    return Figure([panel], title, known[names], (8.8, 5.2))


# --- at which batch


def speedup_curves(
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
    recipes = [
        Recipe(name, runtime=point.recipe.runtime)
        for name in dict.fromkeys([baseline, *precisions])
        if device.can(name) and divides(point, name)
    ]
    works = [replace(point.workload, batch=batch) for batch in batches_to(most)]
    steps = [replace(point, recipe=r, workload=work) for r in recipes for work in works]
    rows = with_missing(table([]), steps, device.name, device)
    sure = ~rows["extrapolated"].astype(bool) | (rows["precision"] == baseline)
    rows = rows.assign(status="estimated", reason="", calibrated=sure)
    return over(rows, precision=baseline)


def divides(point: Point, precision: str) -> bool:
    """Whether the groups of a precision divide the widths of the point's model."""
    group, shape = FORMATS[precision].group, point.shape
    widths = (shape.hidden, shape.heads * shape.head_dim, shape.ffn)
    return not group or not any(width % group for width in widths)


def crossing(rows: pd.DataFrame, gain: str = "estimated_gain") -> float:
    """The smallest batch from which on a precision is not faster; inf if there is none.

    In between two batches it is put where a straight line, in log batch and log gain,
    crosses one.
    """
    faster = rows[gain].to_numpy(float) > 1
    if not faster.any():
        return float(rows["batch"].iloc[0])
    return np.inf if faster[-1] else np.exp(even_at(np.log(rows["batch"]), rows[gain]))


def by_batch(
    curves: pd.DataFrame,
    rows: pd.DataFrame,
    baseline: str = "bf16",
    head: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Speed-up over the baseline against the batch of a decode step, log-log.

    Lines are speedup_curves(): thin and pale beyond what was calibrated, dashed where
    activations are quantized too. Filled marks are the measured rows.
    """
    import pandas as pd

    lines, marks = calls(curves), calls(rows)
    shown = pd.concat([part for part in (marks, lines) if len(part)], ignore_index=True)
    others = comparable(marks, baseline)
    layers = _each(lines, lambda name, own: [_curve(own, with_loss(name, marks))])
    layers += [
        points(own, "batch", "measured_gain", **look_of(name, "decode"))
        for name, own in others.groupby("precision", sort=False)
    ]
    most, gains = int(lines["batch"].max()), shown[[*GAINS]].to_numpy(float)
    ticks = [2**n for n in range(30) if 2**n <= most]
    x = Axis(
        "batch: rows in each product", "log", ticks=ticks, limits=(0.85, most * 1.05)
    )
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


def _curve(rows: pd.DataFrame, name: str) -> Layer:
    precision = rows["precision"].iloc[0]
    kind = FORMATS[precision]
    dash = "--" if kind.dynamic else ":" if kind.autocast else "-"
    look: dict[str, Any] = {"color": color_of(precision), "dash": dash}
    return line(rows, "batch", "estimated_gain", name, **look, sure="calibrated")


def _turns(curves: pd.DataFrame, marks: pd.DataFrame, baseline: str) -> str:
    """From which batch on precisions are slower, by the estimate and by the clock."""
    said = []
    for name, own in curves.groupby("precision", sort=False):
        clock = marks[marks["precision"] == name].sort_values("batch")
        measured = f" ({crossing(clock, GAINS[1]):.0f})" if len(clock) else ""
        if name != baseline and 1 < crossing(own) < np.inf:
            said.append(f"{name} {crossing(own):.0f}{measured}")
    what = "estimated (measured)" if len(marks) else "estimated"
    each = ", ".join(said) or "none that starts out faster"
    return f"Slower than {baseline} from this batch on, {what}\n{each}"


# --- compiled, and predicted


def engines(rows: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """A line for each precision: ms of a decode step, eager above compiled.

    Beside it the speed-up by compiling, over the compiled baseline, and the seconds
    that compiling took.
    """
    shown = calls(rows)
    names = {p: with_loss(p, shown, "\n") for p in dict.fromkeys(shown["precision"])}
    said = _each(shown, lambda _, own: [_compiled(own)])
    layers: list[Layer] = []
    both = shown.groupby(["precision", "runtime"], sort=False)
    for (precision, runtime), own in both:
        shift, marker = (-0.16, "^") if runtime == "eager" else (0.16, "o")
        look: dict[str, Any] = {"shift": shift, "marker": marker}
        look["color"] = color_of(precision)
        layers += clocks(own, "precision", f"{precision} {runtime}", **look)
    heads = ("by\ncompiling", f"compiled,\nover {baseline}", "seconds to\ncompile")
    notes = list(zip(heads, zip(*said, strict=True), strict=True))
    axis = Axis("ms a decode step: ▲ eager, ● compiled, hollow: estimated", "log")
    panel = Panel(axis, Axis("", names=names), layers, notes=notes, note_width=0.17)
    each = (f"{name} {by}" for name, (by, *_) in zip(names, said, strict=True))
    title = f"By compiling: {', '.join(each)}"
    return Figure([panel], title, shown, (9.6, 2.0 + 0.6 * len(names)))


def _compiled(rows: pd.DataFrame) -> tuple[str, str, str]:
    """The speed-up by compiling, that over the baseline, and its seconds, in words."""
    is_eager, known = rows["runtime"] == "eager", rows["measured_ms"].notna()
    eager, fused = rows[is_eager & known], rows[~is_eager & known]
    if not len(eager) or not len(fused):
        lacking = rows[~known]["status"]
        return f"compiled: {lacking.iloc[0]}" if len(lacking) else "eager only", "", ""
    gain, spent = fused[["measured_gain", "compile_s"]].to_numpy(float)[0]
    by = times(eager["measured_ms"].iloc[0] / fused["measured_ms"].iloc[0])
    over_base = times(gain) if gain == gain else ""
    return by, over_base, digits(spent) if spent == spent else ""


def predicted_speedups(rows: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """Measured against predicted speed-ups over the baseline, of any calls, log-log."""
    shown = calls(rows)
    both = comparable(shown, baseline)
    if both.empty:
        return nothing(f"no precision beside {baseline} was measured")
    predicted, measured = np.log(both[[*GAINS]].to_numpy(float)).T
    off = np.exp(np.median(np.abs(predicted - measured)))
    title = f"{(predicted * measured > 0).sum()} of {len(both)} speed-ups on the "
    title += f"predicted side of ×1; median off by a factor of {off:.2f}"
    what = f"speed-up over {baseline}"
    axes = (_speedup(f"predicted {what}"), _speedup(f"measured {what}"))
    names = {precision: with_loss(precision, both) for precision in both["precision"]}
    figure = against(both, title, *axes, GAINS, names=names)
    (panel,) = figure.panels
    panel = replace(panel, decor=[*panel.decor, level(1), level(1, "x")])
    return replace(figure, panels=[panel], rows=shown)


# --- the explorer


def paying(
    point: Point,
    *given: Device | None,
    rows: pd.DataFrame | None = None,
    baseline: str = "bf16",
) -> Explorer:
    """At which batch a precision stops paying: hidden size, cache, runtime and device.

    The given devices are offered before the datasheets; `rows`, measured on the first,
    are drawn where the controls stand on their model and call.
    """
    offered = device_menu(*given)
    hidden, cached = point.shape.hidden, point.workload.prompt_len
    own = {"hidden": hidden, "cached": cached, "runtime": point.recipe.runtime}
    own["device"] = next(iter(offered.values()))

    def make(**state: Any) -> Figure:
        device, moved = state["device"], _moved(point, **state)
        curves = speedup_curves(moved, device, USUAL, MOST, baseline)
        here = rows if rows is not None and state == own else curves[:0]
        here = here[here["precision"].isin(set(curves["precision"]))]
        size = f"{point.shape.family} {point.shape.layers}x{state['hidden']}"
        call = f"{state['runtime']}, {state['cached']:,} tokens cached"
        head = f"{size} on {device.name}, {call}"
        return by_batch(curves, here, baseline, head, LIMITS)

    return explore(
        *(make, own, "lines: estimated, nothing runs; marks: measured"),
        hidden=around(HIDDEN, hidden),
        cached=around(LENGTHS, cached),
        runtime=["eager", "decoder"],
        device={n: one for n, one in offered.items() if one.can(baseline)},
    )


def _moved(point: Point, hidden: int, cached: int, runtime: str, **_: Any) -> Point:
    """The point of another hidden size, cache and runtime; heads and ffn follow."""
    sizes = {"max_positions": max(point.shape.max_positions, cached + 1)}
    sizes |= {"hidden": hidden} if hidden != point.shape.hidden else {}
    recipe = Recipe(attention=point.recipe.attention, runtime=runtime)
    work = Workload("decode", 1, cached)
    return Point(override(point.shape, sizes), work, recipe, point.weights)

"""Layers, widths, phases: estimates beside measurements, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure, against, nothing
from fastlab.figures.layers import clocks, line, points, tiles
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import FAINT, GREY, log_norm, look_of, ratio_norm
from fastlab.latency.devices import Device
from fastlab.reading import name_of, nothing_measured, short, within
from fastlab.rows import compared, estimated, points_of, settled
from fastlab.spec.point import Point
from fastlab.spec.shape import override
from fastlab.words import digits, si, times

UNSURE = "~"  # before the number of a measurement that has not settled
BETWEEN = 64  # estimated hidden sizes are multiples of it
REACH = 2  # an explorer goes to so many times the most layers measured
MOST = 64  # layers of the explorer of one model


def pairs(rows: pd.DataFrame) -> Figure:
    """A line for each point: hollow = estimated with its interval, filled = clock."""
    known = compared(rows)
    if known.empty:
        return nothing(nothing_measured(rows))
    sizes = known["layers"].map("{} layers x ".format) + known["hidden"].astype(str)
    known = known.assign(call=sizes + ", " + known["phase"])
    sure = settled(known)
    ratios = known["ratio"].map(times).where(sure, UNSURE + known["ratio"].map(times))
    heading = "ratio" if sure.all() else f"ratio\n({UNSURE} not settled)"
    layers: list[Layer] = []
    for (precision, phase), own in known.groupby(["precision", "phase"], sort=False):
        look, named = look_of(precision, phase), f"{precision} {phase}"
        layers += clocks(own, "call", named, **look)
    axis = Axis("milliseconds: hollow = estimated, filled = measured", "log")
    calls = Axis("", names=list(known["call"]))
    panel = Panel(axis, calls, layers, notes=[(heading, list(ratios))])
    title = f"measured / estimated: {within(known, 1.25)}"
    return Figure([panel], title, known, (8.6, 1.6 + 0.42 * len(known)))


def scatter(rows: pd.DataFrame, knowing: str = "no row used") -> Figure:
    """Measured against estimated ms, log-log, with the bands ×1.25 and ×2.

    knowing: what the estimates were made from, for the title.
    """
    known = compared(rows)
    if known.empty:
        return nothing(nothing_measured(rows))
    row = known.iloc[int(np.abs(np.log(known["ratio"].to_numpy(float))).argmax())]
    worst = f"{name_of(row)}: {times(row['ratio'])}"
    median = f"measured / estimated: median {times(known['ratio'].median())}"
    title = f"Estimates, {knowing}\n{median}, {within(known, 1.25)}\nfarthest {worst}"
    pair: dict[str, Any] = {"x": "estimated_ms", "y": "measured_ms"}
    ring = points(row.to_frame().T, **pair, color=GREY, hollow=True, size=15)
    axes = Axis("estimated (ms)"), Axis("measured (ms)")
    shown = short(known).join(known[[*ENDS, *OWN_ENDS]])
    return replace(against(known, title, *axes, behind=[ring]), rows=shown)


def heatmaps(rows: pd.DataFrame, phase: str, precision: str) -> Figure:
    """Layers x hidden in three panels: measured ms, estimated ms, and their ratio.

    The first two share one colour scale, made without unsettled cells (~); a cell
    without a value names its status. ValueError where rows compete for one cell.
    """
    chosen = choose(rows, phase, precision)
    twice = chosen[chosen.duplicated(["layers", "hidden"])]
    if len(twice):
        where = f"{twice['layers'].iloc[0]} layers x {twice['hidden'].iloc[0]}"
        raise ValueError(
            f"several rows for {where}, {precision} {phase}: keep one family, batch "
            "and prompt_len before drawing"
        )
    sure, failed = settled(chosen), chosen["status"] != "ok"
    made = chosen["status"].where(failed, "")
    chosen = chosen.assign(made=made, sure=made.where(sure | failed, UNSURE))
    norm = log_norm([*chosen["measured_ms"][sure], *chosen["estimated_ms"]])
    apart: dict[str, Any] = {"norm": ratio_norm(chosen["ratio"][sure]), "write": times}
    what = f"{precision} {phase}, milliseconds"
    panels = [
        _map(chosen, f"measured {what}", "measured_ms", "sure", norm=norm),
        _map(chosen, f"estimated {what}", "estimated_ms", "made", norm=norm),
        _map(chosen, "measured / estimated", "ratio", "sure", cmap="RdBu_r", **apart),
    ]
    title = "blue: faster, red: slower than estimated"
    title += "" if sure.all() else f"; {UNSURE} few samples, or a wide interval"
    height = 1.4 + 0.62 * chosen["layers"].nunique()
    return Figure(panels, title, chosen, (10.5, height), share="y")


def _map(rows: pd.DataFrame, title: str, value: str, words: str, **look: Any) -> Panel:
    layers = [str(n) for n in sorted(set(rows["layers"]), reverse=True)]
    hidden = [str(n) for n in sorted(set(rows["hidden"]))]
    axes = Axis("hidden size", names=hidden), Axis("layers", names=layers)
    cells = tiles(rows, "hidden", "layers", value, title, words=words, **look)
    return Panel(*axes, [cells], title)


def choose(rows: pd.DataFrame, phase: str, precision: str) -> pd.DataFrame:
    """The rows of one phase and precision; ValueError says which ones there are."""
    chosen = rows[(rows["phase"] == phase) & (rows["precision"] == precision)]
    if chosen.empty:
        there = sorted(set(zip(rows["precision"], rows["phase"], strict=True)))
        have = ", ".join(" ".join(pair) for pair in there) or "no rows at all"
        raise ValueError(f"no rows for {precision} {phase}; there are {have}")
    return chosen


def layers_by_hidden(
    rows: pd.DataFrame, profile: Device | None = None, caption: str = ""
) -> Explorer:
    """Time against hidden size, for any number of layers up to twice those measured.

    profile: the device that is estimated; without it only the rows' own estimates.
    """
    most = int(rows["layers"].max())

    def make(layers: int, precision: str, phase: str) -> Figure:
        chosen = choose(rows, phase, precision)
        ends = [curve(chosen, profile, n) for n in (1, REACH * most)]
        room = pd.concat([chosen[settled(chosen)], *ends])  # so that a move shows
        return by_hidden(chosen, curve(chosen, profile, layers), layers, room)

    return explore(
        make,
        {"layers": most},
        caption,
        layers=(1, REACH * most),
        precision=list(dict.fromkeys(rows["precision"])),
        phase=list(dict.fromkeys(rows["phase"])),
    )


def by_hidden(
    rows: pd.DataFrame, own: pd.DataFrame, layers: int, room: pd.DataFrame
) -> Figure:
    """Time against hidden size at one depth; other depths stay in grey behind.

    own: the estimated curve; room: rows that the axis keeps room for.
    """
    precision, phase = rows["precision"].iloc[0], rows["phase"].iloc[0]
    known = rows[rows["measured_ms"].notna()].sort_values("hidden")
    here, rest = known[known["layers"] == layers], known[known["layers"] != layers]
    back: dict[str, Any] = {"color": FAINT, "size": 5, "line": "-"}
    drawn = [
        points(group, "hidden", "measured_ms", f"{other} layers", **back)
        for other, group in rest.groupby("layers")
    ]
    look = look_of(precision, phase)
    over: dict[str, Any] = {"dash": "--", "band": ENDS, "color": look["color"]}
    drawn.append(line(own, "hidden", "estimated_ms", f"{layers}, estimated", **over))
    drawn.append(points(here, "hidden", "measured_ms", "", ends=OWN_ENDS, **look))
    what = "line estimated, marks measured" if len(here) else "estimated only"
    title = f"{precision} {phase}, {layers} layers: {what}"
    sizes = sorted(set(rows["hidden"]))
    ends = sizes[0] / 1.15, sizes[-1] * 1.1
    ms = room.reindex(columns=["measured_ms", *ENDS]).to_numpy(float)
    ms = ms[np.isfinite(ms)]
    limits = (ms.min() / 1.4, ms.max() * 1.4) if ms.size else None
    x = Axis("hidden size", "log", ticks=sizes, limits=ends)
    panel = Panel(x, Axis("milliseconds", "log", limits=limits), drawn, key="edge")
    return Figure([panel], title, size=(8.2, 4.8))


def curve(rows: pd.DataFrame, profile: Device | None, layers: int) -> pd.DataFrame:
    """Estimated ms against hidden at a number of layers, in between the rows too."""
    made = rows[rows["layers"] == layers]
    if profile is not None:
        made = estimated(_widths(rows, layers), profile)
    found = made[["hidden", "estimated_ms", *ENDS]].dropna()
    return found.sort_values("hidden").astype(dict.fromkeys(found, float))


def _widths(rows: pd.DataFrame, layers: int) -> list[Point]:
    """A point for every hidden size of the rows, and for those in between."""
    known = {point.shape.hidden: point for point in points_of(rows)}
    first, steps = known[min(known)], range(min(known), max(known), BETWEEN)
    # Where all heads and ffn are those that follow from hidden, others' follow too.
    if all(p.shape == override(p.shape, {"hidden": n}) for n, p in known.items()):
        shapes = {n: override(first.shape, {"hidden": n}) for n in steps}
        known = {n: replace(first, shape=s) for n, s in shapes.items()} | known
    return [replace(p, shape=replace(p.shape, layers=layers)) for p in known.values()]


def depth(point: Point, devices: Sequence[Device]) -> Explorer:
    """Estimated ms of a model on each device, for 1 to 64 layers."""
    ends = [on_devices(point, devices, n) for n in (1, MOST)]
    limits = (ends[0][ENDS[0]].min() * 0.7, ends[1][ENDS[1]].max() * 1.4)

    def make(layers: int) -> Figure:
        rows = on_devices(point, devices, layers)
        look: dict[str, Any] = {"size": 9, "across": ENDS, "hollow": True, "pale": True}
        marks = points(rows, "estimated_ms", "on", "estimated", **look)
        each = rows[["estimated_ms", "bound"]].itertuples(index=False)
        said = [f"{digits(ms)} ms, bound by {bound}" for ms, bound in each]
        axis = Axis("estimated milliseconds", "log", limits=limits)
        on = Axis("", names=list(rows["on"]))
        work, first = point.workload, rows.iloc[0]
        costs = f"{si(first['parameters'])} parameters, {si(first['flops'], 'FLOP')}"
        call = f"{work.phase}, {work.prompt_len} tokens"
        title = f"{layers} layers x {point.shape.hidden}, {call}: {costs}"
        panel = Panel(axis, on, [marks], notes=[("", said)])
        return Figure([panel], title, rows, (8.6, 1.7 + 0.55 * len(rows)))

    caption = (
        "nothing runs: all times are estimated. A datasheet is what a device could do "
        "at best: estimated, not calibrated"
    )
    caption = "; ".join([caption, *(d.trust for d in devices if d.trust)])
    return explore(make, {"layers": point.shape.layers}, caption, layers=(1, MOST))


def on_devices(point: Point, devices: Sequence[Device], layers: int) -> pd.DataFrame:
    """What the model with so many layers should take on each device."""
    deep = replace(point, shape=replace(point.shape, layers=layers))
    tables = []
    for device in devices:
        basis = "rates measured here" if device.calibrated else "datasheet"
        name = "this machine" if device.calibrated else device.name
        known = {"on": f"{name}\n({basis})", "device": device.name, "basis": basis}
        tables.append(estimated([deep], device).assign(**known))
    names = ["on", "device", "basis", "estimated_ms", *ENDS, "bound"]
    every = pd.concat(tables, ignore_index=True)
    return every[[*names, "parameters", "flops"]]

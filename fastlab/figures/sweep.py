"""Layers, widths, phases: estimates beside measurements, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure, against, nothing
from fastlab.figures.layers import clocks, line, points, tiles
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Panel
from fastlab.figures.style import FAINT, GREY, log_norm, look_of, ratio_norm
from fastlab.latency.devices import Device
from fastlab.reading import name_of, nothing_measured, short, within
from fastlab.rows import compared, estimated, points_of, settled
from fastlab.spec.point import Point, vary
from fastlab.spec.shape import override
from fastlab.words import digits, si, times

UNSURE = "~"  # before the number of a measurement that has not settled
BETWEEN = 64  # estimated hidden sizes are multiples of it
MOST = 64  # layers that the axis of devices has room for


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
    axis = Axis("milliseconds: hollow = estimated, filled = measured", "log")
    calls = Axis("", names=list(known["call"]))
    panel = Panel(axis, calls, clocks(known, "call"), notes=[(heading, list(ratios))])
    title = f"measured / estimated: {within(known, 1.25)}"
    return Figure([panel], title, _told(known), (8.6, 1.6 + 0.42 * len(known)))


def _told(rows: pd.DataFrame) -> pd.DataFrame:
    return short(rows).join(rows[[*ENDS, *OWN_ENDS]])


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
    return replace(against(known, title, *axes, behind=[ring]), rows=_told(known))


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
    return Figure(panels, title, _told(chosen), (10.5, height), share="y")


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


def by_hidden(
    rows: pd.DataFrame, profile: Device | None, layers: int, precision: str, phase: str
) -> Figure:
    """Time against hidden size at one depth; other depths stay in grey behind.

    profile: the device that is estimated; without it only the rows' own estimates. The
    axis has room for one layer, and for twice as many as were measured.
    """
    rows = choose(rows, phase, precision)
    ends = [curve(rows, profile, n) for n in (1, 2 * int(rows["layers"].max()))]
    known = rows[rows["measured_ms"].notna()].sort_values("hidden")
    here, rest = known[known["layers"] == layers], known[known["layers"] != layers]
    back: dict[str, Any] = {"color": FAINT, "size": 5, "line": "-"}
    drawn = [
        points(group, "hidden", "measured_ms", f"{other} layers", **back)
        for other, group in rest.groupby("layers")
    ]
    look, own = look_of(precision, phase), curve(rows, profile, layers)
    over: dict[str, Any] = {"dash": "--", "band": ENDS, "color": look["color"]}
    drawn.append(line(own, "hidden", "estimated_ms", f"{layers}, estimated", **over))
    drawn.append(points(here, "hidden", "measured_ms", "", ends=OWN_ENDS, **look))
    what = "line estimated, marks measured" if len(here) else "estimated only"
    title = f"{precision} {phase}, {layers} layers: {what}"
    sizes = sorted(set(rows["hidden"]))
    edges = sizes[0] / 1.15, sizes[-1] * 1.1
    room = pd.concat([rows[settled(rows)], *ends])[["measured_ms", *ENDS]].astype(float)
    limits = None if room.empty else (room.min().min() / 1.4, room.max().max() * 1.4)
    x = Axis("hidden size", "log", ticks=sizes, limits=edges)
    panel = Panel(x, Axis("milliseconds", "log", limits=limits), drawn, key="edge")
    return Figure([panel], title, size=(8.2, 4.8))


def curve(rows: pd.DataFrame, profile: Device | None, layers: int) -> pd.DataFrame:
    """Estimated ms against hidden at a number of layers, in between the rows too."""
    made = rows[rows["layers"] == layers]
    if profile is not None:
        known = {point.shape.hidden: point for point in points_of(rows)}
        first, steps = known[min(known)], range(min(known), max(known), BETWEEN)
        # Where heads and ffn are those that follow from hidden, others' follow too.
        if all(p.shape == override(p.shape, {"hidden": n}) for n, p in known.items()):
            shapes = {n: override(first.shape, {"hidden": n}) for n in steps}
            known = {n: replace(first, shape=s) for n, s in shapes.items()} | known
        made = estimated([vary(p, "layers", layers) for p in known.values()], profile)
    found = made[["hidden", "estimated_ms", *ENDS]].dropna()
    return found.sort_values("hidden").astype(float)


def on_devices(point: Point, devices: Sequence[Device], layers: int) -> Figure:
    """Estimated ms of a model with so many layers, a line for each device.

    The axis has room for 1 to 64 layers.
    """
    deep = [vary(point, "layers", n) for n in (layers, 1, MOST)]
    lines, room = [], []
    for device in devices:
        how = "prior of other GPUs" if device.fitted == "prior" else "datasheet"
        basis = "rates measured here" if device.calibrated else how
        name = "this machine" if device.calibrated else device.name
        known = {"on": f"{name}\n({basis})", "device": device.name, "basis": basis}
        room.append(estimated(deep, device))
        lines.append(room[-1][:1].assign(**known))
    rows, room = (pd.concat(each, ignore_index=True) for each in (lines, room))
    limits = room[ENDS[0]].min() * 0.7, room[ENDS[1]].max() * 1.4
    look: dict[str, Any] = {"size": 9, "across": ENDS, "hollow": True, "pale": True}
    marks = points(rows, "estimated_ms", "on", "estimated", **look)
    said = rows["estimated_ms"].map(digits) + " ms, bound by " + rows["bound"]
    axis = Axis("estimated milliseconds", "log", limits=limits)
    panel = Panel(axis, Axis("", names=list(rows["on"])), [marks], notes=[("", said)])
    costs = f"{si(rows['parameters'][0])} parameters, {si(rows['flops'][0], 'FLOP')}"
    title = f"{layers} layers x {point.shape.hidden}, {point.workload.phase}, "
    title += f"{point.workload.prompt_len} tokens: {costs}"
    shown = ["on", "device", "basis", "estimated_ms", *ENDS, "bound"]
    size = (8.6, 1.7 + 0.55 * len(rows))
    note = "; ".join(device.trust for device in devices if device.trust)
    return Figure(
        [panel], title, rows[[*shown, "parameters", "flops"]], size, note=note
    )

"""Layers, widths, phases: estimates beside measurements, point by point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import clocks, diagonal, line, points, tiles
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import (
    FAINT,
    GREY,
    SMALL,
    log_norm,
    look_of,
    ratio_norm,
)
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.reading import name_of, nothing_measured, short, within
from fastlab.rows import compared, points_of, settled
from fastlab.spec.point import Point
from fastlab.spec.shape import override
from fastlab.words import digits, si, times

UNSURE = "~"  # before the number of a measurement that has not settled
MANY, ROOM = 100, 8  # rows that crowd a scatter, and keys that fit into it
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
    ratios = [
        ("" if ok else UNSURE) + times(ratio)
        for ok, ratio in zip(sure, known["ratio"], strict=True)
    ]
    heading = "ratio" if sure.all() else f"ratio\n({UNSURE} not settled)"
    layers: list[Layer] = []
    for (precision, phase), own in known.groupby(["precision", "phase"], sort=False):
        look, named = look_of(precision, phase), f"{precision} {phase}"
        layers += clocks(own, "call", named, **look)
    axis = Axis("milliseconds: hollow = estimated, filled = measured", "log")
    calls = Axis("", names=list(known["call"]))
    panel = Panel(axis, calls, layers, notes=[(heading, ratios)])
    size = (8.6, 1.6 + 0.42 * len(known))
    title = f"measured / estimated: {within(known, 1.25)}"
    return Figure([panel], title, known, size)


def against(
    rows: pd.DataFrame,
    title: str,
    x: Axis,
    y: Axis,
    columns: tuple[str, str] = ("estimated_ms", "measured_ms"),
    behind: Sequence[Layer] = (),
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Marks of each precision and phase around the diagonal, log-log, in a square.

    columns: of x and y; names: what a precision is called in the key. More than MANY
    rows have no intervals, which would cover them.
    """
    both = rows[list(columns)].to_numpy(float)
    back = [layer.rows[[layer.x, layer.y]].to_numpy(float) for layer in behind]
    both = np.concatenate([both, *back])
    low, high = both.min() / 1.6, both.max() * 1.6
    groups = list(rows.groupby(["precision", "phase"], sort=False))
    thin = len(rows) > MANY
    first, second = columns
    ends: dict[str, Any] = {"size": 4.5 if thin else 7}
    if not thin and first == "estimated_ms":
        ends |= {"across": ENDS, "ends": OWN_ENDS}
    say = (names or {}).get
    layers = [
        points(own, first, second, f"{say(p, p)} {phase}", **ends, **look_of(p, phase))
        for (p, phase), own in groups
    ]
    x, y = (replace(axis, scale="log", limits=(low, high)) for axis in (x, y))
    crowded = len(groups) > ROOM
    panel = Panel(
        *(x, y, [*behind, *layers]),
        key="beside" if crowded else "lower right",
        decor=[diagonal(low, high)],
        square=True,
    )
    return Figure([panel], title, rows, (8.8 if crowded else 7.2, 6.8))


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
    figure = against(known, title, Axis("estimated (ms)"), Axis("measured (ms)"))
    shown = short(known).join(known[[*ENDS, *OWN_ENDS]])
    ring: dict[str, Any] = {"ms": 15, "mfc": "none", "mec": GREY, "zorder": 6}

    def mark(_: Any, every: Any) -> None:  # the farthest, which the title names
        every[0].plot([row["estimated_ms"]], [row["measured_ms"]], "o", **ring)

    return replace(figure, rows=shown, finish=mark)


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
    sure = settled(chosen)
    marks = chosen["status"].where(chosen["status"] != "ok", "")
    chosen = chosen.assign(sure=marks.where(sure | (marks != ""), UNSURE), made=marks)
    norm = log_norm([*chosen["measured_ms"][sure], *chosen["estimated_ms"]])
    off = ratio_norm(chosen["ratio"][sure])
    apart: dict[str, Any] = {"norm": off, "cmap": "RdBu_r", "write": times}
    names = [f"{what}, {precision} {phase}" for what in ("measured", "estimated")]
    panels = [
        _map(chosen, names[0], "measured_ms", "sure", norm=norm),
        _map(chosen, names[1], "estimated_ms", "made", norm=norm),
        _map(chosen, "measured / estimated", "ratio", "sure", **apart),
    ]
    unsure = "" if sure.all() else f"  ({UNSURE} few samples, or a wide interval)"
    bars: list[Any] = [(panels[:2], norm, "cividis", f"milliseconds{unsure}", digits)]
    words = "blue: faster, red: slower than estimated"
    bars.append((panels[2:], off, "RdBu_r", words, times))
    height = max(3.2, 2.0 + 0.62 * chosen["layers"].nunique())
    return Figure(
        *(panels, "", chosen, (10.5, height)),
        share="y",
        finish=lambda picture, every: _bars(picture, every, bars),
    )


def _map(rows: pd.DataFrame, title: str, value: str, words: str, **look: Any) -> Panel:
    layers = [str(n) for n in sorted(set(rows["layers"]), reverse=True)]
    hidden = [str(n) for n in sorted(set(rows["hidden"]))]
    axes = Axis("hidden size", names=hidden), Axis("layers", names=layers)
    cells = tiles(rows, "hidden", "layers", value, title, words=words, **look)
    return Panel(*axes, [cells], title)


def _bars(picture: Any, every: Any, bars: Sequence[Any]) -> None:
    """A colour bar under the panels that share it: its ends and middle written out."""
    from matplotlib.cm import ScalarMappable

    at = 0
    for panels, norm, cmap, label, write in bars:
        axes, at = list(every[at : at + len(panels)]), at + len(panels)
        ticks = [norm.vmin, (norm.vmin * norm.vmax) ** 0.5, norm.vmax]
        where = {"location": "bottom", "aspect": 40, "shrink": 0.7, "ticks": ticks}
        bar = picture.colorbar(ScalarMappable(norm, cmap), ax=axes, **where)
        bar.ax.minorticks_off()
        bar.ax.set_xticklabels([write(tick) for tick in ticks], fontsize=SMALL)
        bar.set_label(label, fontsize=SMALL)
        bar.outline.set_visible(False)


def choose(rows: pd.DataFrame, phase: str, precision: str) -> pd.DataFrame:
    """The rows of one phase and precision; ValueError says which ones there are."""
    chosen = rows[(rows["phase"] == phase) & (rows["precision"] == precision)]
    if chosen.empty:
        there = sorted(set(zip(rows["precision"], rows["phase"], strict=True)))
        have = ", ".join(" ".join(pair) for pair in there) or "no rows at all"
        raise ValueError(f"no rows for {precision} {phase}; there are {have}")
    return chosen


# --- explorers


def layers_by_hidden(rows: pd.DataFrame, profile: Device | None = None) -> Explorer:
    """Time against hidden size, for any number of layers up to twice those measured.

    profile: the device that is estimated; without it only the rows' own estimates.
    """
    most = int(rows["layers"].max())

    def make(layers: int, precision: str, phase: str) -> Figure:
        chosen = choose(rows, phase, precision)
        ends = [curve(chosen, profile, n) for n in (1, REACH * most)]
        return by_hidden(chosen, curve(chosen, profile, layers), layers, ends)

    return explore(
        make,
        {"layers": most},
        layers=(1, REACH * most),
        precision=list(dict.fromkeys(rows["precision"])),
        phase=list(dict.fromkeys(rows["phase"])),
    )


def by_hidden(
    rows: pd.DataFrame, own: pd.DataFrame, layers: int, others: Sequence[pd.DataFrame]
) -> Figure:
    """Time against hidden size at one depth; other depths stay in grey behind.

    own: the estimated curve; others: curves that the axes keep room for.
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
    x = Axis(
        "hidden size", "log", ticks=sizes, limits=(sizes[0] / 1.15, sizes[-1] * 1.1)
    )
    y = Axis("milliseconds", "log", limits=_room(known, [own, *others]))
    return Figure([Panel(x, y, drawn, key="edge")], title, size=(8.2, 4.8))


def _room(known: pd.DataFrame, curves: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Lowest and highest ms, of settled rows if any, so that moving a slider shows."""
    sure = known[settled(known)]
    parts = [(sure if len(sure) else known)["measured_ms"].to_numpy(float)]
    parts += [one[[*ENDS]].to_numpy(float).ravel() for one in curves]
    values = np.concatenate(parts)
    if not values.size:
        return 1.0, 10.0
    return float(np.nanmin(values)) / 1.4, float(np.nanmax(values)) * 1.4


def curve(rows: pd.DataFrame, profile: Device | None, layers: int) -> pd.DataFrame:
    """Estimated ms against hidden at a number of layers, in between the rows too."""
    names = ["hidden", "estimated_ms", *ENDS]
    if profile is None:
        return rows[rows["layers"] == layers][names].dropna().sort_values("hidden")
    able = profile.can(rows["precision"].iloc[0])
    wanted = _widths(rows, layers) if able else []
    estimates = zip(wanted, estimate(wanted, profile), strict=True)
    lines = [
        [p.shape.hidden, *(1e3 * s for s in (e.seconds, e.low_s, e.high_s))]
        for p, e in estimates
    ]
    return pd.DataFrame(lines, columns=names)


def _widths(rows: pd.DataFrame, layers: int) -> list[Point]:
    """A point for every hidden size of the rows, and for those in between."""
    known = {point.shape.hidden: point for point in points_of(rows)}
    first = next(iter(known.values()))
    # Where all heads and ffn are those that follow from hidden, others' follow too.
    if all(p.shape == override(p.shape, {"hidden": n}) for n, p in known.items()):
        for hidden in range(min(known), max(known), BETWEEN):
            shape = override(first.shape, {"hidden": hidden})
            known.setdefault(hidden, replace(first, shape=shape))
    return [
        replace(p, shape=replace(p.shape, layers=layers))
        for _, p in sorted(known.items())
    ]


def depth(point: Point, devices: Sequence[Device]) -> Explorer:
    """Estimated ms of a model on each device, for 1 to 64 layers."""
    ends = [on_devices(point, devices, n) for n in (1, MOST)]
    limits = (ends[0][ENDS[0]].min() * 0.7, ends[1][ENDS[1]].max() * 1.4)

    def make(layers: int) -> Figure:
        rows = on_devices(point, devices, layers)
        marks = points(
            rows,
            "estimated_ms",
            "on",
            "estimated",
            size=9,
            across=ENDS,
            hollow=True,
            pale=True,
        )
        said = [
            f"{digits(ms)} ms, bound by {bound}"
            for ms, bound in zip(rows["estimated_ms"], rows["bound"], strict=True)
        ]
        axis = Axis("estimated milliseconds", "log", limits=limits)
        panel = Panel(
            axis, Axis("", names=list(rows["on"])), [marks], notes=[("", said)]
        )
        work, first = point.workload, rows.iloc[0]
        costs = f"{si(first['parameters'])} parameters, {si(first['flops'], 'FLOP')}"
        call = f"{work.phase}, {work.prompt_len} tokens"
        title = f"{layers} layers x {point.shape.hidden}, {call}: {costs}"
        return Figure([panel], title, rows, (8.6, 1.7 + 0.55 * len(rows)))

    caption = (
        "nothing runs: all times are estimated. A datasheet is what a device could do "
        "at best: estimated, not calibrated"
    )
    return explore(make, {"layers": point.shape.layers}, caption, layers=(1, MOST))


def on_devices(point: Point, devices: Sequence[Device], layers: int) -> pd.DataFrame:
    """What the model with so many layers should take on each device."""
    deep = replace(point, shape=replace(point.shape, layers=layers))
    lines = []
    for device in devices:
        (cost,) = estimate([deep], device)
        basis = "rates measured here" if device.calibrated else "datasheet"
        name = "this machine" if device.calibrated else device.name
        ms = (1e3 * s for s in (cost.seconds, cost.low_s, cost.high_s))
        line = [f"{name}\n({basis})", device.name, basis, *ms, cost.bound]
        lines.append([*line, cost.parameters, cost.flops])
    names = ["on", "device", "basis", "estimated_ms", *ENDS, "bound"]
    return pd.DataFrame(lines, columns=[*names, "parameters", "flops"])

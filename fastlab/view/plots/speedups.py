"""Figures of speed-ups: why a precision has one, and at which batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from fastlab.spec.precision import FORMATS
from fastlab.view.numbers import factor
from fastlab.view.plots.precisions import (
    bare,
    known,
    with_loss,
)
from fastlab.view.style import COLORS, GREY, MARKERS, SMALL, TEXT, TITLE, log_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NEAR = 0.075  # of the height of an axes: how far apart names at its edge stand


def reasons(
    table: pd.DataFrame, device: str, rows: pd.DataFrame | None = None
) -> Figure:
    """A panel for each call: arithmetic and memory alone, in ms, by precision.

    `table` is tables.reasons(). What is to the right decides; log scale. Filled: the
    measured time of `rows` (tables.gains()), where they have the call.
    """
    calls = list(dict.fromkeys(zip(table["phase"], table["rows"], strict=True)))
    names = list(dict.fromkeys(table["precision"]))
    height = 1.6 + 0.42 * len(names)
    figure = Figure(figsize=(11.6, height), layout="constrained")
    panels = figure.subplots(1, len(calls), sharey=True, squeeze=False)[0]
    for axes, (phase, many) in zip(panels, calls, strict=True):
        _alone(axes, _of(table, phase, many), names)
        if rows is not None:
            _taken(axes, _of(rows, phase, many), names)
    panels[0].set_yticks(range(len(names)), names[::-1], fontsize=TEXT)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    look: dict[str, Any] = {"loc": "outside upper right", "frameon": False, "ncols": 3}
    figure.legend(*_kinds(panels[0]), fontsize=SMALL, **look)
    figure.suptitle(f"At the rates of {device}", fontsize=TITLE, x=0.01, ha="left")
    return figure


def _of(table: pd.DataFrame, phase: str, many: int) -> pd.DataFrame:
    return table[(table["phase"] == phase) & (table["rows"] == many)]


def _taken(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    for _, row in rows[rows["measured_ms"].map(known)].iterrows():
        y, color = len(names) - 1 - names.index(row["precision"]), row["precision"]
        axes.plot([row["measured_ms"]], [y], "D", color=COLORS[color], ms=7, zorder=5)


ALONE = {"arithmetic ms": ("o", "arithmetic"), "memory ms": ("s", "memory")}


def _alone(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    for _, row in table.iterrows():
        y = len(names) - 1 - names.index(row["precision"])
        color, ends = COLORS[row["precision"]], [row[name] for name in ALONE]
        axes.plot(ends, [y, y], color=color, lw=1, alpha=0.5)
        for name, (marker, _) in ALONE.items():
            decides = row[name] == max(ends)
            look: dict[str, Any] = {
                "markersize": 11 if decides else 6,
                "marker": marker,
            }
            axes.plot([row[name]], [y], color=color, mfc="white", **look)
    what = f"{table['phase'].iloc[0]}, {table['rows'].iloc[0]} row"
    what += "s" * bool(table["rows"].iloc[0] > 1)
    axes.set_xscale("log")
    axes.set_xlabel("ms (large: the longer of the two)", fontsize=TEXT)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if high < 99 * low else (1,))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(what, fontsize=TITLE, loc="left")
    bare(axes)


def _kinds(axes: Axes) -> tuple[list[Any], list[str]]:
    look: dict[str, Any] = {"color": GREY, "mfc": "white", "ls": "none"}
    made = [axes.plot([], [], marker, **look)[0] for marker, _ in ALONE.values()]
    made += axes.plot([], [], "D", **look | {"mfc": GREY})
    return made, [*(f"{name} alone" for _, name in ALONE.values()), "measured"]


def by_batch(
    curves: Mapping[str, pd.DataFrame],
    title: str,
    baseline: str = "bf16",
    rows: pd.DataFrame | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Speed-up over the baseline against the batch of a decode step, log-log.

    Lines are tables.gain_curves(), estimated: thin and pale beyond what was calibrated,
    dashed where activations are quantized too. Filled marks are the measured rows.
    """
    figure = Figure(figsize=(9.4, 5.0), layout="constrained")
    axes = figure.subplots()
    log_axes(axes, "batch: rows in each product", f"speed-up over {baseline}")
    axes.axhline(1, color=COLORS[baseline], lw=2)
    others = {name: curve for name, curve in curves.items() if name != baseline}
    for name, curve in others.items():
        _curve(axes, name, curve)
    if rows is not None:
        _marks(axes, rows[rows["precision"] != baseline])
    widest = max(curve["batch"].max() for curve in curves.values())
    ends = {name: curve["gain"].iloc[-1] for name, curve in others.items()}
    axes.set_ylim(limits or _room(axes))
    _sides(axes, baseline)
    told = {n: n if rows is None else with_loss(n, rows) for n in curves}
    _names(axes, widest, ends | {baseline: 1.0}, told)
    _ticks(axes, widest)
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _curve(axes: Axes, name: str, curve: pd.DataFrame) -> None:
    x, y = curve["batch"].to_numpy(float), curve["gain"].to_numpy(float)
    look: dict[str, Any] = {"color": COLORS[name], "ls": dash(name)}
    axes.plot(x, y, lw=1, alpha=0.5, **look)
    sure = np.where(curve["extrapolated"].to_numpy(bool), np.nan, y)
    axes.plot(x, sure, lw=1.8, **look)


def dash(precision: str) -> str:
    """Dashed where activations are quantized too, dotted under autocast."""
    made = FORMATS[precision]
    return "--" if made.dynamic else ":" if made.autocast else "-"


def _marks(axes: Axes, rows: pd.DataFrame) -> None:
    for _, row in rows[rows["measured_gain"].map(known)].iterrows():
        look: dict[str, Any] = {"color": COLORS[row["precision"]], "zorder": 5}
        axes.plot(row["batch"], row["measured_gain"], MARKERS["decode"], ms=8, **look)


def _room(axes: Axes) -> tuple[float, float]:
    low, high = axes.get_ylim()
    return min(low, 0.7), max(high, 1.5)


def _sides(axes: Axes, baseline: str) -> None:
    note: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "ha": "left"}
    note |= {"textcoords": "offset points"}
    at = (axes.get_xlim()[0], 1.0)
    axes.annotate(f"faster than {baseline}", at, (6, 5), va="bottom", **note)
    axes.annotate("slower", at, (6, -6), va="top", **note)


def _names(
    axes: Axes, widest: float, ends: Mapping[str, float], told: Mapping[str, str]
) -> None:
    """Each line's name right of its end, pushed apart where ends lie close."""
    low, high = np.log(axes.get_ylim())
    before = np.inf
    for name, gain in sorted(ends.items(), key=lambda pair: -pair[1]):
        at = min((np.log(gain) - low) / (high - low), before - NEAR)
        before = at
        style: dict[str, Any] = {"color": COLORS[name], "fontsize": SMALL}
        y = float(np.exp(low + at * (high - low)))
        style |= {"va": "center", "annotation_clip": False}
        axes.annotate(told[name], (widest * 1.08, y), **style)


def _ticks(axes: Axes, widest: float) -> None:
    steps = [2**n for n in range(16) if 2**n <= widest]
    shown = steps if len(steps) < 9 else steps[::2]
    axes.set_xticks(shown, [f"{t:,}" for t in shown])
    axes.set_xlim(0.85, widest * 1.05)
    gains(axes.yaxis)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="y", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)


STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def gains(axis: Any) -> None:
    """Ticks of speed-ups, the same on both sides of one: ÷2, ÷1.5, ×1, ×1.5, ×2."""
    axis.set_major_locator(FixedLocator(sorted({*STEPS, *(1 / s for s in STEPS)})))
    axis.set_major_formatter(
        FuncFormatter(lambda v, _: factor(v).replace("same", "×1"))
    )

"""The first figures: estimate beside measurement, and one model on several devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fastlab.latency.devices import Device
from fastlab.record import Estimate
from fastlab.view.style import COLORS, GREY, MARKERS, PALE, SMALL, TEXT, TITLE
from fastlab.view.tables.sweep import compared, settled
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

UNSURE = "~"  # before the ratio of a measurement that has not settled
LINE: dict[str, Any] = {"lw": 5, "alpha": 0.25, "solid_capstyle": "round"}


def pairs(rows: pd.DataFrame) -> Figure:
    """One line a point: hollow = estimated with its interval, filled = measured.

    The ratio, measured / estimated, is written beside. Raises ValueError if no row has
    both numbers.
    """
    known = compared(rows)
    figure = Figure(figsize=(8.6, 1.5 + 0.42 * len(known)), layout="constrained")
    axes = figure.subplots()
    for y, (_, row) in enumerate(known.iloc[::-1].iterrows()):
        _pair(axes, y, row)
    low, high = _ends(known)
    for y, text in enumerate(reversed(_ratios(known))):
        axes.text(high * 1.12, y, text, fontsize=TEXT, va="center")
    axes.text(
        high * 1.12, len(known) - 0.4, _heading(known), fontsize=SMALL, color=GREY
    )
    _log_x(axes, "milliseconds: hollow = estimated, filled = measured", (low, high))
    _lines(axes, [name_of(row) for _, row in known[::-1].iterrows()])
    return figure


def _ratios(known: pd.DataFrame) -> list[str]:
    sure = settled(known)
    marks = ["" if ok else UNSURE for ok in sure]
    return [m + times(r) for m, r in zip(marks, known["ratio"], strict=True)]


def _heading(known: pd.DataFrame) -> str:
    return "ratio" if settled(known).all() else f"ratio ({UNSURE} not settled)"


def _log_x(axes: Axes, label: str, limits: tuple[float, float]) -> None:
    axes.set(xscale="log", xlim=limits)
    axes.set_xlabel(label, fontsize=TEXT)
    axes.xaxis.set_major_locator(LogLocator(subs=_subs(limits)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _subs(limits: tuple[float, float]) -> tuple[float, ...]:
    """Labels at 1, 2, 5 where the axis is short, at powers of ten where it is long."""
    return (1, 2, 5) if limits[1] / limits[0] < 500 else (1,)


def _lines(axes: Axes, names: Sequence[str]) -> None:
    axes.set(ylim=(-0.6, len(names) - 0.4))
    axes.set_yticks(range(len(names)), names)
    axes.hlines(range(len(names)), *axes.get_xlim(), color=PALE, lw=1, zorder=0)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def name_of(row: pd.Series) -> str:
    """ "8 layers x 512, prefill"."""
    return f"{row['layers']} layers x {row['hidden']}, {row['phase']}"


def _pair(axes: Axes, y: int, row: pd.Series) -> None:
    color, marker = COLORS[row["precision"]], MARKERS[row["phase"]]
    estimated, measured = row["estimated_ms"], row["measured_ms"]
    ends = [row["estimated_low_ms"], row["estimated_high_ms"]]
    axes.plot(ends, [y, y], color=GREY, **LINE)
    axes.plot([estimated, measured], [y, y], color=color, lw=1)
    look: dict[str, Any] = {"marker": marker, "color": color, "markersize": 8}
    axes.plot([estimated], [y], markerfacecolor="white", **look)
    axes.plot([measured], [y], **look)


def _ends(known: pd.DataFrame) -> tuple[float, float]:
    low = known[["estimated_low_ms", "measured_ms"]].to_numpy(float).min()
    high = known[["estimated_high_ms", "measured_ms"]].to_numpy(float).max()
    return low / 1.3, high * 1.3


def on_devices(
    devices: Sequence[Device],
    estimates: Sequence[Estimate],
    limits: tuple[float, float],
    title: str,
) -> Figure:
    """One hollow mark and interval a device: estimated ms, and what bounds it."""
    figure = Figure(figsize=(8.6, 1.5 + 0.55 * len(devices)), layout="constrained")
    axes = figure.subplots()
    for y, made in enumerate(reversed(estimates)):
        ends = [made.low_s * 1e3, made.high_s * 1e3]
        middle = made.seconds * 1e3
        axes.plot(ends, [y, y], color=GREY, **LINE)
        axes.plot([middle], [y], "o", color="black", markerfacecolor="white", ms=9)
        text = f"{digits(middle)} ms, bound by {made.bound}"
        axes.text(limits[1] * 1.15, y, text, va="center", fontsize=TEXT)
    _log_x(axes, "estimated milliseconds", limits)
    _lines(axes, [profile_name(d) for d in reversed(devices)])
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def profile_name(device: Device) -> str:
    """The device, and where its rates are from: measured here, or a datasheet."""
    if device.calibrated:
        return "this machine\n(rates measured here)"
    return f"{device.name}\n(datasheet)"

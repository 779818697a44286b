"""Figures of counts: FLOPs by part of the model, bytes by kind, factors of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from fastlab.cost.operations import BYTES, PARTS
from fastlab.view.numbers import SAME, factor, si
from fastlab.view.style import GREY, SMALL, TEXT, TITLE, ink
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Four steps of cividis: told apart without hue too; hatches are the second channel.
LOOKS = (("#00224e", ""), ("#fdea45", "//"), ("#7c7b78", "\\\\"), ("#c9ba6a", ".."))
FARTHEST = 64.0  # factors are drawn from 1 / 64 to 64


def flop_shares(lengths: pd.DataFrame, widths: pd.DataFrame) -> Figure:
    """Two stacked bar charts: FLOP shares against prompt length, and against width.

    Both are tables of counts.shares(); the first column is the axis.
    """
    figure = Figure(figsize=(10, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _stack(left, lengths, "prompt length (tokens)")
    _stack(right, widths, "hidden size")
    left.set_ylabel("share of the FLOPs", fontsize=TEXT)
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    meet = f"attention equals the MLP at {meeting(lengths):,.0f} tokens"
    left.set_title(meet, fontsize=TITLE, loc="left")
    first, last = (f"{widths['head'].iloc[n]:.0%}" for n in (0, -1))
    head = f"the head: {first} to {last} of the FLOPs"
    right.set_title(head, fontsize=TITLE, loc="left")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside right center",
        fontsize=SMALL,
        frameon=False,
    )
    return figure


def meeting(lengths: pd.DataFrame) -> float:
    """Prompt length at which attention does as many FLOPs as the MLP.

    Per token the MLP's stay and attention's grow with the length: one row tells.
    """
    row = lengths.iloc[0]
    return float(row["prompt_len"] * row["MLP"] / row["attention"])


def _stack(axes: Axes, table: pd.DataFrame, label: str) -> None:
    below = np.zeros(len(table))
    for part, look in zip(PARTS, LOOKS, strict=True):
        height = table[part].to_numpy(float)
        axes.bar(range(len(table)), height, bottom=below, label=part, **_fill(look))
        for x, (low, share) in enumerate(zip(below, height, strict=True)):
            if share >= 0.06:
                _inside(axes, (x, low + share / 2), f"{share:.0%}", look[0])
        below = below + height
    axes.set_xticks(range(len(table)), [f"{v:,}" for v in table.iloc[:, 0]])
    axes.set_xlabel(label, fontsize=TEXT)
    axes.set(ylim=(0, 1))
    _plain(axes)


def _fill(look: tuple[str, str]) -> dict[str, Any]:
    return {"color": look[0], "hatch": look[1], "edgecolor": "white", "lw": 0.8}


def _inside(axes: Axes, at: tuple[float, float], text: str, color: str) -> None:
    rgb = tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    box = {"boxstyle": "round,pad=0.15", "fc": color, "ec": "none"}
    place: dict[str, Any] = {"ha": "center", "va": "center", "bbox": box}
    axes.text(*at, text, color=ink(rgb), fontsize=SMALL, **place)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=SMALL)


def bytes_moved(table: pd.DataFrame) -> Figure:
    """Stacked bars of the GB that each call moves, by kind; a table of counts.moved().

    GFLOP and FLOPs per byte stand beside each bar.
    """
    figure = Figure(figsize=(10, 1.5 + 0.75 * len(table)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(table))[::-1]
    left = np.zeros(len(table))
    for kind, look in zip(BYTES, LOOKS, strict=True):
        width = table[kind].to_numpy(float)
        axes.barh(places, width, left=left, height=0.6, label=kind, **_fill(look))
        left = left + width
    for y, end, (_, row) in zip(places, left, table.iterrows(), strict=True):
        axes.text(end, y, _beside(row), va="center", fontsize=SMALL)
    axes.set_yticks(places, [_call(row) for _, row in table.iterrows()])
    axes.set_xlabel("GB moved through memory", fontsize=TEXT)
    axes.set(xlim=(0, left.max() * 1.32))
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.4, 1.0),
        ncols=len(BYTES),
        fontsize=SMALL,
        frameon=False,
    )
    _plain(axes)
    return figure


def _beside(row: pd.Series) -> str:
    per_byte = digits(row["FLOP per byte"])
    return f"  {si(row['GFLOP'] * 1e9, 'FLOP')}: {per_byte} for each byte"


def _call(row: pd.Series) -> str:
    many = f"batch {row['batch']}, " if row["batch"] > 1 else ""
    return f"{row['phase']}\n{many}{row['prompt_len']:,} tokens"


def factors(now: dict[str, float], start: dict[str, float], title: str) -> Figure:
    """How much larger each count is than at the start, on a log axis, with its value.

    Names are "what|unit"; hollow marks, since all of it is counted, not measured.
    """
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(reversed(now)):
        ratio = now[name] / start[name]
        _lollipop(axes, y, ratio)
        axes.text(FARTHEST * 5, y, _value(name, now[name]), va="center", fontsize=TEXT)
    axes.axvline(1, color=GREY, lw=1, zorder=0)
    axes.set_yticks(range(len(now)), [n.partition("|")[0] for n in reversed(now)])
    axes.set(xscale="log", xlim=(1 / FARTHEST / 4, FARTHEST * 4))
    axes.set_xticks([4.0**n for n in range(-3, 4)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: factor(v)))
    axes.set_xlabel("factor against the start (grey line)", fontsize=TEXT)
    axes.set_title(title, fontsize=TITLE, loc="left")
    _plain(axes)
    axes.tick_params(axis="y", labelsize=TEXT)
    return figure


def _lollipop(axes: Axes, y: int, ratio: float) -> None:
    """A mark at the ratio, or an arrow at the axis's end where it lies beyond."""
    end = min(max(ratio, 1 / FARTHEST), FARTHEST)
    look: dict[str, Any] = {"color": LOOKS[0][0], "markerfacecolor": "white"}
    marker = "o" if end == ratio else ("<" if ratio < 1 else ">")
    axes.plot([1, end], [y, y], color=LOOKS[0][0], lw=1.5)
    axes.plot([end], [y], marker, markersize=8, **look)
    side = 1 if ratio >= 1 / SAME else -1
    note: dict[str, Any] = {"ha": "left" if side > 0 else "right", "va": "center"}
    note |= {"textcoords": "offset points", "fontsize": SMALL}
    axes.annotate(factor(ratio), (end, y), (8 * side, 0), **note)


def _value(name: str, value: float) -> str:
    return si(value, name.partition("|")[2])

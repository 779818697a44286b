"""Figures of structured cuts: depth or width, which units, and the estimate's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fastlab.spec.pruning import RATIOS
from fastlab.view.plots.precisions import LINE, bare, known, ticks_to
from fastlab.view.plots.pruning import (
    CUTS,
    NOTE,
    QUALITY,
    SIZES,
    bit_ticks,
    dense_line,
    edge,
    kinds_of,
    with_interval,
)
from fastlab.view.style import GREY, SMALL, TEXT, TITLE
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# By what units are chosen: colour and marker.
CHOICES = {
    **dict.fromkeys(("influence", "activation"), ("#0072B2", "o")),
    **dict.fromkeys(("loss", "taylor"), ("#009E73", "s")),
    "magnitude": ("#D55E00", "D"),
    "uniform": ("#CC79A7", "v"),
    "first": ("#a96b59", "<"),
    "last": ("#E69F00", ">"),
    "random": ("#666666", "X"),
}
ASIDE = 0.016  # of the share: how far apart ways to choose are drawn
WIDE = ("ffn", "hidden")  # what depth is set against


def depth_or_width(
    table: pd.DataFrame, judged: pd.DataFrame, healed: pd.DataFrame
) -> Figure:
    """Against the parameters that are left: time measured, and bits per byte.

    table, judged: tables.savings(); healed: lines of distilled models (kind, left,
    bits_per_byte, low, high, distill_steps). Depth is round, width has corners.
    """
    figure = Figure(figsize=(12.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, rows in kinds_of(_structured(table)):
        color, marker, name = CUTS[kind]
        rows = rows[rows["measured_gain"].map(known).astype(bool)]
        left.plot(rows["left"], 1 / rows["measured_gain"], marker, ls="-", lw=1.2,
                  color=color, ms=8, label=name)  # fmt: skip
    left.plot([0.2, 1], [0.2, 1], color=GREY, lw=1, ls="--", zorder=1)
    left.text(0.24, 0.2, "as parameters", va="bottom", **NOTE)
    found = _structured(judged[judged["bits_per_byte"].map(known).astype(bool)])
    for kind, rows in kinds_of(found):
        color, marker, _ = CUTS[kind]
        with_interval(right, rows, "left", color, marker, ms=SIZES.get(kind, 8))
    for _, row in healed[healed["kind"].isin(("layers", *WIDE))].iterrows():
        _healed(right, row, found)
    dense_line(right, found)
    _everything(left, right, found, healed)
    return figure


def _everything(
    left: Axes, right: Axes, found: pd.DataFrame, healed: pd.DataFrame
) -> None:
    import pandas as pd

    left.set_ylabel("measured time, of the dense model's", fontsize=TEXT)
    left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    left.set_title("random weights: time", fontsize=TITLE, loc="left")
    right.set_title("trained weights: quality", fontsize=TITLE, loc="left")
    right.set_ylabel(QUALITY, fontsize=TEXT)
    kept = [one for one in (found, healed) if len(one)]
    bit_ticks(right, pd.concat(kept) if kept else found)
    for axes in (left, right):
        axes.set_xlabel("parameters left, of the dense model's", fontsize=TEXT)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
        axes.tick_params(labelsize=SMALL, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0.15, 1.02)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=SMALL, frameon=False, loc="upper left")


def _structured(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"].isin(("layers", *WIDE)) & (table["distill_steps"] == 0)]


def _healed(axes: Axes, row: pd.Series, found: pd.DataFrame) -> None:
    """A distilled model: a large ring, a mark of what it was before, and an arrow."""
    color, marker, _ = CUTS[row["kind"]]
    at = (row["left"], row["bits_per_byte"])
    axes.plot(*at, marker, color=color, ms=13, mfc="none", mew=2, zorder=5)
    words = f"{CUTS[row['kind']][2]}, {row['distill_steps']:,} steps"
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    up = 7 if row["kind"] == "layers" else -7
    axes.annotate(words, at, (-11, up), ha="right", **place, **NOTE)
    same = (found["kind"] == row["kind"]) & (found["share"] == row["share"])
    before = [row.get("before", np.nan), *found[same]["bits_per_byte"]]
    for start in [bits for bits in before if known(bits)][:1]:
        axes.plot(row["left"], start, marker, color=color, ms=8, **edge(marker))
        look = {"arrowstyle": "->", "color": color, "lw": 1.5, "shrinkB": 8}
        look |= {"connectionstyle": f"arc3,rad={0.03 * up}"}  # students of one size
        axes.annotate("", at, (row["left"], start), arrowprops=look)


def choices(table: pd.DataFrame, kinds: Sequence[str] = RATIOS) -> Figure:
    """Bits per byte against the share cut, a panel for each kind of unit.

    A curve for each way to choose them, side by side where they would hide each other;
    random: mean and range over its seeds.
    """
    found = table[
        table["bits_per_byte"].map(known).astype(bool) & (table["distill_steps"] == 0)
    ]
    there = [kind for kind in kinds if (found["kind"] == kind).any()]
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    widths = [_span(found, kind) for kind in there] or [1.0]
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False,
                             width_ratios=widths)[0]  # fmt: skip
    for axes, kind in zip(panels, there, strict=False):
        _panel(axes, found[found["kind"] == kind])
        axes.set_title(CUTS[kind][2], fontsize=TITLE, loc="left")
    panels[0].set_ylabel(QUALITY, fontsize=TEXT)
    cut = found[found["kind"].isin(there)]
    bit_ticks(panels[0], cut)
    for axes in panels[: len(there)]:
        dense_line(axes, cut)
    look: dict[str, Any] = {"loc": "outside lower center", "frameon": False}
    figure.legend(*_keys(cut), ncols=7, fontsize=SMALL, **look)
    return figure


def _span(found: pd.DataFrame, kind: str) -> float:
    return 0.8 + 0.4 * len(set(found[found["kind"] == kind]["share"]))


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    there = [choice for choice in CHOICES if (rows["choice"] == choice).any()]
    for n, choice in enumerate(there):
        color, marker = CHOICES[choice]
        grouped = rows[rows["choice"] == choice].groupby("share")["bits_per_byte"]
        mean, low, high = grouped.mean(), grouped.min(), grouped.max()
        x = mean.index + ASIDE * (n - (len(there) - 1) / 2)
        axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        look: dict[str, Any] = {"ls": "-", "lw": 1.2, "ms": 8, "color": color}
        axes.plot(x, mean, marker, **look, **edge(marker))
    shares = sorted(set(rows["share"]))
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.set_xlim(min(shares) - 0.12, max(shares) + 0.12)
    axes.set_xlabel("share cut", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)


def _keys(found: pd.DataFrame) -> tuple[list[Any], list[str]]:
    """A mark and the words for each way to choose; those of one colour together."""
    from matplotlib.lines import Line2D

    looks: dict[tuple[str, str], list[str]] = {}
    for choice, look in CHOICES.items():
        if (found["choice"] == choice).any():
            looks.setdefault(look, []).append(choice)
    marks = [Line2D([], [], color=c, marker=m, ms=8) for c, m in looks]
    return marks, [" / ".join(names) for names in looks.values()]


def foretold(table: pd.DataFrame) -> Figure:
    """Each cut's time: the estimate with its interval, made before it was built, and
    the measured one.

    `table` is tables.foretold(). Written beside: measured over estimated.
    """
    figure = Figure(figsize=(10.4, 1.6 + 0.36 * len(table)), layout="constrained")
    axes = figure.subplots()
    ends = table[["estimated_high_ms", "measured_high_ms"]].to_numpy(float)
    most = float(np.nanmax(ends)) if len(table) else 1.0
    for n, (_, row) in enumerate(table.iloc[::-1].iterrows()):
        _told(axes, n, row)
    names = [label(row) for _, row in table.iloc[::-1].iterrows()]
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set(xlim=(0, 1.02 * most), ylim=(-0.6, max(len(names), 1) - 0.4))
    axes.set_xticks(ticks_to(most))
    axes.set_xlabel("ms (hollow: estimated, bar: its interval)", fontsize=TEXT)
    axes.set_title(kept_word(table).replace("; ", "\n"), fontsize=TITLE, loc="left")
    bare(axes)
    return figure


def label(row: pd.Series) -> str:
    """A cut in words, with the shape that it builds."""
    if row["kind"] not in CUTS:
        return f"{row['kind']}: {row['what']}"
    return f"{row['share']:.0%} of {CUTS[row['kind']][2]}: {row['what']}"


def kept_word(table: pd.DataFrame) -> str:
    """How many measurements the estimate's interval holds, its width, and the bias."""
    if table.empty:
        return "nothing was both estimated and measured"
    width = (table["estimated_high_ms"] - table["estimated_low_ms"]) / 2
    share = (width / table["estimated_ms"]).median()
    return (
        f"{int(table['inside'].sum())} of {len(table)} within the interval "
        f"(±{share:.0%} in the median); {_bias(table['ratio'])}"
    )


def _bias(ratio: pd.Series) -> str:
    """Whether all measurements lie on one side of their estimates, and how far off."""
    side = "all below it" if ratio.max() < 1 else "all above it"
    words = f"measured {times(ratio.min())} to {times(ratio.max())} of the estimate"
    return words if ratio.min() < 1 <= ratio.max() else f"{words}, {side}"


def _told(axes: Axes, y: float, row: pd.Series) -> None:
    color, marker, _ = CUTS.get(row["kind"], ("black", "o", ""))
    ends = [row["estimated_low_ms"], row["estimated_high_ms"]]
    axes.plot(ends, [y, y], color=GREY, **LINE)
    look: dict[str, Any] = {"color": color, "marker": marker}
    axes.plot([row["estimated_ms"]], [y], mfc="white", ms=8, **look)
    axes.plot([row["measured_ms"]], [y], ms=8, **look)
    words = f"{digits(row['measured_ms'])} ms, {times(row['ratio'])} of the estimate"
    words += "" if row["inside"] else ", outside"
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
    axes.text(1.01, y, words, va="center", fontsize=SMALL, **beside)

"""Figures of cuts and zeros: what FLOPs promise, what the clock and the text say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fastlab.spec.sparsity import Sparsity, sparse_bytes
from fastlab.view.numbers import factor
from fastlab.view.plots.precisions import known
from fastlab.view.style import GREY, PALE, SMALL, TEXT, TITLE, log_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Kind of cut: its colour, marker and name. Told apart by all three.
CUTS = {
    "layers": ("#0072B2", "o", "layers"),
    "heads": ("#CC79A7", "v", "heads"),
    "ffn": ("#009E73", "s", "FFN width"),
    "hidden": ("#E69F00", "D", "hidden width"),
    "zeros": ("#666666", "X", "zeros, stored dense"),
    "pattern": ("#000000", "*", "2:4 zeros, stored dense"),
    "csr": ("#D55E00", "P", "zeros, stored as CSR"),
    "2:4": ("#7a21dd", "h", "2:4, for sparse tensor cores"),
}
SAVED = (0, 0.25, 0.5, 0.75, 0.9)  # shares of the FLOPs that the axis names
GAINS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
BITS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # a byte: what axes of quality name
NOTE: dict[str, Any] = {"fontsize": SMALL, "color": GREY}
QUALITY = "bits per byte of held-out text: lower is better"
PROMISE = "FLOPs saved, zeros counted as saved"


# Of marks, in points: the widest is drawn first, so none hides another.
SIZES = {"layers": 13.0, "ffn": 10.0, "hidden": 8.5, "heads": 7.0}


def zeros_are_not_speed(table: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """FLOPs saved against time saved, and against the bits per byte of a real text.

    Both tables are tables.savings(), prefills: `table` of models with random weights,
    `judged` of trained ones. Filled: measured; hollow: estimated. On the diagonal time
    falls as FLOPs do.
    """
    figure = Figure(figsize=(12.6, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _against_time(left, table[table["phase"] == "prefill"])
    _against_text(right, judged[judged["phase"] == "prefill"])
    left.set_title("what the clock says", fontsize=TITLE, loc="left")
    right.set_title("what the text says, nothing relearned", fontsize=TITLE, loc="left")
    look: dict[str, Any] = {"loc": "outside lower center", "frameon": False}
    figure.legend(*_legend(table, judged), ncols=4, fontsize=SMALL, **look)
    return figure


def _against_time(axes: Axes, table: pd.DataFrame) -> None:
    most = _most(table)
    log_axes(axes, PROMISE, "speed-up over the dense model: higher is better")
    axes.plot([1, most], [1, most], color=GREY, lw=1, ls="--", zorder=1)
    axes.axhspan(1e-3, 1, color=PALE, alpha=0.6, zorder=0)
    for kind, rows in kinds_of(table):
        color, marker, _ = CUTS[kind]
        _hollow(axes, rows, "estimated_gain", color, marker)
        line = rows[rows["measured_gain"].map(known).astype(bool)]
        _gain_bars(axes, line, color)
        look: dict[str, Any] = {"color": color, "ms": SIZES.get(kind, 9), "zorder": 4}
        look |= {"ls": "-", "lw": 1.2} | edge(marker)
        axes.plot(line["promised"], line["measured_gain"], marker, **look)
    axes.set(xlim=(0.94, most * 1.2), ylim=_limits(table, most))
    axes.text(1.0, axes.get_ylim()[0] * 1.06, "slower than dense", va="bottom", **NOTE)
    style = NOTE | {"rotation_mode": "anchor", "transform_rotates_text": True}
    axes.text(most, most * 1.05, "as promised", ha="right", rotation=45, **style)
    saved_ticks(axes.xaxis)
    _ratio_ticks(axes.yaxis)


def edge(marker: str) -> dict[str, Any]:
    """A white edge around marks that are wide enough for one."""
    return {"mec": "white", "mew": 0.8} if marker in "osDvh<>" else {}


def _gain_bars(axes: Axes, line: pd.DataFrame, color: str) -> None:
    """The 95 % intervals of the median times, as gains over the dense median."""
    dense = (line["measured_gain"] * line["measured_ms"]).to_numpy(float)
    ends = [dense / line[f"measured_{n}_ms"].to_numpy(float) for n in ("high", "low")]
    axes.vlines(line["promised"].to_numpy(float), *ends, color=color, lw=1.5, zorder=3)


def _hollow(axes: Axes, rows: pd.DataFrame, name: str, color: str, marker: str) -> None:
    made = rows[rows[name].map(known).astype(bool)]
    look: dict[str, Any] = {"color": color, "mfc": "white", "ms": 6, "ls": "none"}
    axes.plot(made["promised"], made[name], marker, zorder=3, **look)


def kinds_of(table: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The lines of each kind of cut, fewest FLOPs saved first, as one curve each.

    Kinds come in the order in which they are drawn: heads after what would hide them.
    """
    for kind in dict.fromkeys((*SIZES, *CUTS)):
        rows = table[table["kind"] == kind]
        if len(rows):
            yield kind, rows.sort_values("promised")


def _most(table: pd.DataFrame) -> float:
    return float(table["promised"].max()) if len(table) else 2.0


def _limits(table: pd.DataFrame, most: float) -> tuple[float, float]:
    gains = table[["measured_gain", "estimated_gain"]].to_numpy(float)
    gains = gains[np.isfinite(gains)]
    low = min(gains.min(), 1) if gains.size else 1
    return float(min(0.8, low / 1.25)), most * 1.25


def saved_ticks(axis: Axis) -> None:
    """Ticks of a log axis of FLOPs before / after, named by the share saved."""
    axis.set_major_locator(FixedLocator([1 / (1 - share) for share in SAVED]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{1 - 1 / v:.0%}"))
    axis.set_minor_locator(NullLocator())


def _ratio_ticks(axis: Axis) -> None:
    axis.set_major_locator(FixedLocator(list(GAINS)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: factor(v)))
    axis.set_minor_locator(NullLocator())


def _against_text(axes: Axes, judged: pd.DataFrame) -> None:
    log_axes(axes, PROMISE, QUALITY)
    known_rows = judged[judged["bits_per_byte"].map(known).astype(bool)]
    for kind, rows in kinds_of(known_rows):
        color, marker, _ = CUTS[kind]
        with_interval(axes, rows, "promised", color, marker, ms=SIZES.get(kind, 8))
    axes.set_xlim(0.94, _most(known_rows) * 1.2)
    saved_ticks(axes.xaxis)
    dense_line(axes, known_rows)
    bit_ticks(axes, known_rows)


def with_interval(
    axes: Axes, rows: pd.DataFrame, x: str, color: str, marker: str, **look: Any
) -> None:
    """Bits per byte with their 95 % intervals, as one curve."""
    y = rows["bits_per_byte"].to_numpy(float)
    ends = rows[["low", "high"]].to_numpy(float).T
    bars = np.nan_to_num(np.abs(ends - y))
    usual: dict[str, Any] = {"ms": 8, "lw": 1.2, "elinewidth": 1.5, "capsize": 2}
    usual |= edge(marker)
    axes.errorbar(rows[x], y, yerr=bars, color=color, marker=marker, **usual | look)


def dense_line(axes: Axes, rows: pd.DataFrame) -> None:
    """What the dense model needs on the same text, across the axes."""
    dense = rows["dense_bits_per_byte"].dropna()
    if len(dense):
        axes.axhline(dense.iloc[0], color=GREY, lw=1, ls="--", zorder=1)
        place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform()}
        words = f"dense {dense.iloc[0]:.2f}"
        axes.annotate(
            words, (0.99, dense.iloc[0]), ha="right", va="bottom", **place, **NOTE
        )


def bit_ticks(axes: Axes, rows: pd.DataFrame) -> None:
    """A log axis of bits per byte, named in plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(list(BITS)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    names = ["bits_per_byte", "low", "high", "dense_bits_per_byte"]
    values = rows.reindex(columns=names)
    found = values.to_numpy(float)
    found = found[np.isfinite(found)]
    if found.size:
        axes.set_ylim(found.min() / 1.06, found.max() * 1.08)


def _legend(*tables: pd.DataFrame) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    there = {kind for table in tables for kind in table["kind"]}
    shown = [CUTS[kind] for kind in CUTS if kind in there]
    marks = [Line2D([], [], color=c, marker=m, ms=8, ls="-") for c, m, _ in shown]
    hollow = Line2D([], [], color=GREY, marker="o", mfc="white", ls="none")
    return [*marks, hollow], [*(name for *_, name in shown), "hollow: estimated"]


def break_even(table: pd.DataFrame, n: int, k: int, value: int = 4) -> Figure:
    """Dense over compressed rows: bytes of a weight (n, k) by formula, and time.

    `table` is tables.savings() of dense zeros and CSR, both phases; value: bytes of a
    dense weight. Below one CSR loses.
    """
    figure = Figure(figsize=(11.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bytes(left, n, k, value)
    _times(right, table)
    for axes, title in ((left, "bytes, counted"), (right, "time, measured")):
        axes.axhline(1, color=GREY, lw=1, ls="--")
        axes.set_title(title, fontsize=TITLE, loc="left")
        axes.set_yscale("log")
        axes.set_xlabel("share of the weights that is zero", fontsize=TEXT)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
        axes.set_xlim(0.3, 1)
        axes.tick_params(labelsize=SMALL, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
    for at in evens(table).values():
        mark_even(right, at, "")
    _between(right, evens(table))
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=SMALL, frameon=False, loc="upper left")
    left.set_ylabel("times smaller than dense: higher is better", fontsize=TEXT)
    right.set_ylabel("times faster than dense: higher is better", fontsize=TEXT)
    _ratio_ticks(left.yaxis)
    return figure


def _bytes(axes: Axes, n: int, k: int, value: int) -> None:
    color, _, name = CUTS["csr"]
    shares = np.linspace(0.3, 0.97, 68)
    dense = n * k * value
    gain = [dense / sparse_bytes(Sparsity(s, storage="csr"), n, k) for s in shares]
    axes.plot(shares, gain, color=color, lw=1.5)
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "right"}
    axes.annotate(name, (shares[50], gain[50]), (-9, 3), color=color, fontsize=SMALL,
                  **place)  # fmt: skip
    even = float(np.interp(1, gain, shares))
    mark_even(axes, even, "same bytes")


def mark_even(axes: Axes, at: float, words: str) -> None:
    """Where CSR and dense cost the same."""
    axes.plot([at], [1], "o", ms=11, mfc="none", mec="black", zorder=5)
    if words:
        place: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
        axes.annotate(f"{words} at {at:.0%}", (at, 1), (8, -16), **place)


def _between(axes: Axes, even: Mapping[str, float]) -> None:
    """Says below the rings where each phase is even: found between measured shares."""
    if not even:
        return
    each = ", ".join(f"{phase} near {at:.0%}" for phase, at in even.items())
    words = f"even between measured shares:\n{each}"
    place: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
    place |= {"xycoords": axes.get_yaxis_transform(), "ha": "right", "va": "top"}
    axes.annotate(words, (1, 1), (0, -14), **place)


def _times(axes: Axes, table: pd.DataFrame) -> None:
    for kind in ("zeros", "csr"):
        for phase, fill, style in (("prefill", None, "-"), ("decode", "white", ":")):
            rows = table[(table["kind"] == kind) & (table["phase"] == phase)]
            rows = rows[rows["measured_gain"].map(known).astype(bool)].sort_values(
                "share"
            )
            if rows.empty:
                continue
            color, marker, _ = CUTS[kind]
            x, y = (rows[name].to_numpy(float) for name in ("share", "measured_gain"))
            look: dict[str, Any] = {"color": color, "ls": style, "mfc": fill or color}
            words = f"{'CSR' if kind == 'csr' else 'zeros stored dense'}, {phase}"
            axes.plot(x, y, marker, ms=8, lw=1.5, label=words, **look)


def evens(table: pd.DataFrame) -> dict[str, float]:
    """By phase: the share of zeros from which CSR is faster than dense, as measured.

    Between two rows by a straight line in the log of the gain; left out where no two
    rows lie on either side.
    """
    found = {}
    for phase in dict.fromkeys(table["phase"]):
        rows = table[(table["kind"] == "csr") & (table["phase"] == phase)]
        rows = rows[rows["measured_gain"].map(known).astype(bool)].sort_values("share")
        gain = np.log(rows["measured_gain"].to_numpy(float))
        share = rows["share"].to_numpy(float)
        for n in range(len(gain) - 1):
            if gain[n] <= 0 < gain[n + 1]:
                part = -gain[n] / (gain[n + 1] - gain[n])
                found[phase] = float(share[n] + part * (share[n + 1] - share[n]))
    return found

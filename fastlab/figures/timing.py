"""Traps in timing code: samples as they came, few of them, drift, and first calls.

Rows of samples have a line for each call, in the order taken: series, and ms. The trap
is the first series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fastlab.clock import stats
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, level, line, points
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import BLACK, FAINT, GREY, PALE, SMALL
from fastlab.words import digits, factor, percent, times

# The trap comes first, and is grey; what is measured with care is black.
LOOKS = ({"color": GREY, "marker": "^"}, {"color": BLACK, "marker": "o"})
DASHES = {"you report": (GREY, "--"), "all of ours": (BLACK, "-")}
FAR = 0.05  # a median that is off by more than this fraction
FACTORS = (1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000)  # on an axis
TRIES, INTERVALS = 100, 60  # drawn of each size, and in each panel
MS = Axis("milliseconds: log scale", "log")


def strips(samples: pd.DataFrame, first: int = 0) -> Figure:
    """Every sample in the order taken, beside its ECDF; two series, ms on a log axis.

    first: so many calls of the first series are hollow and ringed. The bar runs from
    p10 to p90 where 64 samples or more allow it, the dash in it is the median.
    """
    every = [_told(own) for _, own in _series(samples)]
    left, right, told = [], [], []
    for place, rows in enumerate(every):
        name, ends = rows["series"].iloc[0], ("median_ms", "p10_ms", "p90_ms")
        draw = partial(_strip, place=place, first=first * (not place))
        left.append(drawn(draw, rows, "series", "ms", name, ends=ends))
        look: Any = {"color": LOOKS[place]["color"], "dash": ("--", "-")[place]}
        look["steps"] = True
        right.append(line(rows.sort_values("share"), "share", "ms", name, **look))
        told.append(f"{name}: median {digits(rows['median_ms'].iloc[0])} ms")
    if first:
        told[0] += f", first call {digits(every[0]['ms'].iloc[0])} ms"
    names = Axis("every sample, in the order taken", names=[one.name for one in left])
    share = Axis("share of samples below", "linear", percent, (0, 0.5, 1), (0, 1))
    panels = [Panel(names, MS, left), Panel(share, MS, right)]
    look = {"widths": (1.7, 1), "share": "y", "size": (10, 4.8)}
    rows = pd.concat(every, ignore_index=True)
    return Figure(panels, "; ".join(told), rows, key="outside lower center", **look)


def _told(samples: pd.DataFrame) -> pd.DataFrame:
    """Of one series: the call, the share of all not above it, median, p10 and p90."""
    # time.time() may step back, and its steps are coarse: no time is below 1 ns.
    ms = samples["ms"].clip(lower=1e-6).to_numpy()
    summary, order = stats.summary(ms), np.argsort(np.argsort(ms, kind="stable"))
    ends = {"p10_ms": summary.p10, "p90_ms": summary.p90}
    rows = samples[["series"]].assign(call=range(1, len(ms) + 1), ms=ms)
    rows = rows.assign(share=(order + 1) / len(ms), median_ms=summary.median, **ends)
    return rows.astype(dict.fromkeys(ends, float))


def _strip(axes: Axes, rows: pd.DataFrame, place: int, first: int) -> None:
    ms, color, bar = rows["ms"].to_numpy(float), LOOKS[place]["color"], place + 0.3
    at = place - 0.37 + np.linspace(0, 0.6, len(ms))
    dots: dict[str, Any] = {"s": 16, "alpha": 0.5, "lw": 0, **LOOKS[place]}
    axes.scatter(at[first:], ms[first:], **dots)
    if first:
        ring: dict[str, Any] = {"s": 60, "fc": "none", "ec": color, "lw": 1.4}
        axes.scatter(at[:first], ms[:first], marker="D", **ring)
        note: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
        note |= {"bbox": {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}}
        axes.annotate("first calls", (at[0], ms[0]), (9, 7), color=color, **note)
    middle, *ends = rows.iloc[0][["median_ms", "p10_ms", "p90_ms"]]
    axes.plot([bar, bar], ends, color=color, lw=3, alpha=0.5)
    axes.plot([bar - 0.03, bar + 0.03], [middle] * 2, color=color, lw=3)
    text: dict[str, Any] = {"color": color, "va": "center", "fontsize": SMALL}
    axes.text(bar + 0.05, middle, f"{digits(middle)} ms\nn = {len(ms)}", **text)


def sample_size_effect(tries: pd.DataFrame) -> Figure:
    """Medians of few samples over that of all: dots, and where 90 % of them lie.

    tries: samples (how many), ratio. The pale band is within 5 % of all.
    """
    of_size = tries.groupby("samples", sort=False)["ratio"]
    summary = of_size.quantile([0.05, 0.5, 0.95]).unstack()
    summary = summary.set_axis(["low", "median", "high"], axis=1).reset_index()
    off = of_size.agg(lambda ratio: np.mean(abs(ratio - 1) > FAR)).to_numpy()
    dots = tries[of_size.cumcount() < TRIES]
    far, strayed = f"{100 * FAR:g} %", [percent(share) for share in off]
    low, high = min(dots["ratio"].min(), 1 - FAR), max(dots["ratio"].max(), 1 + FAR)
    apart = [f for f in FACTORS if f > (high / low) ** 0.08]  # none too close to one
    up, down = ([f for f in apart if f < end * 1.01][-3:] for end in (high, 1 / low))
    ticks, names = [*(1 / f for f in down), 1, *up], map(str, summary["samples"])
    bar: dict[str, Any] = {"across": ("low", "high"), "marker": "|", "size": 16}
    panel = Panel(
        Axis("median of few / median of all", "log", factor, ticks),
        Axis("", names={n: f"{n} samples" for n in names}),
        [
            drawn(_dots, dots, "ratio", "samples", "tries", write=times),
            points(summary, "median", "samples", pale=True, **bar),
        ],
        notes=[(f"off by more\nthan {far}", strayed)],
        decor=[lambda axes: axes.axvspan(1 - FAR, 1 + FAR, color=PALE), level(1, "x")],
    )
    sizes = summary["samples"].iloc
    title = f"off by more than {far}: {strayed[0]} of medians of {sizes[0]}, "
    title += f"{strayed[-1]} of those of {sizes[-1]}\n"
    title += "dots: what you would have reported; bar: 90 % of it"
    rows = pd.concat([summary.assign(off=off), dots], ignore_index=True)
    return Figure([panel], title, rows, (9.4, 4.2))


def _dots(axes: Axes, rows: pd.DataFrame) -> None:
    for place, (_, own) in enumerate(rows.groupby("samples", sort=False)):
        at = place + np.linspace(-0.28, 0.28, len(own))
        axes.scatter(own["ratio"], at, s=11, color=GREY, alpha=0.5, lw=0)


def intervals(simulated: pd.DataFrame) -> Figure:
    """Sixty simulated intervals in each panel; those that miss the truth, 1, stand out.

    simulated: correlation, interval (its kind), low, high. Drawn are those with the
    most correlated noise; the table has all.
    """

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        width, color = (
            np.where(rows["holds"], *pair) for pair in ((1, 3), (GREY, BLACK))
        )
        axes.hlines(rows["run"], rows["low"], rows["high"], color=color, lw=width)

    each = simulated.assign(holds=simulated["low"].le(1) & simulated["high"].ge(1))
    kinds = each.groupby(["correlation", "interval"], sort=False)
    summary = kinds.agg(runs=("holds", "size"), coverage=("holds", "mean"))
    worst = each["correlation"].max()
    x, y = "interval of the median / true median", "one simulated measurement a line"
    look: dict[str, Any] = {"decor": [level(1, "x", BLACK, "-")]}
    panels, tables = [], [summary.reset_index()]
    for (noise, kind), rows in kinds:
        if noise == worst:
            few = rows[:INTERVALS].drop(columns="correlation")
            few.insert(0, "run", range(1, len(few) + 1))
            lines = drawn(draw, few, "low", "run", ends=("high",))
            title = f"{kind} interval: {percent(rows['holds'].mean())} hold the truth"
            panels.append(Panel(Axis(x), Axis(y), [lines], title, **look))
            tables.append(few)
    title = f"simulated, neighbours correlate by {worst:g}: thick lines miss the truth"
    rows = pd.concat(tables, ignore_index=True)
    return Figure(panels, title, rows, (10, 4.4), share="xy")


def _mean(ms: Sequence[float]) -> tuple[float, float, float]:
    # Mean and 1.96 standard errors, as if the times were normal and independent.
    error = 1.96 * np.std(ms, ddof=1) / np.sqrt(len(ms)) if len(ms) > 1 else 0.0
    middle = float(np.mean(ms))
    return middle - float(error), middle, middle + float(error)


def _median(ms: Sequence[float], interval: Any = stats.median_interval) -> Any:
    low, high = interval(ms)
    return low, stats.median(ms), high


# What it is called -> whether the naive loop's samples are taken, and (low, what is
# reported, high) of them.
TRAPS: dict[str, tuple[bool, Callable[[Sequence[float]], Any]]] = {
    "none: warm, median": (False, _median),
    "naive loop, median": (True, _median),
    "naive loop, mean": (True, _mean),
    "the fastest call": (False, lambda ms: (min(ms),) * 3),
    "interval ignores drift": (False, lambda ms: _median(ms, stats.plain_interval)),
}


def compared(samples: pd.DataFrame, trap: str, used: int) -> pd.DataFrame:
    """What is reported from the first samples, and the full answer, in ms."""
    naive, ours = (own["ms"].to_numpy() for _, own in _series(samples))
    from_naive, report = TRAPS[trap]
    chosen = (naive if from_naive else ours)[:used]
    answers = (("you report", chosen, report), ("all of ours", ours, _median))
    lines = [(name, len(ms), *work(ms)) for name, ms, work in answers]
    return pd.DataFrame(lines, columns=["report", "call", "low_ms", "ms", "high_ms"])


def _series(samples: pd.DataFrame) -> Any:
    return samples.groupby("series", sort=False)


def reported(rows: pd.DataFrame, trap: str, samples: int) -> Figure:
    """The first samples, what was reported from them, and the full answer; ms.

    The other samples stay pale, and the axes as they are while controls move.
    """
    answers, every = compared(rows, trap, samples), rows["ms"].clip(lower=1e-6)
    (_, naive), (_, ours) = _series(rows)
    rows = _told(naive if TRAPS[trap][0] else ours)[["series", "call", "ms"]]
    look: dict[str, Any] = {"color": FAINT, "size": 4}
    layers = [points(rows[samples:], "call", "ms", "not looked at", **look)]
    look = {**LOOKS[0], "size": 5}
    layers += [points(rows[:samples], "call", "ms", "the samples used", **look)]

    def answer(axes: Axes, rows: pd.DataFrame) -> None:
        ((name, _, low, ms, high),) = rows.to_numpy()
        color, dash = DASHES[name]
        axes.axhspan(low, high, color=color, alpha=0.15, lw=0)
        axes.axhline(ms, color=color, lw=2, ls=dash, zorder=5)

    for n, name in ((1, "all of ours"), (0, "you report")):
        row, ends = answers[n : n + 1], ("low_ms", "high_ms")
        layers += [drawn(answer, row, "call", "ms", name, "line", ends=ends)]
    axis = replace(MS, limits=(every.min() / 1.2, every.max() * 1.2))
    calls = Axis("call, in the order taken", limits=(0, len(rows) + 1))
    (low, ms, high), (_, truth, _) = answers[["low_ms", "ms", "high_ms"]].to_numpy()
    span = f" ({digits(low)} to {digits(high)})" if low < high else ", no interval"
    title = f"{trap}, n = {samples}: you report {digits(ms)} ms{span}, dashed\n"
    title += f"all of ours (solid): {digits(truth)} ms: off by {times(ms / truth)}, "
    title += f"and your interval {'holds' if low <= truth <= high else 'misses'} it"
    table = pd.concat([answers, rows], ignore_index=True)
    return Figure([Panel(calls, axis, layers)], title, table, (8.0, 4.6))

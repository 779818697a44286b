"""Cuts and zeros: what FLOPs promise, what the clock and the text say.

Rows here have what `cuts.described` says of each, and its gains over the dense model:
notebook 07 makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import clocks, diagonal, drawn, level, line, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import BLACK, GREY, ORANGE, PINK, look_of
from fastlab.rows import MISSING
from fastlab.spec.pruning import RATIOS
from fastlab.words import digits, factor, percent, plain, times


def _look(marker: str, color: str, line: str = "-", size: float = 8) -> dict[str, Any]:
    return {"marker": marker, "color": color, "line": line, "size": size}


# In the order in which they are drawn: the widest first, so that none hides another.
NAMES = {"layers": "layers", "ffn": "FFN width", "hidden": "hidden width"}
NAMES |= {"heads": "heads", "zeros": "zeros, stored dense"}
NAMES |= {"pattern": "2:4 zeros, stored dense", "csr": "zeros, stored as CSR"}
NAMES |= {"2:4": "2:4, for sparse tensor cores"}
KINDS = {
    **{"layers": _look("o", BLACK, size=12), "ffn": _look("s", PINK, size=9)},
    **{"hidden": _look("D", ORANGE, size=7.5), "heads": _look("v", GREY, ":", 6)},
    **{"zeros": _look("X", GREY, size=9), "pattern": _look("*", BLACK, size=11)},
    **{"csr": _look("P", BLACK, "--", 9), "2:4": _look("h", GREY, "--", 9)},
}
CHOICES = {  # by what units are chosen
    **dict.fromkeys(("influence", "activation"), _look("o", BLACK)),
    **dict.fromkeys(("loss", "taylor"), _look("s", PINK)),
    **{"magnitude": _look("D", ORANGE), "uniform": _look("v", GREY, "--")},
    **{"first": _look("<", GREY, ":"), "last": _look(">", GREY, "-.")},
    "random": _look("X", GREY, ":"),
}
GAINS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
BITS = Axis(
    *("bits per byte of held-out text: lower is better", "log", plain),
    ticks=(1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
)
GAIN_ENDS, BIT_ENDS = ("gain_low", "gain_high"), ("bits_low", "bits_high")
TABLE = (
    *("kind", "share", "what", "choice", "prune_seed", "distill_steps", "method"),
    *("phase", "precision", "parameters", "left", "promised", "device", "status"),
    *("reason", "estimated_ms", *ENDS, "estimated_gain", "measured_ms", *OWN_ENDS),
    *("measured_gain", *GAIN_ENDS, "time_left", "n", "kl_nats", "kl_low", "kl_high"),
    *("top1", "bits_per_byte", *BIT_ENDS, "dense_bits_per_byte"),
    *("weights_mb", "weights"),
)


def zeros_are_not_speed(rows: pd.DataFrame, judged: pd.DataFrame, title: str) -> Figure:
    """The speed-up that FLOPs promise against that of the clock, and a text's bits.

    rows: of models with random weights, judged: of trained ones; prefills are drawn. On
    the diagonal time falls as FLOPs do.
    """
    timed, text = (one[one["phase"] == "prefill"] for one in (rows, judged))
    x = Axis("speed-up that FLOPs promise, zeros not counted", "log", factor)
    y = Axis("speed-up over dense (hollow = estimated)", "log", factor, GAINS)
    hollow: dict[str, Any] = {"hollow": True, "size": 6, "line": ""}
    layers = _curves(timed, "promised", "estimated_gain", named=False, **hollow)
    layers += _curves(timed, "promised", "measured_gain", ends=GAIN_ENDS)
    most = max([2.0, *timed["promised"]])
    decor = [diagonal(1, most, (), "as promised"), level(1)]
    clock = Panel(x, y, layers, "what the clock says", decor=decor)
    said = _quality(text, "promised", x, "what the text says, nothing relearned")
    look: dict[str, Any] = {"widths": (1.15, 1), "key": "outside lower center"}
    return Figure([clock, said], title, size=(11.0, 5.6), **look, **_told(rows, judged))


def _curves(
    rows: pd.DataFrame, x: str, y: str, named: bool = True, **over: Any
) -> list[Layer]:
    """A curve for each kind of cut, in the order in which they are drawn."""
    groups = dict(iter(rows[rows[y].notna()].sort_values(x).groupby("kind")))
    return [
        points(groups[kind], x, y, NAMES[kind] * named, **(look | over))
        for kind, look in KINDS.items()
        if kind in groups
    ]


def _quality(
    rows: pd.DataFrame, x: str, axis: Axis, title: str, more: Sequence[Layer] = ()
) -> Panel:
    """Bits per byte against x, a curve for each kind of cut, with their intervals."""
    layers = [*_curves(rows, x, "bits_per_byte", ends=BIT_ENDS), *more]
    return Panel(axis, BITS, layers, title, decor=_dense(rows))


def _dense(rows: pd.DataFrame) -> list[Any]:
    """What the dense model needs on the same text, across a panel."""
    bits = rows["dense_bits_per_byte"].dropna()[:1]
    return [level(each, words=f"dense {each:.2f}") for each in bits]


def break_even(
    rows: pd.DataFrame, counted: pd.DataFrame, even: pd.DataFrame, title: str
) -> Figure:
    """Dense over compressed rows: bytes of a weight by formula, and time.

    rows: of dense zeros and CSR, in both phases; counted: how many times smaller CSR is
    at each share; even: the `share` where it costs as much, of `what`. Below one CSR
    loses.
    """
    x = Axis("share of the weights that is zero", write=percent, limits=(0.3, 1.01))
    limits = 0.5, 1.1 * float(counted["smaller"].max())
    y = Axis("dense over compressed: higher is better", "log", factor, GAINS, limits)
    layers = [line(counted, "share", "smaller", "bytes as CSR, counted", dash="--")]
    known = rows[rows["measured_gain"].notna() & rows["kind"].isin(("zeros", "csr"))]
    groups = known.sort_values("share").groupby(["kind", "phase"], sort=False)
    for (kind, phase), own in groups:
        look = KINDS[kind] | {"marker": look_of("fp32", phase)["marker"], "size": 8}
        look |= {"line": "-" if phase == "prefill" else ":", "ends": GAIN_ENDS}
        name = f"{NAMES[kind]}, {phase}"
        layers.append(points(own, "share", "measured_gain", name, **look))
    ring: dict[str, Any] = {"fill": "none", "size": 13, "color": GREY, "words": "what"}
    layers.append(points(even, "share", "smaller", "CSR as dense", **ring))
    panel = Panel(x, y, layers, key="upper left", decor=[level(1)])
    told = _told(rows, counted, even, more=["smaller"])
    return Figure([panel], title, size=(8.6, 5.2), **told)


def depth_or_width(
    rows: pd.DataFrame, judged: pd.DataFrame, students: pd.DataFrame, title: str
) -> Figure:
    """Against the parameters that are left: time measured, and bits per byte.

    rows, judged: cuts of random and of trained weights; students: cuts that learned
    again, a ring at the end of an arrow from the bits per byte `before`.
    """
    kinds = ["layers", "ffn", "hidden"]
    timed, text, students = (
        one[one["kind"].isin(kinds)] for one in (rows, judged, students)
    )
    students = students.drop_duplicates(["kind", "what", "choice", "distill_steps"])
    words = "parameters left, of the dense model's"
    x = Axis(words, write=percent, limits=(0.15, 1.05))
    y = Axis("measured time, of the dense model's", write=percent)
    decor = [diagonal(0.2, 1, (), "as parameters")]
    time = Panel(x, y, _curves(timed, "left", "time_left"), "random weights: time")
    time = replace(time, key="upper left", decor=decor)
    groups = students.groupby("kind", sort=False)
    again = [layer for kind, own in groups for layer in _learned(str(kind), own)]
    quality = _quality(text, "left", x, "trained weights: quality", again)
    told = _told(rows, judged, students, more=["before"])
    told["note"] = "; ".join(filter(None, (f"{len(students)} distilled", told["note"])))
    return Figure([time, quality], title, size=(10.8, 5.0), **told)


def _learned(kind: str, rows: pd.DataFrame) -> list[Layer]:
    """Distilled models: rings, and arrows to them from the same cuts before."""
    name, style = NAMES[kind], KINDS[kind] | {"line": "", "size": 7}
    bend = 0.2 if kind == "layers" else -0.2  # two cuts may leave the same size
    arrow = {"arrowstyle": "->", "color": style["color"], "lw": 1.5, "shrinkB": 8}
    arrow |= {"connectionstyle": f"arc3,rad={bend}"}

    def arrows(axes: Axes, rows: pd.DataFrame) -> None:
        for left, start, end in rows[["left", "before", at]].dropna().to_numpy():
            axes.annotate("", (left, end), (left, start), arrowprops=arrow)

    at, said = "bits_per_byte", [f"{name}, {n:,} steps" for n in rows["distill_steps"]]
    rows, ring = rows.assign(words=said), style | {"size": 14, "fill": "none"}
    return [
        points(rows, "left", at, f"{name}, distilled", words="words", **ring),
        points(rows, "left", "before", **style),
        drawn(arrows, rows, "left", at),
    ]


def choices(rows: pd.DataFrame, title: str) -> Figure:
    """Bits per byte against the share cut, a panel for each kind of unit.

    A curve for each way to choose them, side by side where they would hide each other.
    rows: with the mean, least and most bits over the seeds of "random".
    """
    known = rows[rows["bits_per_byte"].notna() & rows["kind"].isin(RATIOS)]
    if known.empty:
        return nothing("no model of these cuts was judged")
    known = known.assign(cut=known["share"].map(percent)).sort_values("share")
    groups = dict(iter(known.groupby("kind")))
    used, panels = [way for way in CHOICES if way in set(known["choice"])], []
    for kind in (kind for kind in RATIOS if kind in groups):
        own, layers = groups[kind].drop_duplicates(["choice", "share"]), []
        there = [way for way in used if way in set(own["choice"])]
        for n, way in enumerate(there):
            name = " / ".join(one for one in used if CHOICES[one] == CHOICES[way])
            look = CHOICES[way] | {"shift": 0.08 * (n - (len(there) - 1) / 2)}
            look |= {"ends": ("least", "most")}
            curve = own[own["choice"] == way]
            layers.append(points(curve, "cut", "mean", name, **look))
        x = Axis("share cut", names=list(dict.fromkeys(own["cut"])))
        panels.append(Panel(x, BITS, layers, NAMES[kind], decor=_dense(known)))
    widths = [0.8 + 0.4 * len(panel.x.names) for panel in panels]
    look = {"widths": widths, "share": "y", "key": "outside lower center"}
    told = _told(known, more=["mean", "least", "most"])
    return Figure(panels, title, size=(11.0, 5.0), **look, **told)


def predicted_vs_measured(rows: pd.DataFrame, title: str) -> Figure:
    """Each cut's time: estimated before it was built, with its interval, and measured.

    rows: of cuts, with whether the time is `inside`.
    """
    known = rows[rows["ratio"].notna()]
    if known.empty:
        return nothing("nothing was both estimated and measured")
    cut = known["share"].map(percent) + " of " + known["kind"].map(NAMES)
    known = known.assign(cut=cut.fillna(known["kind"]) + ": " + known["what"])
    layers: list[Layer] = []
    for kind, own in known.groupby("kind", sort=False):
        look = KINDS.get(str(kind), KINDS["layers"]) | {"size": 8, "line": ""}
        layers += clocks(own, "cut", NAMES.get(str(kind), str(kind)), **look)
    said = [
        f"{digits(ms)} ms, {times(ratio)}" + ", outside" * (not inside)
        for ms, ratio, inside in known[["measured_ms", "ratio", "inside"]].to_numpy()
    ]
    most = 1.02 * float(known[[ENDS[1], OWN_ENDS[1]]].max(axis=None))
    x = Axis("ms (hollow = estimated, grey bar = its interval)", limits=(0, most))
    y, notes = Axis("", names=list(known["cut"])), [("measured, over estimate", said)]
    panel, size = Panel(x, y, layers, notes=notes), (10.4, 1.9 + 0.36 * len(known))
    told = _told(known, more=["inside", "ratio"]) | {"note": _told(rows)["note"]}
    return Figure([panel], title, size=size, **told)


def _told(*tables: pd.DataFrame, more: Sequence[str] = ()) -> dict[str, Any]:
    """The folded rows of a figure, and a note of those that are not stored."""
    every = [rows.reindex(columns=[*TABLE, *more]) for rows in tables]
    whole = pd.concat([one for one in every if len(one)] or every, ignore_index=True)
    gone = whole.loc[whole["status"] == MISSING, ["kind", "share", "phase"]].to_numpy()
    each = {f"{kind} {percent(share)} ({phase})": 1 for kind, share, phase in gone}
    note = f"no row is stored of {', '.join(each)}" if each else ""
    return {"rows": whole, "note": note}

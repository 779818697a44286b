"""Cuts and zeros: what FLOPs promise, what the clock and the text say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.cost.memory import parameters
from fastlab.cost.operations import operations
from fastlab.cost.ops import PRODUCTS
from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import bars, clocks, drawn, even_at, level, line, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.roofline import device_menu
from fastlab.figures.style import BLACK, GREY, PALE, PINK, SMALL, look_of
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate
from fastlab.rows import MISSING, estimated, over, points_of
from fastlab.spec.checks import check_choice
from fastlab.spec.grids import flat, grid
from fastlab.spec.point import Point
from fastlab.spec.pruning import (
    IMPORTANCES,
    LAYER_CHOICES,
    NOTHING_CUT,
    RATIOS,
    Pruning,
    check_ratio,
)
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape
from fastlab.words import digits, factor, percent, plain, si, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def _look(marker: str, color: str, line: str = "-", size: float = 9) -> dict[str, Any]:
    return {"marker": marker, "color": color, "line": line, "size": size}


ORANGE = "#E69F00"  # no precision has it, as none has PINK
# In the order in which they are drawn: the widest first, so that none hides another.
KINDS = {
    "layers": ("layers", _look("o", BLACK, size=12)),
    "ffn": ("FFN width", _look("s", PINK)),
    "hidden": ("hidden width", _look("D", ORANGE, size=7.5)),
    "heads": ("heads", _look("v", GREY, ":", 6)),
    "zeros": ("zeros, stored dense", _look("X", GREY)),
    "pattern": ("2:4 zeros, stored dense", _look("*", BLACK, size=11)),
    "csr": ("zeros, stored as CSR", _look("P", BLACK, "--")),
    "2:4": ("2:4, for sparse tensor cores", _look("h", GREY, "--")),
}
CHOICES = {  # by what units are chosen
    **dict.fromkeys(("influence", "activation"), _look("o", BLACK, size=8)),
    **dict.fromkeys(("loss", "taylor"), _look("s", PINK, size=8)),
    "magnitude": _look("D", ORANGE, size=8),
    "uniform": _look("v", GREY, "--", 8),
    "first": _look("<", GREY, ":", 8),
    "last": _look(">", GREY, "-.", 8),
    "random": _look("X", GREY, ":", 8),
}
DENSE, ZEROS = "dense", ("zeros", "pattern", "csr", "2:4")  # these leave the shape
DEPTH_OR_WIDTH = ("layers", "ffn", "hidden")
GROUPS = dict.fromkeys(RATIOS, "cut shapes") | {"csr": "CSR", "2:4": "2:4 packed"}
GROUPS |= dict.fromkeys(("zeros", "pattern"), "zeros stored dense")
BY_LAYER = LAYER_CHOICES[:-1]  # all but random
SEEDS = (0, 1, 2)  # of random choices
HEAD = "head"  # the operation that is never sparse
PARTS = ("prune_", "sparse_", "share_", "distill_")  # columns of a smaller model
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
SAVED = (0, 0.25, 0.5, 0.75, 0.9)  # shares of the FLOPs that an axis names
GAINS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
BITS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # a byte
QUALITY = "bits per byte of held-out text: lower is better"
PROMISE = "FLOPs saved, zeros counted as saved"
NOTE: dict[str, Any] = {"fontsize": SMALL, "color": GREY}
GAIN_ENDS, BIT_ENDS = ("gain_low", "gain_high"), ("bits_low", "bits_high")
TABLE = (
    *("kind", "share", "what", "choice", "prune_seed", "distill_steps", "method"),
    *("phase", "precision", "parameters", "left", "promised", "device", "status"),
    *("reason", "estimated_ms", *ENDS, "estimated_gain", "measured_ms", *OWN_ENDS),
    *("measured_gain", *GAIN_ENDS, "time_left", "n", "kl_nats", "kl_low", "kl_high"),
    *("top1", "bits_per_byte", *BIT_ENDS, "dense_bits_per_byte"),
    *("weights_mb", "weights"),
)


# --- points


def cut_points(
    shares: Sequence[float],
    multiple: int = 1,
    layer_choice: Sequence[str] = ("uniform",),
    importance: Sequence[str] = ("magnitude",),
    **common: Any,
) -> list[Point]:
    """The dense point, then each share cut from layers, heads, FFN and hidden width.

    layer_choice: the ways in which layers are chosen, importance: all else; "random"
    draws three times. Ways that do not fit are left out, and so are cuts that leave no
    shape a config can say (9 of 12 heads where the width is 768). `common` are fields
    of `fastlab.grid`. ValueError for a bad share, or for a way that is none.
    """
    for share in shares:
        check_ratio("shares", share)
    for way in (*layer_choice, *importance):
        check_choice("ways", way, (*LAYER_CHOICES, *IMPORTANCES))
    (dense,) = grid(**common)
    found: dict[Any, Point] = {dense.shape: dense}
    for kind, share in itertools.product(RATIOS, shares):
        name, ways = "importance", [way for way in importance if way in IMPORTANCES]
        if kind == "layers":
            name, ways = "layer_choice", [w for w in layer_choice if w in BY_LAYER]
        for way, seed in itertools.product(ways, SEEDS):
            cut = {kind: share, name: way, "multiple": multiple, "seed": seed}
            point = _pruned(dense, **cut)
            if point is not None and point.built_shape != dense.shape:
                draw = point.recipe.pruning.seed  # 0 where nothing is random
                found.setdefault((point.built_shape, way, draw), point)
    return list(found.values())


def _pruned(point: Point, **cut: Any) -> Point | None:
    """The point with a pruning; None where that leaves no shape a config can say."""
    try:
        return replace(point, recipe=replace(point.recipe, pruning=Pruning(**cut)))
    except ValueError:
        return None


# --- rows


def speedups(rows: pd.DataFrame, profile: Device | None = None) -> pd.DataFrame:
    """The rows with what was cut, what that promises, and what it brought.

    kind: "layers", ..., "csr"; "dense" for nothing, "several", "" where weights are
    made smaller in another way. what: the shape that is built. promised = FLOPs of the
    dense model / those left, zeros counted as if they cost nothing; left = parameters
    left, of the dense model's. Gains are over the dense row of the same call; gain_low,
    gain_high, time_left = 1 / measured_gain come with them. Estimates are made afresh
    with `profile`, else the rows' own.
    """
    import pandas as pd

    dense = flat(Point(ModelShape("llama", 1, 64)))
    base = {name: value for name, value in dense.items() if name.startswith(PARTS)}
    rows = over(estimated(rows, profile), **base)
    cut = pd.DataFrame([described(point) for point in points_of(rows)], rows.index)
    dense_ms = rows["measured_gain"] * rows["measured_ms"]
    low, high = (dense_ms / rows[end] for end in reversed(OWN_ENDS))
    gains = {"gain_low": low, "gain_high": high, "time_left": 1 / rows["measured_gain"]}
    return rows.assign(**{name: cut[name] for name in cut}, **gains)


def described(point: Point) -> dict[str, Any]:
    """What is cut from a point, how it is chosen, and what that promises."""
    recipe, cut, base = point.recipe, point.recipe.pruning, dense_of(point)
    kind, sparsity = kind_of(recipe), recipe.sparsity
    chosen = cut.layer_choice if kind == "layers" else cut.importance
    many = parameters(point.built_shape)
    return {
        "kind": kind,
        "share": sparsity.ratio if sparsity else getattr(cut, kind, 0.0),
        "what": built_words(point),
        "choice": chosen if kind in RATIOS else "",
        "method": sparsity.method if sparsity else "",
        "parameters": many,
        "left": many / parameters(base.shape),
        "promised": paper_flops(base) / paper_flops(point),
    }


def kind_of(recipe: Recipe) -> str:
    """What is cut: of KINDS, "dense" for nothing, "several", "" if stored else."""
    if recipe.sharing is not None or (recipe.sparsity and recipe.prunes):
        return ""
    if recipe.sparsity is not None:
        zeros = "pattern" if recipe.sparsity.pattern else "zeros"
        return zeros if recipe.storage == "dense" else recipe.storage
    cut = [name for name in RATIOS if getattr(recipe.pruning, name)]
    return (cut[0] if len(cut) == 1 else "several") if cut else DENSE


def dense_of(point: Point) -> Point:
    """The same call of the model that nothing was cut from."""
    bare: dict[str, Any] = {"pruning": NOTHING_CUT, "sparsity": None, "sharing": None}
    return replace(point, recipe=replace(point.recipe, distill_steps=0, **bare))


def paper_flops(point: Point) -> float:
    """FLOPs of a call where zeros of the layers' weights cost nothing."""
    sparsity = point.recipe.sparsity
    kept = replace(point, recipe=replace(point.recipe, sparsity=None))
    left = 1 - sparsity.ratio if sparsity else 1.0
    return sum(
        op.times * op.flops * (left if op.kind in PRODUCTS and op.name != HEAD else 1)
        for op in operations(kept)
    )


def built_words(point: Point) -> str:
    """The shape that is built, in words: "4 x 768, 12/4 heads, ffn 2048"."""
    s, sparsity = point.built_shape, point.recipe.sparsity
    words = f"{s.layers} x {s.hidden}, {s.heads}/{s.kv_heads} heads, ffn {s.ffn}"
    if sparsity is None:
        return words
    zeros = sparsity.pattern or f"{percent(sparsity.ratio)} zeros"
    return f"{words}, {zeros} {sparsity.storage}"


def _missing(*tables: pd.DataFrame) -> str:
    """Which of the rows are not stored, in words; "" where all are."""
    each = {
        f"{row['kind']} {percent(row['share'])} ({row['phase']})": None
        for rows in tables
        for _, row in rows[rows["status"] == MISSING].iterrows()
    }
    return f"no row is stored of {', '.join(each)}" if each else ""


def _folded(*tables: pd.DataFrame, more: Sequence[str] = ()) -> pd.DataFrame:
    import pandas as pd

    every = [rows.reindex(columns=[*TABLE, *more]) for rows in tables]
    return pd.concat([one for one in every if len(one)] or every, ignore_index=True)


# --- figures


def zeros_are_not_speed(rows: pd.DataFrame, judged: pd.DataFrame, title: str) -> Figure:
    """FLOPs saved against time saved, and against the bits per byte of a real text.

    Both are `speedups`, of which prefills are drawn: `rows` of models with random
    weights, `judged` of trained ones. On the diagonal time falls as FLOPs do.
    """
    timed, text = (one[one["phase"] == "prefill"] for one in (rows, judged))
    most = [max([2.0, *one["promised"]]) for one in (timed, text)]
    gains = timed[["measured_gain", "estimated_gain"]].to_numpy(float)
    low = min(0.8, float(np.nanmin(gains, initial=1)) / 1.25)
    x = Axis(PROMISE, "log", _saved, [1 / (1 - share) for share in SAVED])
    near, far = (replace(x, limits=(0.94, end * 1.2)) for end in most)
    words = "speed-up over dense (hollow = estimated)"
    y = Axis(words, "log", factor, GAINS, (low, most[0] * 1.25))
    hollow: dict[str, Any] = {"hollow": True, "size": 6, "line": ""}
    layers = _curves(timed, "promised", "estimated_gain", named=False, **hollow)
    layers += _curves(timed, "promised", "measured_gain", ends=GAIN_ENDS)
    ground = [_promise(most[0], low)]
    said = _quality(text, "promised", far, "what the text says, nothing relearned")
    return Figure(
        [Panel(near, y, layers, "what the clock says", decor=ground), said],
        title,
        _folded(rows, judged),
        (11.0, 5.6),
        widths=(1.15, 1),
        key="outside lower center",
        note=_missing(rows, judged),
    )


def _saved(promised: float) -> str:
    return f"{100 * (1 - 1 / promised):.0f} %"


def _curves(
    rows: pd.DataFrame, x: str, y: str, named: bool = True, **over: Any
) -> list[Layer]:
    """A curve for each kind of cut, in the order in which they are drawn."""
    groups = dict(iter(rows[rows[y].notna()].sort_values(x).groupby("kind")))
    return [
        points(groups[kind], x, y, name * named, **(look | over))
        for kind, (name, look) in KINDS.items()
        if kind in groups
    ]


def _promise(most: float, low: float) -> Callable[[Axes], None]:
    """The diagonal on which time falls as FLOPs do, and the ground below the dense."""

    def draw(axes: Axes) -> None:
        axes.plot([1, most], [1, most], color=GREY, lw=1, ls="--", zorder=1)
        axes.axhspan(low / 10, 1, color=PALE, alpha=0.6, zorder=0)
        axes.text(1.0, low * 1.06, "slower than dense", va="bottom", **NOTE)
        look: dict[str, Any] = {"rotation_mode": "anchor", "ha": "right"}
        look |= {"rotation": 45, "transform_rotates_text": True}
        axes.text(most, most * 1.05, "as promised", **look, **NOTE)

    return draw


def _quality(
    rows: pd.DataFrame, x: str, axis: Axis, title: str, more: Sequence[Layer] = ()
) -> Panel:
    """Bits per byte against x, a curve for each kind of cut, with their intervals."""
    rows = rows[rows["bits_per_byte"].notna()]
    layers = _curves(rows, x, "bits_per_byte", ends=BIT_ENDS)
    y = _bits_axis(rows, *(layer.rows for layer in more))
    return Panel(axis, y, [*layers, *more], title, decor=[_dense(rows)])


def _bits_axis(*tables: pd.DataFrame) -> Axis:
    names = ["bits_per_byte", *BIT_ENDS, "dense_bits_per_byte"]
    values = [rows.reindex(columns=names).to_numpy(float).ravel() for rows in tables]
    low, high = (
        end(np.concatenate(values), initial=first)
        for end, first in ((np.nanmin, 2), (np.nanmax, 1.5))
    )
    return Axis(QUALITY, "log", plain, BITS, (float(low) / 1.06, float(high) * 1.08))


def _dense(rows: pd.DataFrame) -> Callable[[Axes], None]:
    """What the dense model needs on the same text, across the axes."""
    bits = rows["dense_bits_per_byte"].dropna()

    def draw(axes: Axes) -> None:
        if len(bits):
            axes.axhline(bits.iloc[0], color=GREY, lw=1, ls="--", zorder=1)
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
            place |= {"ha": "right", "va": "bottom"}
            axes.text(0.99, bits.iloc[0], f"dense {bits.iloc[0]:.2f}", **place, **NOTE)

    return draw


def break_even(rows: pd.DataFrame, counted: pd.DataFrame, weight: str) -> Figure:
    """Dense over compressed rows: bytes of a weight by formula, and time.

    rows: `speedups` of dense zeros and CSR, in both phases; counted: how many times
    smaller CSR is at each share. Below one CSR loses.
    """
    found = even_shares(rows)
    even = float(np.interp(1, counted["smaller"], counted["share"]))
    x = Axis("share of the weights that is zero", write=percent, limits=(0.3, 1.01))
    limits = 0.5, 1.1 * float(counted["smaller"].max())
    y = Axis("dense over compressed: higher is better", "log", factor, GAINS, limits)
    curve = line(counted, "share", "smaller", KINDS["csr"][0])
    known = rows[rows["measured_gain"].notna()].sort_values("share")
    layers = [
        _timed(known[(known["kind"] == kind) & (known["phase"] == phase)], kind, phase)
        for kind in ("zeros", "csr")
        for phase in dict.fromkeys(known["phase"])
    ]
    rings = [[level(1), _ring(at)] for at in ([even], list(found.values()))]
    first = Panel(x, y, [curve], f"bytes of a weight {weight}, counted", decor=rings[0])
    last = Panel(x, y, layers, "time, measured", "upper left", decor=rings[1])
    each = [f"near {percent(at)} in {phase}" for phase, at in found.items()]
    title = f"CSR takes the bytes of dense at {percent(even)} zeros\nits time "
    title += f"{', '.join(each) or 'at no share'}, between measured shares"
    every = _folded(rows, counted.assign(kind="csr"), more=["smaller"])
    both, size = [first, last], (10.8, 4.9)
    return Figure(both, title, every, size, share="y", note=_missing(rows))


def _timed(rows: pd.DataFrame, kind: str, phase: str) -> Layer:
    name, look = KINDS[kind]
    how = {"marker": look_of("fp32", phase)["marker"], "size": 8}
    how |= {"line": "-" if phase == "prefill" else ":", "ends": GAIN_ENDS}
    return points(rows, "share", "measured_gain", f"{name}, {phase}", **{**look, **how})


def _ring(shares: Sequence[float]) -> Callable[[Axes], Any]:
    """Rings where CSR and dense cost the same: the title names them."""
    look: dict[str, Any] = {"ms": 13, "mfc": "none", "mec": GREY, "mew": 1.5}
    return lambda axes: axes.plot(shares, [1] * len(shares), "o", zorder=6, **look)


def even_shares(rows: pd.DataFrame) -> dict[str, float]:
    """By phase: the share of zeros from which CSR is faster than dense, as measured.

    Between two rows by a straight line in the log of the gain; left out where no two
    rows lie on either side.
    """
    csr = rows[(rows["kind"] == "csr") & rows["measured_gain"].notna()]
    phases = csr.sort_values("share").groupby("phase", sort=False)
    even = {str(p): even_at(own["share"], own["measured_gain"]) for p, own in phases}
    return {phase: share for phase, share in even.items() if share == share}


def depth_or_width(
    rows: pd.DataFrame, judged: pd.DataFrame, students: pd.DataFrame
) -> Figure:
    """Against the parameters that are left: time measured, and bits per byte.

    rows, judged: `speedups` of random and of trained weights; students: cuts that
    learned again, a ring at the end of an arrow from the bits per byte `before`.
    """
    timed, text = (
        one[one["kind"].isin(DEPTH_OR_WIDTH) & (one["distill_steps"] == 0)]
        for one in (rows, judged)
    )
    words = "parameters left, of the dense model's"
    x = Axis(words, write=percent, limits=(0.15, 1.05))
    y = Axis("measured time, of the dense model's", write=percent)
    layers, title = _curves(timed, "left", "time_left"), "random weights: time"
    time = Panel(x, y, layers, title, "upper left", decor=[_as_parameters])
    again = [
        layer
        for kind in DEPTH_OR_WIDTH
        for layer in _learned(kind, students[students["kind"] == kind])
    ]
    quality = _quality(text, "left", x, "trained weights: quality", again)
    half, bits = _half(timed, "measured_gain"), _half(text, "bits_per_byte")
    gain = [f"{n} {times(own['measured_gain'].max())}" for n, own in half]
    lost = [f"{name} {own['bits_per_byte'].min():.2f}" for name, own in bits]
    title = f"Speed-up when cut: {', '.join(gain) or 'none'}\n"
    title += f"bits per byte: {', '.join(lost) or 'none'}"
    every = _folded(rows, judged, students, more=["before"])
    note = "; ".join(filter(None, (f"{len(students)} distilled", _missing(rows))))
    return Figure([time, quality], title, every, (10.8, 5.0), note=note)


def _as_parameters(axes: Axes) -> None:
    axes.plot([0.2, 1], [0.2, 1], color=GREY, lw=1, ls="--", zorder=1)
    axes.text(0.26, 0.2, "as parameters", va="bottom", **NOTE)


def _half(rows: pd.DataFrame, by: str) -> list[tuple[str, pd.DataFrame]]:
    """Name and rows of each kind where the share that is cut is nearest to half."""
    share = min(rows["share"], key=lambda one: abs(one - 0.5), default=0.5)
    half = rows[(rows["share"] == share) & rows[by].notna()].sort_values(by)
    groups = dict(iter(half.groupby("kind")))
    names = {kind: f"{percent(share)} of {name}" for kind, (name, _) in KINDS.items()}
    return [(name, groups[kind]) for kind, name in names.items() if kind in groups]


def _learned(kind: str, rows: pd.DataFrame) -> list[Layer]:
    """Distilled models: marks in rings, and arrows from the same cuts before."""
    name, look = KINDS[kind]
    style = {"color": look["color"], "marker": look["marker"]}
    bend = 0.2 if kind == "layers" else -0.2  # two cuts may leave the same size
    arrow = {"arrowstyle": "->", "color": look["color"], "lw": 1.5, "shrinkB": 8}
    arrow |= {"connectionstyle": f"arc3,rad={bend}"}

    def ringed(axes: Axes, rows: pd.DataFrame) -> None:
        ring: dict[str, Any] = {"ls": "", "ms": 14, "mfc": "none", "mew": 2}
        axes.plot(rows["left"], rows["bits_per_byte"], zorder=5, **ring, **style)
        paths = rows[["left", "before", "bits_per_byte"]].dropna().to_numpy()
        for left, start, end in paths:
            axes.annotate("", (left, end), (left, start), arrowprops=arrow)

    said = [f"{name}, {steps:,} steps" for steps in rows["distill_steps"]]
    rows, at = rows.assign(words=said), ("left", "bits_per_byte")
    return [
        points(rows, *at, f"{name}, distilled", size=5, words="words", **style),
        points(rows, "left", "before", size=7, **style),
        drawn(ringed, rows, *at),
    ]


def choices(rows: pd.DataFrame, kinds: Sequence[str] = RATIOS) -> Figure:
    """Bits per byte against the share cut, a panel for each kind of unit.

    A curve for each way to choose them, side by side where they would hide each other.
    rows: `speedups` with the mean, least and most bits over the seeds of "random".
    """
    known = rows[rows["bits_per_byte"].notna() & (rows["distill_steps"] == 0)]
    known = known[known["kind"].isin(kinds)].sort_values("share")
    if known.empty:
        return nothing("no model of these cuts was judged")
    known = known.assign(cut=known["share"].map(percent))
    y, there = _bits_axis(known), [one for one in kinds if one in set(known["kind"])]
    panels = []
    for kind in there:
        own = known[known["kind"] == kind]
        x = Axis("share cut", names=list(dict.fromkeys(own["cut"])))
        layers, decor = _chosen(own, known), [_dense(known)]
        panels.append(Panel(x, y, layers, KINDS[kind][0], decor=decor))
    each = [
        f"{name} {words[0]} to {words[-1]}"
        for name, own in _half(known, "mean")
        for words in [[f"{m:.2f} ({c})" for m, c in own[["mean", "choice"]].to_numpy()]]
    ]
    title = "\n".join(filter(None, ("; ".join(each[:2]), "; ".join(each[2:]))))
    return Figure(
        panels,
        f"Bits per byte when cut: {title}",
        _folded(known, more=["mean", "least", "most"]),
        (11.0, 5.0),
        widths=[0.8 + 0.4 * len(panel.x.names) for panel in panels],
        share="y",
        key="outside lower center",
        note="; ".join(filter(None, ("random: three seeds", _missing(rows)))),
    )


def _chosen(rows: pd.DataFrame, every: pd.DataFrame) -> list[Layer]:
    """A curve for each way to choose units of one kind."""
    there, layers = [way for way in CHOICES if (rows["choice"] == way).any()], []
    used = [way for way in CHOICES if (every["choice"] == way).any()]
    for n, way in enumerate(there):
        own = rows[rows["choice"] == way].drop_duplicates("share")
        name = " / ".join(one for one in used if CHOICES[one] == CHOICES[way])
        aside = 0.08 * (n - (len(there) - 1) / 2)
        made: dict[str, Any] = {"shift": aside, "ends": ("least", "most")}
        layers.append(points(own, "cut", "mean", name, **made, **CHOICES[way]))
    return layers


def predicted_vs_measured(rows: pd.DataFrame, title: str) -> Figure:
    """Each cut's time: the estimate with its interval, made before it was built, and
    the measured one.

    rows: `speedups`, and whether the time is `inside`; those of zeros are left out.
    """
    known = rows[rows["ratio"].notna() & ~rows["kind"].isin(ZEROS)]
    if known.empty:
        return nothing("nothing was both estimated and measured")
    known = known.assign(cut=[cut_words(row) for _, row in known.iterrows()])
    layers: list[Layer] = []
    for kind, own in known.groupby("kind", sort=False):
        name, look = KINDS.get(str(kind), (kind, KINDS["layers"][1]))
        layers += clocks(own, "cut", str(name), **look | {"size": 8, "line": ""})
    said = [
        f"{digits(row['measured_ms'])} ms, {times(row['ratio'])}"
        + ", outside" * (not row["inside"])
        for _, row in known.iterrows()
    ]
    most = 1.02 * float(known[[ENDS[1], OWN_ENDS[1]]].max(axis=None))
    x = Axis("ms (hollow = estimated, grey bar = its interval)", limits=(0, most))
    y, notes = Axis("", names=list(known["cut"])), [("measured, over estimate", said)]
    every, size = _folded(known, more=["inside", "ratio"]), 1.9 + 0.36 * len(known)
    panel = Panel(x, y, layers, notes=notes)
    return Figure([panel], title, every, (10.4, size), note=_missing(rows))


def cut_words(row: Any) -> str:
    """A cut in words, with the shape that it builds."""
    if row["kind"] not in KINDS:
        return f"{row['kind']}: {row['what']}"
    return f"{percent(row['share'])} of {KINDS[row['kind']][0]}: {row['what']}"


# --- the explorer


def cutting(
    models: Mapping[str, Point], rows: pd.DataFrame, profile: Device | None = None
) -> Explorer:
    """Shares of layers, heads, FFN and width -> the shape built, FLOPs, an estimate.

    models: dense points by the name that the menu shows. Where `rows` have the cut, its
    time (with `profile`) and its quality are told too: then it matters how units are
    chosen, which no size depends on. Only shares that a config can say are offered.
    """
    known = dict(zip(points_of(rows), rows.to_dict("records"), strict=True))
    needed = {model.recipe.precision for model in models.values()}
    menu = device_menu(profile)
    able = {name: one for name, one in menu.items() if all(map(one.can, needed))}

    def make(model: str, device: str, **cut: Any) -> Figure | str:
        built = _pruned(models[model], **cut)
        if built is None:
            return "no config can say the shape that this would leave"
        row = known.get(built, {}) if able[device] == profile else {}
        figure = on_paper(built, able[device], row)
        asked = f"layers by {cut['layer_choice']}, units by {cut['importance']}"
        asked += f", widths in multiples of {cut['multiple']}"
        return replace(figure, title=f"{figure.title}\n{asked}")

    def offered(name: str) -> Callable[[dict[str, Any]], dict[str, float]]:
        return lambda state: cut_shares(models[state["model"]], name, state)

    return explore(
        make,
        {"layers": 0.5},
        "nothing runs: sizes and times are computed, the dot was measured",
        model=list(models),
        device=list(able),
        multiple=[1, 16, 64, 128],
        **{name: offered(name) for name in ("layers", "ffn", "hidden", "heads")},
        layer_choice=["influence", "loss", "magnitude", "uniform", "first", "last"],
        importance=["activation", "taylor", "magnitude", "random"],
    )


def cut_shares(model: Point, name: str, state: Mapping[str, Any]) -> dict[str, float]:
    """text -> share of one kind of unit that can go too, each built shape once.

    Where heads make the width (gpt2), a share of it needs the same share of heads.
    """
    cut = {one: state[one] for one in ("multiple", *RATIOS) if one in state}
    found: dict[ModelShape, float] = {}
    for share in SHARES:
        ways = [{name: share}, {name: share, "heads": share}][: 1 + (name == "hidden")]
        built = [one for way in ways if (one := _pruned(model, **(cut | way)))]
        if built:
            found.setdefault(built[0].built_shape, share)
    return {f"{100 * share:g} %": share for share in found.values()}


def on_paper(built: Point, device: Device, row: Mapping[str, Any]) -> Figure:
    """What a cut leaves of a shape and of its costs; row: the stored one, if any."""
    before, after = estimate([dense_of(built), built], device)
    rows = _paper_rows(built, before, after, row.get("measured_ms", np.nan))
    timed = rows[rows["measured"].notna()]
    layers = [
        bars(rows, "dense", "what", color=PALE),
        bars(rows, "left", "what", "left", color=GREY, ends=("low", "high")),
        points(timed, "measured", "what", "measured"),
    ]
    x = Axis("of the dense model's", write=percent, limits=(0, 1.35), ticks=(0, 0.5, 1))
    y, notes = Axis("", names=list(rows["what"])), [("", list(rows["words"]))]
    cut, promised = built.recipe.pruning, before.flops / after.flops
    each = [f"{100 * getattr(cut, n):g} % of {n}" for n in RATIOS if getattr(cut, n)]
    title = f"{', '.join(each) or 'nothing'} cut: {built_words(built)}\nFLOPs promise "
    title += f"{times(promised)}, the estimate {times(before.seconds / after.seconds)}"
    note = f"on {device.name}; {_stored_words(row)}"
    panel = Panel(x, y, layers, notes=notes)
    return Figure([panel], title, rows, (9.0, 4.9), note=note)


def _paper_rows(
    built: Point, before: Estimate, after: Estimate, measured_ms: float
) -> pd.DataFrame:
    """Sizes and costs of a model before and after it is cut; ends of the time's."""
    import pandas as pd

    old, new = built.shape, built.built_shape
    pairs: dict[str, Any] = {n: (getattr(old, n), getattr(new, n)) for n in RATIOS}
    words = ["{:,} → {:,}".format(*pair) for pair in pairs.values()]
    words[1] += f" in groups {old.kv_heads} → {new.kv_heads}"
    pairs["parameters"] = many = parameters(old), parameters(new)
    pairs["FLOPs"] = before.flops, after.flops
    pairs["peak memory"] = before.peak_bytes, after.peak_bytes
    pairs["time"] = 1e3 * before.seconds, 1e3 * after.seconds
    times_s = (after.seconds, after.low_s, after.high_s)
    ms, low, high = (digits(1e3 * seconds) for seconds in times_s)
    words += [si(many[1]), si(after.flops), si(after.peak_bytes, "B")]
    words += [f"{ms} ms, {low} to {high}"]
    rows = pd.DataFrame(list(pairs.values()), columns=["before", "after"])
    rows = rows.assign(what=list(pairs), words=words, dense=1.0)
    is_time, old_s = rows["what"] == "time", before.seconds
    ends = {"low": after.low_s, "high": after.high_s, "measured": measured_ms / 1e3}
    shares = {name: np.where(is_time, s / old_s, np.nan) for name, s in ends.items()}
    return rows.assign(left=rows["after"] / rows["before"], **shares)


def _stored_words(row: Mapping[str, Any]) -> str:
    """What was measured of a cut, in words."""
    if not row.get("measured_ms", 0) > 0:
        return "no row is stored of this cut"
    words, bits = f"measured: {digits(row['measured_ms'])} ms", row["bits_per_byte"]
    if not bits > 0:
        return f"{words}; random weights: no quality to speak of"
    dense, kl = digits(row["dense_bits_per_byte"]), digits(row["kl_nats"])
    return f"{words}; {digits(bits)} bits per byte, dense {dense}; KL {kl} nats"

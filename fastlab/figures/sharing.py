"""Palettes beside integers: exact bytes, rounding noise, what a text loses, time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import bars, drawn, gridlines, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import FAINT, GREEN, GREY, MARKERS, color_of
from fastlab.reading import written
from fastlab.spec.formats import FORMATS, stored_bytes
from fastlab.spec.storage import BITS, Sharing, palette_bytes, tables_of
from fastlab.words import digits, percent, si, times

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

VALUE = 2  # bytes of a table's value, a scale or a zero point: bf16
GROUP = 64  # weights that share a scale where integers are rounded in groups
UNIFORM = "uniform, groups of 64"
ONE, EACH = "palette, one table", "palette, a table a row"
SHARED = {ONE: 0, EACH: 1}  # rows that share a table; 0 = all
LOOKS = {
    ONE: (GREEN, "o", "-"),
    EACH: (GREEN, "^", "--"),
    UNIFORM: (GREY, "s", "-"),
    "int8": (color_of("int8"), "D", "-"),
    "int4-g64": (color_of("int4-g64"), "D", "-"),
}
HEADING = "speed-up over its\ndense (estimated)"
TICKS = (2, 3, 4, 5, 6, 8)  # bits per weight
ROWS = (1, 4, 16, 64, 0)  # output rows that share a table; 0 = all


# --- ways to store a weight


def clustered(weight: Tensor, bits: int, rows: int = 0) -> tuple[Tensor, Tensor]:
    """A weight (n, k) as its palette gives it back, and the tables (groups, 2^bits)."""
    from fastlab.shrink.share import codebooks_of

    groups = weight.float().reshape(tables_of(Sharing(bits, rows), len(weight)), -1)
    tables, codes = codebooks_of(groups, bits)
    return tables.gather(1, codes.long()).view(weight.shape), tables


def uniform(weight: Tensor, bits: int, group: int = 0) -> Tensor:
    """A weight (n, k) rounded to 2^bits evenly spaced values, from least to largest.

    group: neighbours in a row that share a scale and a zero point; 0 = all weights.
    """
    parts = weight.float().reshape(-1, group or weight.numel())
    low, high = parts.aminmax(dim=1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=2.0**-24)
    return (((parts - low) / step).round() * step + low).view(weight.shape)


def uniform_bytes(bits: int, n: int, k: int) -> int:
    """Bytes of a weight (n, k) in groups of integers, scales and zero points."""
    return -(-n * k * bits // 8) + 2 * VALUE * (n * k // GROUP)


def decibels(weights: Iterable[Tensor], rounded: Iterable[Tensor]) -> float:
    """SQNR of all weights in dB: 10 log10(sum w^2 / sum (w - q)^2)."""
    signal = noise = 0.0
    for weight, other in zip(weights, rounded, strict=True):
        signal += float(weight.double().square().sum())
        noise += float((weight.float() - other).double().square().sum())
    return 10 * math.log10(signal / noise) if noise else math.inf


class Scheme(NamedTuple):
    """One way to store a weight: a name of LOOKS, and bits of an index."""

    kind: str
    bits: int

    def size(self, n: int, k: int) -> int:
        """Bytes of a weight (n, k), tables and scales counted."""
        if self.kind in SHARED:
            return palette_bytes(Sharing(self.bits, SHARED[self.kind]), n, k, VALUE)
        if self.kind == UNIFORM:
            return uniform_bytes(self.bits, n, k)
        return stored_bytes(FORMATS[self.kind], n, k, VALUE)

    def rounded(self, weight: Tensor) -> Tensor:
        """A weight (n, k) as this way gives it back."""
        from fastlab.shrink.kernels import quantized_linear

        if self.kind in SHARED:
            return clustered(weight, self.bits, SHARED[self.kind])[0]
        if self.kind == UNIFORM:
            return uniform(weight, self.bits, GROUP)
        return quantized_linear(FORMATS[self.kind], weight, None).dense()


def schemes(bits: Sequence[int]) -> list[Scheme]:
    """Every way that is compared: palettes with one table and with one a row, uniform
    rounding in groups, int8 and int4-g64 as `fl.quantize` makes them.
    """
    few = {EACH: [b for b in bits if b < 6]}  # a table of 64 values a row costs most
    ways = [Scheme(k, b) for k in (ONE, EACH, UNIFORM) for b in few.get(k, bits)]
    return [*ways, Scheme("int8", 8), Scheme("int4-g64", 4)]


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights (n, k) of the layers' linears by their modules' names."""
    from fastlab.shrink import parts

    names = parts.linear_names(model, "layers")
    return {n: parts.dense_weight(model.get_submodule(n)).detach() for n in names}


def stored(table: pd.DataFrame) -> Figure:
    """What a bit buys: SQNR and KL against bits per weight, as stored.

    table: a row for each scheme: kind, bits, bits_per_weight, sqnr_db, kl_nats with its
    interval, of_dense. Numbers near the marks are bits of an index.
    """
    label = "bits per weight as stored, tables and scales counted"
    bits = Axis(label, "log", ticks=TICKS)
    decor = [gridlines(), lambda axes: axes.margins(y=0.12)]
    kl = Axis("KL against the dense model, nats per token", "log")
    noises, losses = _ways(table, "sqnr_db"), _ways(table, "kl_nats")
    heads = "weights: higher is better", "text: lower is better"
    panels = [
        Panel(bits, Axis("SQNR, dB"), noises, heads[0], "lower right", decor=decor),
        Panel(bits, kl, losses, heads[1], decor=decor),
    ]
    int8 = digits(table[table["kind"] == "int8"]["kl_nats"].iloc[0])
    least = table[table["bits"] == table["bits"].min()]
    costs = [percent(v - 1) for v in sorted(least["of_dense"])]
    few = f"{least['bits'].iloc[0]} bits cost {costs[0]} to {costs[-1]} more bits"
    title = f"What a bit buys: {few} per byte; int8 is {int8} nats from dense"
    return Figure(panels, title, table, (11, 5.4))


def _ways(table: pd.DataFrame, column: str) -> list[Layer]:
    layers = []
    sure = column == "kl_nats" and table["kl_low"].notna().any()
    for kind, own in table.groupby("kind", sort=False):
        names = "color", "marker", "line"
        look: dict[str, Any] = dict(zip(names, LOOKS[str(kind)], strict=True))
        ends: Any = ("kl_low", "kl_high") if sure else ()
        own, at = own.sort_values("bits_per_weight"), ("bits_per_weight", column)
        layers.append(points(own, *at, str(kind), ends=ends, words="bits", **look))
    return layers


# --- time


def lookups(table: pd.DataFrame) -> Figure:
    """Smaller is not faster: ms of each phase and MB of weights, a line a storage.

    table: measured rows with storage ("2-bit palette", "dense bf16", "int8") and
    speed-ups over their dense row. Filled marks measured, hollow ones estimated; the
    speed-up is written beside.
    """
    if table.empty:
        return nothing("nothing measured")
    ways = Axis("", names=list(dict.fromkeys(table["storage"])))
    phases = table.groupby("phase", sort=False)
    panels = [_milliseconds(own, str(phase), ways) for phase, own in phases]
    sizes = table.drop_duplicates("storage")
    weights = [
        bars(own, "weights_mb", "storage", name, color=color, thick=0.5)
        for name, color, own in _groups(sizes)
    ]
    said = [si(1e6 * mb, "B") for mb in sizes["weights_mb"]]
    panels.append(Panel(Axis("MB"), ways, weights, "all weights", notes=[("\n", said)]))
    widths, size = [1.0] * len(phases) + [0.8], (11, 1.9 + 0.46 * len(sizes))
    shared = table[table["storage"].str.contains("palette")]
    slower = [
        f"{times(speedups.max())} to {times(speedups.min())} in {phase}"
        for phase, speedups in shared.groupby("phase", sort=False)["measured_gain"]
    ]
    title = f"Smaller is not faster: palettes {', '.join(slower)}, over their dense"
    return Figure(panels, title, table, size, widths=widths, share="y")


def _milliseconds(table: pd.DataFrame, phase: str, ways: Axis) -> Panel:
    layers = []
    for name, color, own in _groups(table):
        look: dict[str, Any] = {"color": color, "marker": MARKERS[phase], "size": 9}
        layers.append(points(own, "estimated_ms", "storage", hollow=True, **look))
        ends = ("measured_low_ms", "measured_high_ms")
        layers.append(points(own, "measured_ms", "storage", name, across=ends, **look))
    said = dict.fromkeys(ways.names, "")
    for _, row in table.iterrows():
        gains = [written("ratio", row[f"{n}_gain"]) for n in ("measured", "estimated")]
        words = f"{gains[0]} ({gains[1]})".removesuffix(" ()")
        said[row["storage"]] = "1" if row["storage"].startswith("dense") else words
    notes = [(HEADING, [*said.values()])]
    return Panel(Axis("ms, hollow is estimated", "log"), ways, layers, phase, "", notes)


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, colour and rows of what is drawn alike: palettes together."""
    names = table["storage"].str.replace(".*palette", "palettes", regex=True)
    for name, own in table.groupby(names, sort=False):
        color = color_of(str(name).removeprefix("dense "))
        yield str(name), GREEN if name == "palettes" else color, own


# --- one weight taken apart


def palettes(model: nn.Module) -> Explorer:
    """Weight, bits and rows that share a table, against a histogram with the table.

    Recomputes only: k-means on one weight of the model's layers.
    """
    weights = {}
    for name, weight in layer_weights(model).items():  # model.layers.0.mlp.up_proj
        head, part = re.split(r"\.(?=\d)", name, maxsplit=1)[1].split(".", 1)
        weights[f"layer {head}: {part}"] = weight

    def rows_of(state: Mapping[str, Any]) -> dict[str, int]:
        n = len(weights[state["weight"]])
        return {str(r or "all"): r for r in ROWS if not (r and n % r)}

    def make(weight: str, bits: int, rows: int) -> Figure:
        return apart(weight, weights[weight], bits, rows)

    start = {"bits": 3, "rows": 0}
    return explore(make, start, weight=list(weights), bits=BITS, rows=rows_of)


def apart(name: str, weight: Tensor, bits: int, rows: int) -> Figure:
    """The explorer's figure in one state; ValueError where rows do not divide.

    A histogram of the weights that share the first table, its values, and as many that
    are evenly spaced.
    """
    n, k = weight.shape
    back, tables = clustered(weight, bits, rows)
    even = uniform(weight, bits, rows * k)
    size, few = palette_bytes(Sharing(bits, rows), n, k, VALUE), (rows or n)
    many = f"{len(tables)} table{'s' * (len(tables) > 1)}"
    part = "the first row" if rows == 1 else f"the first {rows} rows"
    title = (
        f"{name}, {n} x {k}: indices of {bits} bits and {many} of {2**bits} values"
        f"{f' (drawn: {part})' * bool(rows)}\n{size:,} bytes, {8 * size / n / k:.2f} "
        f"bits a weight; SQNR {decibels([weight], [back]):.1f} dB, evenly spaced "
        f"{decibels([weight], [even]):.1f} dB"
    )
    note = f"a table's values are bf16; {2 * n * k / size:.1f} times fewer bytes than "
    note += f"bf16 (int4-g64: {uniform_bytes(4, n, k):,})"
    panel = _heap(weight[:few], tables[0], even[:few].unique())
    return Figure([panel], title, size=(9.6, 4.2), note=note)


def _heap(weights: Tensor, table: Tensor, even: Tensor) -> Panel:
    """A histogram of weights, the values of their table, and evenly spaced ones."""
    import numpy as np
    import pandas as pd

    counts, edges = np.histogram(weights.flatten().tolist(), bins=120)
    heap = pd.DataFrame({"weight": (edges[1:] + edges[:-1]) / 2, "count": counts})
    top = float(counts.max())

    def heaps(axes: Any, rows: pd.DataFrame) -> None:
        axes.bar(rows["weight"], rows["count"], edges[1] - edges[0], color=FAINT)
        axes.vlines(table, 0, 1.04 * top, color=GREEN, lw=1.4)

    def marks(values: Tensor, name: str, at: float, **look: Any) -> Layer:
        def draw(axes: Any, rows: pd.DataFrame) -> None:
            axes.plot(rows["value"], [at * top] * len(rows), ls="", label=name, **look)

        rows = pd.DataFrame({"value": values.tolist()})
        return drawn(draw, rows, "value", "", name, value="value")

    layers = [
        drawn(heaps, heap, "weight", "count", kind="bars"),
        marks(table, "values of the table", 1.04, marker="v", color=GREEN, ms=7),
        marks(even, "as many, evenly spaced", -0.05, marker="s", color=GREY, ms=5),
    ]
    count = Axis("how many", limits=(-0.1 * top, 1.3 * top))
    return Panel(Axis("weight"), count, layers, key="upper left")

"""Palettes beside integers: exact bytes, rounding noise, what a text loses, time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import bars, drawn, gridlines, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import FAINT, GREEN, GREY, MARKERS, color_of
from fastlab.reading import written
from fastlab.rows import over
from fastlab.spec.precision import FORMATS, stored_bytes
from fastlab.spec.sharing import BITS, Sharing, palette_bytes, tables_of
from fastlab.words import digits, percent, si, times

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from fastlab.clock.evaluator import Evaluator
    from fastlab.shrink.trained import Trained

VALUE = 2  # bytes of a table's value, a scale or a zero point: bf16
LOST = ("kl_nats", "kl_low", "kl_high", "top1", "bits_per_byte", "low", "high")
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
ADDED = ("storage", "bits", "dense", "own_dense")
TIMED = (
    *("storage", "dense", "bits", "phase", "device", "measured_ms", "measured_low_ms"),
    *("measured_high_ms", "n", "estimated_ms", "weights_mb"),
    *("measured_gain", "estimated_gain"),
)


# --- ways to store a weight


def clustered(weight: Tensor, bits: int, rows: int = 0) -> tuple[Tensor, Tensor]:
    """A weight (n, k) as its palette gives it back, and the tables (groups, 2^bits)."""
    import torch

    from fastlab.shrink.share import codebooks_of

    groups = weight.float().reshape(tables_of(Sharing(bits, rows), len(weight)), -1)
    tables, codes = codebooks_of(groups, bits)
    return torch.gather(tables, 1, codes.long()).view(weight.shape), tables


def uniform(weight: Tensor, bits: int, group: int = 0) -> Tensor:
    """A weight (n, k) rounded to 2^bits evenly spaced values, from least to largest.

    group: neighbours in a row that share a scale and a zero point; 0 = all weights.
    """
    parts = weight.float().reshape(-1, group or weight.numel())
    low, high = parts.amin(1, keepdim=True), parts.amax(1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=2.0**-24)
    return (((parts - low) / step).round() * step + low).view(weight.shape)


def integers(weight: Tensor, precision: str) -> Tensor:
    """A weight (n, k) as int8 or int4 groups give it back, rounded as `quantize`."""
    from fastlab.shrink.rounding import int4_groups, int8_rows

    if not (group := FORMATS[precision].group):
        q, scales = int8_rows(weight)
        return q.float() * scales.float()[:, None]
    q, pairs = int4_groups(weight, group)
    scale, zero = pairs.float().transpose(0, 1).unbind(-1)
    parts = q.float().unflatten(1, (-1, group)) - 8
    return (parts * scale[..., None] + zero[..., None]).flatten(1)


def uniform_bytes(bits: int, n: int, k: int) -> int:
    """Bytes of a weight (n, k) in groups of integers, scales and zero points."""
    return -(-n * k * bits // 8) + 2 * VALUE * (n * k // GROUP)


def noise(weight: Tensor, rounded: Tensor) -> tuple[float, float]:
    """Sums of squares of a weight, and of what rounding changed in it."""
    off = (weight.float() - rounded).double().square().sum()
    return float(weight.double().square().sum()), float(off)


def decibels(signal: float, noise: float) -> float:
    """SQNR in dB: 10 log10(sum w^2 / sum (w - q)^2)."""
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
        if self.kind in SHARED:
            return clustered(weight, self.bits, SHARED[self.kind])[0]
        if self.kind == UNIFORM:
            return uniform(weight, self.bits, GROUP)
        return integers(weight, self.kind)


def schemes(bits: Sequence[int]) -> list[Scheme]:
    """Every way that is compared: palettes with one table and with one a row, uniform
    rounding in groups, int8 and int4-g64 as `fl.quantize` makes them.
    """
    few = {EACH: [b for b in bits if b < 6]}  # a table of 64 values a row costs most
    ways = [Scheme(k, b) for k in (ONE, EACH, UNIFORM) for b in few.get(k, bits)]
    return [*ways, Scheme("int8", 8), Scheme("int4-g64", 4)]


def bytes_and_quality(
    trained: Trained,
    judge: Evaluator,
    ways: Iterable[Scheme],
    done: Callable[[object], Any] = str,
) -> pd.DataFrame:
    """The trained model's layers stored in every way, and what each loses.

    Columns: kind, bits, bits_per_weight and mb as stored (tables and scales counted),
    model_mb (with embeddings and norms in bf16), sqnr_db over all weights of the
    layers, kl_nats with its interval, top1, bits_per_byte, of_dense. Rounded weights
    are put into a dense fp32 model: only the rounding is judged. done sees each way.
    """
    import pandas as pd

    from fastlab.clock.evaluator import built

    model = built(trained)
    own = layer_weights(model)
    originals = {name: weight.clone() for name, weight in own.items()}
    count = sum(weight.numel() for weight in own.values())
    rest = VALUE * (sum(p.numel() for p in model.parameters()) - count)
    lines = []
    for way in ways:
        size, powers = sum(way.size(*weight.shape) for weight in own.values()), []
        for name, weight in originals.items():
            own[name].copy_(way.rounded(weight))
            powers.append(noise(weight, own[name]))
        quality: Any = judge.quality(model)
        line = {"kind": way.kind, "bits": way.bits, "bits_per_weight": 8 * size / count}
        line |= {"mb": size / 1e6, "model_mb": (size + rest) / 1e6}
        line |= {"sqnr_db": decibels(*map(sum, zip(*powers, strict=True)))}
        line |= {name: getattr(quality, name) for name in LOST}
        dense = quality.dense_bits_per_byte
        lines.append(line | {"of_dense": quality.bits_per_byte / dense})
        done(f"{way.kind}, {way.bits} bits")
    return pd.DataFrame(lines)


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights (n, k) of the layers' linears by their modules' names."""
    from fastlab.shrink import parts

    names = parts.linear_names(model, "layers")
    return {n: parts.dense_weight(model.get_submodule(n)).detach() for n in names}


def stored(table: pd.DataFrame) -> Figure:
    """What a bit buys: SQNR and KL against bits per weight, as stored.

    table: bytes_and_quality(). Numbers near the marks are bits of an index.
    """
    label = "bits per weight as stored, tables and scales counted"
    bits, decor = Axis(label, "log", ticks=TICKS), [gridlines(), _roomy]
    kl = Axis("KL against the dense model, nats per token", "log")
    noises, ends = _ways(table, "sqnr_db"), ("kl_low", "kl_high")
    heads = "weights: higher is better", "text: lower is better"
    panels = [
        Panel(bits, Axis("SQNR, dB"), noises, heads[0], "lower right", decor=decor),
        Panel(bits, kl, _ways(table, "kl_nats", ends), heads[1], decor=decor),
    ]
    int8 = digits(table[table["kind"] == "int8"]["kl_nats"].iloc[0])
    least = table[table["bits"] == table["bits"].min()]
    costs = [percent(v - 1) for v in sorted(least["of_dense"])]
    few = f"{least['bits'].iloc[0]} bits cost {costs[0]} to {costs[-1]} more bits"
    title = f"What a bit buys: {few} per byte; int8 is {int8} nats from dense"
    return Figure(panels, title, table, (11, 5.4))


def _roomy(axes: Any) -> None:
    axes.margins(y=0.12)


def _ways(table: pd.DataFrame, column: str, ends: Any = ()) -> list[Layer]:
    layers = []
    for kind, own in table.groupby("kind", sort=False):
        color, marker, dash = LOOKS[str(kind)]
        own, at = own.sort_values("bits_per_weight"), ("bits_per_weight", column)
        look: dict[str, Any] = {"color": color, "marker": marker, "line": dash}
        known = ends if ends and own[ends[0]].notna().any() else ()
        layers.append(points(own, *at, str(kind), ends=known, words="bits", **look))
    return layers


# --- time


def looked_up(rows: pd.DataFrame) -> pd.DataFrame:
    """Time of each way to store weights beside the dense one of the same precision.

    rows: as fl.table makes them; those without a measurement are left out. Columns:
    storage, dense (precision of activations), bits, phase, device, measured_ms with its
    interval, n, estimated_ms, weights_mb, measured_gain (the speed-up over its own
    dense row), estimated_gain.
    """
    known = rows[rows["measured_ms"].notna()].reset_index(drop=True)
    lines = []
    for precision, shared in zip(known["precision"], known["share_bits"], strict=True):
        made = FORMATS[precision]
        wide = 32 if made.dense in ("fp32", "tf32") else 16
        bits = int(shared or {"int8": 8, "int4": 4}.get(made.weights, wide))
        name = precision if made.weights else f"dense {precision}"
        line = {"storage": f"{bits}-bit palette" if shared else name, "bits": bits}
        line |= {"dense": made.dense, "own_dense": name != precision and not shared}
        lines.append(line)
    known = known.assign(**{n: [line[n] for line in lines] for n in ADDED})
    return over(known, ("dense", "phase", "device"), own_dense=True)[[*TIMED]]


def lookups(table: pd.DataFrame) -> Figure:
    """Smaller is not faster: ms of each phase and MB of weights, a line a storage.

    table: looked_up(). Filled marks measured, hollow ones estimated; the speed-up over
    the dense row of the same precision is written beside.
    """
    if table.empty:
        return nothing("nothing measured")
    ways = Axis("", names=list(dict.fromkeys(table["storage"])))
    panels = [
        _milliseconds(own, str(phase), ways)
        for phase, own in table.groupby("phase", sort=False)
    ]
    sizes = table.drop_duplicates("storage")
    weights = [
        bars(own, "weights_mb", "storage", name, color=color, thick=0.5)
        for name, color, own in _groups(sizes)
    ]
    said = [si(1e6 * mb, "B") for mb in sizes["weights_mb"]]
    panels.append(Panel(Axis("MB"), ways, weights, "all weights", notes=[("\n", said)]))
    size = (11, 1.9 + 0.46 * len(sizes))
    widths = [1.0] * (len(panels) - 1) + [0.8]
    return Figure(panels, _slower(table), table, size, widths=widths, share="y")


def _milliseconds(table: pd.DataFrame, phase: str, ways: Axis) -> Panel:
    layers = []
    for name, color, own in _groups(table):
        look: dict[str, Any] = {"color": color, "marker": MARKERS[phase], "size": 9}
        layers.append(points(own, "estimated_ms", "storage", hollow=True, **look))
        ends = ("measured_low_ms", "measured_high_ms")
        layers.append(points(own, "measured_ms", "storage", name, across=ends, **look))
    said = {}
    for _, row in table.iterrows():
        gains = [written("ratio", row[f"{n}_gain"]) for n in ("measured", "estimated")]
        words = f"{gains[0]} ({gains[1]})".removesuffix(" ()")
        said[row["storage"]] = "1" if row["storage"].startswith("dense") else words
    notes = [(HEADING, [said.get(name, "") for name in ways.names])]
    return Panel(Axis("ms, hollow is estimated", "log"), ways, layers, phase, "", notes)


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, colour and rows of what is drawn alike: palettes together."""
    shared = table["storage"].str.contains("palette")
    names = table["storage"].where(~shared, "palettes")
    for name, own in table.groupby(names, sort=False):
        color = color_of(str(name).removeprefix("dense "))
        yield str(name), GREEN if name == "palettes" else color, own


def _slower(table: pd.DataFrame) -> str:
    """What look-ups cost in each phase, in words."""
    shared = table[table["storage"].str.contains("palette")]
    parts = [
        f"{times(gains.max())} to {times(gains.min())} in {phase}"
        for phase, gains in shared.groupby("phase", sort=False)["measured_gain"]
    ]
    return f"Smaller is not faster: palettes {', '.join(parts)}, over their dense"


# --- one weight taken apart


def palette(
    weights: Sequence[float], table: Sequence[float], even: Sequence[float], title: str
) -> Figure:
    """A histogram of weights, the values of their table, and evenly spaced ones."""
    import numpy as np
    import pandas as pd

    counts, edges = np.histogram(weights, bins=120)
    heap = pd.DataFrame({"weight": (edges[1:] + edges[:-1]) / 2, "count": counts})
    top = float(counts.max())

    def heaps(axes: Any, rows: pd.DataFrame) -> None:
        axes.bar(rows["weight"], rows["count"], edges[1] - edges[0], color=FAINT)
        axes.vlines(table, 0, 1.04 * top, color=GREEN, lw=1.4)

    def marks(values: Sequence[float], name: str, at: float, **look: Any) -> Layer:
        def draw(axes: Any, rows: pd.DataFrame) -> None:
            axes.plot(rows["value"], [at * top] * len(rows), ls="", label=name, **look)

        rows = pd.DataFrame({"value": values})
        return drawn(draw, rows, "value", "", name, value="value")

    layers = [
        drawn(heaps, heap, "weight", "count", kind="bars"),
        marks(table, "values of the table", 1.04, marker="v", color=GREEN, ms=7),
        marks(even, "as many, evenly spaced", -0.05, marker="s", color=GREY, ms=5),
    ]
    count = Axis("how many", limits=(-0.1 * top, 1.3 * top))
    panel = Panel(Axis("weight"), count, layers, key="upper left")
    return Figure([panel], title, size=(9.6, 4.2))


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
    """The explorer's figure in one state; ValueError where rows do not divide."""
    n, k = weight.shape
    back, tables = clustered(weight, bits, rows)
    even = uniform(weight, bits, rows * k)
    size, few = palette_bytes(Sharing(bits, rows), n, k, VALUE), (rows or n)
    first = weight[:few].flatten().tolist()
    levels = sorted(set(even[:few].flatten().tolist()))
    many = f"{len(tables)} table{'s' * (len(tables) > 1)}"
    part = "the first row" if rows == 1 else f"the first {rows} rows"
    title = (
        f"{name}, {n} x {k}: indices of {bits} bits and {many} of {2**bits} values"
        f"{f' (drawn: {part})' * bool(rows)}\n{size:,} bytes, {8 * size / n / k:.2f} "
        f"bits a weight; SQNR {decibels(*noise(weight, back)):.1f} dB, evenly spaced "
        f"{decibels(*noise(weight, even)):.1f} dB"
    )
    note = f"a table's values are bf16; {2 * n * k / size:.1f} times fewer bytes than "
    note += f"bf16 (int4-g64: {uniform_bytes(4, n, k):,})"
    figure = palette(first, tables[0].tolist(), levels, title)
    return replace(figure, note=note)

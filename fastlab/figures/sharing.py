"""Palettes beside integers: what a bit buys, what a look-up costs, one weight apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import bars, clocks, drawn, gridlines, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import FAINT, GREEN, GREY, MARKERS, color_of
from fastlab.reading import written
from fastlab.spec.storage import BITS, Sharing, palette_bytes, tables_of
from fastlab.words import digits, percent, si, times

if TYPE_CHECKING:
    from torch import Tensor

LOOKS: dict[str, dict[str, Any]] = {
    "palette, one table": {"color": GREEN, "marker": "o", "line": "-"},
    "palette, a table a row": {"color": GREEN, "marker": "^", "line": "--"},
    "uniform, groups of 64": {"color": GREY, "marker": "s", "line": "-"},
    "int8": {"color": color_of("int8"), "marker": "D"},
    "int4-g64": {"color": color_of("int4-g64"), "marker": "D"},
}
HEADING = "speed-up over its\ndense (estimated)"
TICKS = (2, 3, 4, 5, 6, 8)  # bits per weight
VALUE = 2  # bytes of a table's value: bf16


def stored(table: pd.DataFrame) -> Figure:
    """What a bit buys: SQNR and KL against bits per weight, as stored.

    table: a row for each way: kind (of LOOKS), bits, bits_per_weight, sqnr_db, kl_nats
    with its interval, of_dense. Numbers near the marks are bits of an index.
    """
    label = "bits per weight as stored, tables and scales counted"
    bits = Axis(label, "log", ticks=TICKS)
    look: dict[str, Any] = {"decor": [gridlines(), lambda axes: axes.margins(y=0.12)]}
    kl = Axis("KL against the dense model, nats per token", "log")
    ends = ("kl_low", "kl_high") if table["kl_low"].notna().any() else ()
    noises, losses = _ways(table, "sqnr_db"), _ways(table, "kl_nats", ends=ends)
    above, at = "weights: higher is better", "lower right"
    panels = [Panel(bits, Axis("SQNR, dB"), noises, above, at, **look)]
    panels.append(Panel(bits, kl, losses, "text: lower is better", **look))
    int8 = digits(table[table["kind"] == "int8"]["kl_nats"].iloc[0])
    least = table[table["bits"] == table["bits"].min()]
    costs = [percent(v - 1) for v in sorted(least["of_dense"])]
    title = f"What a bit buys: {least['bits'].iloc[0]} bits cost {costs[0]} to "
    title += f"{costs[-1]} more bits per byte; int8 is {int8} nats from dense"
    return Figure(panels, title, table, (11, 5.4))


def _ways(table: pd.DataFrame, column: str, **look: Any) -> list[Layer]:
    own = table.sort_values("bits_per_weight").groupby("kind", sort=False)
    rows, look = {str(kind): rows for kind, rows in own}, {"words": "bits"} | look
    return [
        points(rows[kind], "bits_per_weight", column, kind, **LOOKS[kind], **look)
        for kind in LOOKS
        if kind in rows
    ]


def lookups(table: pd.DataFrame) -> Figure:
    """Smaller is not faster: ms of each phase and MB of weights, a line a storage.

    table: measured rows with storage ("2-bit palette", "dense bf16", "int8") and
    speed-ups over their dense row. Filled marks measured, hollow ones estimated; the
    speed-up is written beside.
    """
    if table.empty:
        return nothing("nothing measured")
    named = table["storage"].str.replace(".*palette", "palettes", regex=True)
    colors = {n: color_of(n.removeprefix("dense ")) for n in named}
    colors["palettes"] = GREEN
    ways = Axis("", names=list(dict.fromkeys(table["storage"])))
    panels, slower = [], []
    for phase, own in table.groupby("phase", sort=False):
        layers: list[Layer] = []
        for name, rows in own.groupby(named, sort=False):
            look: dict[str, Any] = {"color": colors[name], "size": 9}
            look["marker"] = MARKERS[str(phase)]
            layers += clocks(rows, "storage", str(name), **look)
        gains = own[["measured_gain", "estimated_gain"]].map(partial(written, "ratio"))
        said = dict(zip(own["storage"], gains.to_numpy(), strict=True))
        words = {at: f"{a} ({b})".removesuffix(" ()") for at, (a, b) in said.items()}
        words |= {at: "1" for at in words if at.startswith("dense")}
        notes = [(HEADING, [words.get(at, "") for at in ways.names])]
        ms = Axis("ms, hollow is estimated", "log")
        panels.append(Panel(ms, ways, layers, str(phase), "", notes))
        some = own["measured_gain"][own["storage"].str.contains("palette")]
        slower.append(f"{times(some.max())} to {times(some.min())} in {phase}")
    sizes = table.drop_duplicates("storage")
    weights = [
        bars(own, "weights_mb", "storage", name, color=colors[name], thick=0.5)
        for name, own in sizes.groupby(named, sort=False)
    ]
    told = [("\n", [si(1e6 * mb, "B") for mb in sizes["weights_mb"]])]
    panels.append(Panel(Axis("MB"), ways, weights, "all weights", notes=told))
    title = f"Smaller is not faster: palettes {', '.join(slower)}, over their dense"
    widths, size = [1.0] * len(slower) + [0.8], (11, 1.9 + 0.46 * len(sizes))
    return Figure(panels, title, table, size, widths=widths, share="y")


def controls(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """An explorer's controls of `apart`; only numbers of rows that divide a weight."""

    def rows(state: Mapping[str, Any]) -> dict[str, int]:
        n = len(weights[state["weight"]])
        return {str(r or "all"): r for r in (1, 4, 16, 64, 0) if not (r and n % r)}

    names = {name.removeprefix("model."): name for name in weights}
    return {"weight": names, "bits": BITS, "rows": rows}


def apart(name: str, weight: Tensor, bits: int, rows: int) -> Figure:
    """A histogram of the weights that share a first table (of so many rows; 0 = all),
    its values, and as many that are evenly spaced.

    ValueError where rows do not divide those of the weight (n, k).
    """
    from fastlab.shrink.share import lut_linear

    (n, k), sharing = weight.shape, Sharing(bits, rows)
    tables = tables_of(sharing, n)
    palette = lut_linear(weight.float(), None, sharing)
    groups = weight.float().reshape(tables, -1)
    low, high = groups.aminmax(dim=1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).where(high > low, 1.0)
    even = ((groups - low) / step).round() * step + low
    errors = [(w - weight).norm() for w in (palette.dense(), even.view(n, k))]
    noises = [20 * float((weight.norm() / error).log10()) for error in errors]
    size = palette_bytes(sharing, n, k, VALUE)
    many = f"{tables} table{'s' * (tables > 1)} of {2**bits} values"
    title = (
        f"{name.removeprefix('model.')}, {n} x {k}: indices of {bits} bits and {many}"
        f"{' (drawn: the first)' * (tables > 1)}\n{size:,} bytes, "
        f"{8 * size / n / k:.2f} bits a weight; SQNR {noises[0]:.1f} dB, "
        f"evenly spaced {noises[1]:.1f} dB"
    )
    note = f"values of tables are bf16; {2 * n * k / size:.1f} times fewer bytes than "
    note += f"bf16 (int4-g64: {4.5 * n * k / 8:,.0f})"
    panel = _heap(groups[0], palette.tables[0], even[0].unique())
    return Figure([panel], title, size=(9.6, 4.2), note=note)


def _heap(weights: Tensor, table: Tensor, even: Tensor) -> Panel:
    """A histogram of weights, the values of their table, and evenly spaced ones."""
    counts, edges = np.histogram(weights.flatten().tolist(), bins=120)
    heap = pd.DataFrame({"weight": (edges[1:] + edges[:-1]) / 2, "count": counts})
    top = float(counts.max())

    def heaps(axes: Any, rows: pd.DataFrame) -> None:
        axes.bar(rows["weight"], rows["count"], edges[1] - edges[0], color=FAINT)
        axes.vlines(table, 0, 1.04 * top, color=GREEN, lw=1.4)

    def marks(values: Tensor, at: float, name: str, **look: Any) -> Layer:
        rows = pd.DataFrame({"value": values.tolist(), "at": at * top})
        return replace(points(rows, "value", "at", name, **look), value="value")

    layers = [
        drawn(heaps, heap, "weight", "count", kind="bars"),
        marks(table, 1.04, "values of the table", marker="v", color=GREEN, size=7),
        marks(even, -0.05, "as many, evenly spaced", marker="s", color=GREY, size=5),
    ]
    count = Axis("how many", limits=(-0.1 * top, 1.3 * top))
    return Panel(Axis("weight"), count, layers, key="upper left")

"""What others measured on GPUs, beside estimates of the same calls: marks with a ring.

rows: those of `fl.published`, estimated with their own devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import Container

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import formats, gridlines, level, line, points
from fastlab.figures.panels import ENDS, Axis, Layer, Panel
from fastlab.figures.style import DASHES, GREY
from fastlab.latency.devices import device
from fastlab.reading import name_of, within
from fastlab.rows import compared
from fastlab.words import percent, plain, times

TOLD = ["device", "software", "model", "precision", "phase", "batch", "prompt_len"]
TIMES = [*ENDS, "estimated_ms", "measured_ms", "ratio", "source"]
RING = 0.45  # of its mark's size
TICKS = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
X, Y = "FLOP per byte / ridge", "share of peak"


def ringed(layer: Layer) -> Layer:
    """The layer of marks with a ring in each; in the key they are one."""

    def paint(axes: Axes, panel: Panel, own: Layer) -> None:
        layer.paint(axes, panel, own)
        mark, size = axes.lines[-1], RING * axes.lines[-1].get_markersize()
        look: dict[str, Any] = {"color": mark.get_color(), "zorder": 4, "ls": "none"}
        look |= {"marker": "o", "markersize": size, "markerfacecolor": "white"}
        rings = axes.plot(*mark.get_data(), **look)
        mark.set_label("_")
        axes.add_container(Container([mark, *rings], label=layer.name or "_"))

    return replace(layer, paint=paint)


def _marks(rows: pd.DataFrame, x: str, y: str) -> list[Layer]:
    names = {p: f"published {p}" for p in rows["precision"]}
    return [ringed(layer) for layer in formats(rows, x, y, names)]


def ratios(rows: pd.DataFrame, by: str = "device") -> Figure:
    """Published / estimated time, a line for each device (or software), log scale.

    Right of a line: the median, and how many rows lie in their interval.
    """
    known = compared(rows)
    known = known.assign(inside=known["measured_ms"].between(*(known[e] for e in ENDS)))
    lines = known.groupby(by)[["ratio", "inside"]].agg(["median", "sum", "size"])
    lines = lines.sort_values(("ratio", "median"))
    counts = zip(lines["inside", "sum"], lines["inside", "size"], strict=True)
    notes: list[Any] = [("median", [*lines["ratio", "median"].map(times)])]
    notes.append(("in their\ninterval", [f"{n} of {every}" for n, every in counts]))
    decor = [level(at, "x", dash=":") for at in TICKS[1:-1]] + [level(1, "x")]
    axis = Axis("published / estimated time", "log", times, TICKS)
    names, marks = Axis("", names=[*lines.index]), _marks(known, "ratio", by)
    panel = Panel(axis, names, marks, notes=notes, decor=decor, note_width=0.14)
    worst = known.iloc[int(np.abs(np.log(known["ratio"].astype(float))).argmax())]
    title = f"Published / estimated: median {times(known['ratio'].median())}, "
    title += f"{within(known, 1.25)}, {known['inside'].sum()} in their interval\n"
    title += f"farthest {name_of(worst)}, {worst['software']}: {times(worst['ratio'])}"
    look: dict[str, Any] = {"size": (10.5, 2.4 + 0.36 * len(lines))}
    look["key"] = "outside right upper"
    return Figure([panel], title, known[[*TOLD, *TIMES]], **look)


def under_one_roof(rows: pd.DataFrame) -> Figure:
    """Whole prefills and decode steps of many GPUs under one roof, log-log.

    Right: FLOP per byte over the ridge of the row's own device and precision. Upwards:
    FLOP/s over its peak. So the roof is min(1, x) for all of them.
    """
    known = compared(rows)
    known = known[known["phase"] != "generate"]
    on = {name: device(name) for name in known["device"].unique()}
    pairs = [*zip(known["device"], known["precision"], strict=True)]
    ridge = np.array([on[name].ridge(p) for name, p in pairs])
    peak = np.array([on[name].product_rate(p) for name, p in pairs])
    flops = known["flops_causal"].astype(float)
    rate = 1e3 * flops / known["measured_ms"]
    known = known.assign(**{X: flops / known["bytes"] / ridge, Y: rate / peak})
    roof = pd.DataFrame({X: [1e-3, 1, 1e2], Y: [1e-3, 1, 1]})
    layers = [line(roof, X, Y, "roof", color=GREY), *_marks(known, X, Y)]
    x = Axis("FLOP per byte, as a multiple of the ridge", "log", limits=(1e-3, 1e2))
    y = Axis("share of the datasheet's peak FLOP/s", "log", percent, limits=(5e-4, 2))
    panel = Panel(x, y, layers, key="beside", decor=[gridlines()])
    reach = known[Y] / np.minimum(1, known[X])
    by = reach.groupby(known["phase"]).median()
    each = ", ".join(f"{percent(share)} in {phase}" for phase, share in by.items())
    title = f"{len(known)} published calls on {len(on)} devices: "
    title += f"of their roof they reach\n{each} (medians)"
    table = known[[*TOLD, "measured_ms", X, Y, "source"]]
    return Figure([panel], title, pd.concat([table, roof]), (9.6, 5.6))


def by_width(rows: pd.DataFrame) -> Figure:
    """Time of one layer for 1,000 tokens against hidden size, a line for each GPU.

    Rings: published, of the largest batch of each width; lines: estimated, the same.
    """
    tokens = rows["layers"] * rows["batch"] * rows["prompt_len"] / 1e3
    own = {name: rows[name] / tokens for name in ("measured_ms", "estimated_ms", *ENDS)}
    known = compared(rows.assign(**own)).sort_values(["hidden", "batch"])
    known = known.drop_duplicates(["device", "hidden"], keep="last")
    layers: list[Layer] = []
    for n, (name, each) in enumerate(known.groupby("device", sort=False)):
        style: dict[str, Any] = {"dash": DASHES[n % len(DASHES)], "band": ENDS}
        layers.append(line(each, "hidden", "estimated_ms", str(name), **style))
        layers.append(ringed(points(each, "hidden", "measured_ms")))
    ticks = sorted(set(known["hidden"]))
    x = Axis("hidden size", "log", plain, ticks, (ticks[0] / 1.1, ticks[-1] * 1.1))
    y = Axis("ms a layer and 1,000 tokens", "log")
    panel = Panel(x, y, layers, key="edge", decor=[gridlines()])
    title = f"{len(known)} published prefills: rings published, lines estimated"
    title += f"\nmeasured / estimated: {within(known, 1.25)}"
    shown = [*TOLD, "layers", "hidden", *TIMES]
    return Figure([panel], title, known[shown], (9.4, 5.0))

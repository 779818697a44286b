"""What a figure is declared of: axes, layers of rows on them, and panels of both.

And how a panel is painted on matplotlib's axes: its layers, scales, names and notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from fastlab.figures.labels import edge_names, name_marks
from fastlab.figures.style import BLACK, GREY, PALE, SMALL, TEXT, TITLE, readable
from fastlab.words import digits, plain

KINDS = {"points": "marks", "line": "lines", "bars": "bars", "tiles": "tiles"}
Paint = Callable[["Axes", "Panel", "Layer"], None]
Ends = tuple[str, str] | tuple[()]  # two columns: an interval's low and high end
ENDS = ("estimated_low_ms", "estimated_high_ms")
OWN_ENDS = ("measured_low_ms", "measured_high_ms")


@dataclass(frozen=True)
class Axis:
    """What an axis says, how it is scaled, and how its numbers are written.

    names: of categories, in order from the top (or the left), or name -> its text.
    """

    label: str
    scale: str = "linear"  # or "log"
    write: Callable[[float], str] = plain
    ticks: Sequence[float] = ()
    limits: tuple[float, float] | None = None
    names: Sequence[str] | Mapping[str, str] = ()

    def place(self, values: Iterable[Any]) -> np.ndarray:
        """Where values lie: themselves, or the places of their categories."""
        if not self.names:
            return np.array([np.nan if v is None else v for v in values], float)
        places = {name: n for n, name in enumerate(self.names)}
        return np.array([places[str(value)] for value in values], float)

    def say(self, value: Any) -> str:
        """A value in words, as the alt text has it."""
        if self.names:
            return str(value).replace("\n", " ")
        if self.write is not plain:
            return self.write(float(value))
        return f"{value:,.0f}" if float(value).is_integer() else digits(value)


@dataclass(frozen=True)
class Layer:
    """One series of a panel: its rows, what of them is drawn, and how.

    name: in the key and the alt text; "" keeps it out of both. value: the column whose
    numbers are told, where it is neither x nor y. ends: more columns that are drawn.
    words: a column of short texts, put where there is room.
    """

    kind: str
    name: str
    rows: pd.DataFrame
    x: str
    y: str
    paint: Paint
    color: str = BLACK
    value: str = ""
    ends: tuple[str, ...] = ()
    words: str = ""
    write: Callable[[float], str] | None = None  # of the value, else the axis's


@dataclass(frozen=True)
class Panel:
    """Two axes and the layers on them.

    key: where layers are named: a place for a legend ("upper left", "beside"), "edge"
    for names at the right ends of lines, "" for nowhere. notes: columns of texts right
    of a panel whose y axis has names: (heading, a text for each name). decor: what is
    no data, such as a diagonal; drawn first, never told.
    """

    x: Axis
    y: Axis
    layers: Sequence[Layer]
    title: str = ""
    key: str = ""
    notes: Sequence[tuple[str, Sequence[str]]] = ()
    decor: Sequence[Callable[[Axes], Any]] = ()
    square: bool = False
    note_width: float = 0.2  # of the panel's width


def drawn_columns(layer: Layer) -> list[str]:
    """The columns of a layer's rows whose values are drawn."""
    asked = (layer.x, layer.y, layer.value, *layer.ends)
    return [name for name in dict.fromkeys(asked) if name in layer.rows]


def gid_of(layer: Layer) -> str:
    """What names a layer's lines and marks in a picture."""
    return f"layer-{id(layer)}"


def paint(axes: Axes, panel: Panel) -> None:
    """One panel on its axes: decor, layers, axes, names and notes."""
    for draw in panel.decor:
        draw(axes)
    for axis in ("x", "y"):
        if getattr(panel, axis).scale == "log":
            axes.set(**{f"{axis}scale": "log"})
    for layer in panel.layers:
        before = len(axes.lines)
        layer.paint(axes, panel, layer)
        for drawn in axes.lines[before:]:
            drawn.set_gid(gid_of(layer))
    _set_axis(axes, axes.xaxis, panel.x, "x")
    _set_axis(axes, axes.yaxis, panel.y, "y")
    axes.spines[["top", "right"]].set_visible(False)
    if all(layer.kind == "tiles" for layer in panel.layers) and panel.layers:
        many = len(panel.x.names), len(panel.y.names)
        axes.set(xlim=(-0.5, many[0] - 0.5), ylim=(many[1] - 0.5, -0.5))
        axes.spines[:].set_visible(False)
    if panel.square:
        axes.set_aspect("equal")
    above = max((heading.count("\n") + 1 for heading, _ in panel.notes), default=0)
    if panel.title:
        axes.set_title(panel.title, fontsize=TITLE, loc="left", pad=6 + 14 * above)
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": SMALL}
    for n, (heading, texts) in enumerate(panel.notes):
        x = 1.03 + n * panel.note_width
        axes.text(x, -0.6, heading, color=GREY, va="bottom", **place)
        for y, text in enumerate(texts):
            axes.text(x, y, text, va="center", **place)
    _name_layers(axes, panel)


def _set_axis(axes: Axes, side: Any, axis: Axis, which: str) -> None:
    """Label, scale and ticks: enough round numbers, however narrow or wide it is."""
    side.set_label_text(axis.label, fontsize=TEXT)
    axes.tick_params(axis=which, which="both", labelsize=SMALL, color=GREY)  # type: ignore[arg-type]
    if axis.names:
        _set_names(axes, side, axis, which)
        return
    if axis.limits:
        axes.set(**{f"{which}lim": axis.limits})
    side.set_minor_locator(ticker.NullLocator())
    if axis.ticks:
        side.set_major_locator(ticker.FixedLocator(list(axis.ticks)))
    elif axis.scale == "log":
        low, high = side.get_view_interval()
        subs: tuple[float, ...] = (1, 2, 5) if high < 500 * low else (1,)
        subs = (1, 1.5, 2, 3, 4, 5, 7) if high < 20 * low else subs
        few = ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
        many = ticker.LogLocator(subs=subs, numticks=30)
        side.set_major_locator(few if high < 2.5 * low else many)
    side.set_major_formatter(ticker.FuncFormatter(lambda v, _: axis.write(v)))


def _set_names(axes: Axes, side: Any, axis: Axis, which: str) -> None:
    texts = list(axis.names.values() if isinstance(axis.names, Mapping) else axis.names)
    side.set_ticks(range(len(texts)), texts, fontsize=TEXT if which == "y" else SMALL)
    ends = (-0.6, max(len(texts), 1) - 0.4)
    axes.set(**{f"{which}lim": ends[::-1] if which == "y" else ends})
    axes.tick_params(axis=which, length=0)  # type: ignore[arg-type]
    if which == "y":
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="y", color=PALE, lw=0.8)
        axes.set_axisbelow(True)


def _name_layers(axes: Axes, panel: Panel) -> None:
    if panel.key == "edge":
        ends = {
            layer.name: (float(rows[layer.y].iloc[-1]), readable(layer.color))
            for layer in panel.layers
            if layer.name and len(rows := layer.rows.dropna(subset=[layer.y]))
        }
        edge_names(axes, ends)
        return
    handles, names = axes.get_legend_handles_labels()
    if not panel.key or not names:
        return
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    place = beside if panel.key == "beside" else {"loc": panel.key}
    axes.legend(*_once(handles, names), fontsize=SMALL, frameon=False, **place)


def _once(handles: Any, names: Any) -> tuple[list[Any], list[str]]:
    kept = dict(zip(reversed(names), reversed(handles), strict=True))
    ordered = list(dict.fromkeys(names))
    return [kept[name] for name in ordered], ordered


def legend(picture: Picture, every: Sequence[Axes], place: Any) -> None:
    pairs = [axes.get_legend_handles_labels() for axes in every]
    handles, names = ([one for pair in pairs for one in pair[n]] for n in (0, 1))
    if names:
        found = _once(handles, names)
        flat = "center" in place and "right" not in place
        lines = -(-len(found[1]) // 6) if flat else len(found[1])
        columns = -(-len(found[1]) // lines)
        picture.legend(*found, loc=place, fontsize=SMALL, frameon=False, ncols=columns)


def write_words(axes: Axes, panel: Panel) -> None:
    """The words beside marks, once all scales are final and all lines are drawn."""
    found = [
        ((x, y), str(word), readable(layer.color))
        for layer in panel.layers
        if layer.words
        for x, y, word in zip(
            panel.x.place(layer.rows[layer.x]),
            panel.y.place(layer.rows[layer.y]),
            layer.rows[layer.words],
            strict=True,
        )
        if word and np.isfinite(x) and np.isfinite(y)
    ]
    if found:
        name_marks(axes, *map(list, zip(*found, strict=True)))

"""A figure is a value: panels of layers over rows, drawn, told and folded away.

One declaration, three answers: `draw()` is the picture, `tell()` its alt text, `.table`
the rows below it. So they cannot drift apart. What two figures need stands here; what
one needs is a `drawn` layer or the figure's own `finish`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from fastlab.figures.layers import diagonal, formats
from fastlab.figures.painting import legend, paint, write_words
from fastlab.figures.panels import (
    ENDS,
    KINDS,
    OWN_ENDS,
    Axis,
    Layer,
    Panel,
    drawn_columns,
)
from fastlab.figures.style import TITLE
from fastlab.words import digits, plain

MOST_TOLD = 480  # characters of an alt text; the rest is in the folded table
MANY, ROOM = 100, 8  # marks that crowd a square, and keys that fit into it
FEW = 3  # marks of a layer that are told one by one


@dataclass(frozen=True)
class Figure:
    """Panels in a grid, with a title that says what one should see.

    rows: the table folded below; without it, what the layers draw. size: inches. share:
    "x", "y" or both. key: a place outside the panels for one legend of all. note: ends
    the caption. finish: the last touch of a figure that needs one.
    """

    panels: Sequence[Panel]
    title: str = ""
    rows: pd.DataFrame | None = None
    size: tuple[float, float] = (8.6, 4.6)
    columns: int = 0  # of the grid; 0 = all panels side by side
    widths: Sequence[float] = ()
    heights: Sequence[float] = ()
    share: str = ""
    key: str = ""
    note: str = ""
    finish: Callable[[Picture, list[Axes]], Any] | None = field(
        default=None, compare=False
    )

    def draw(self) -> Picture:
        """The picture; nothing is shown, and no state of matplotlib is touched."""
        with matplotlib.rc_context({"text.parse_math": False}):
            picture = Picture(figsize=self.size, layout="constrained")
            every = self._axes(picture)
            pairs = list(zip(every, self.panels, strict=False))
            for axes, panel in pairs:
                paint(axes, panel)
                if self.share:
                    axes.label_outer()
            if self.title:
                place: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": TITLE}
                picture.suptitle(self.title, **place)
            if self.key:
                legend(picture, every, self.key)
            if self.finish:
                self.finish(picture, every)
            for axes, panel in pairs:
                write_words(axes, panel)
        return picture

    def _axes(self, picture: Picture) -> list[Axes]:
        columns = self.columns or max(len(self.panels), 1)
        rows = -(-max(len(self.panels), 1) // columns)
        sizes: dict[str, Any] = {"sharex": "x" in self.share, "squeeze": False}
        sizes |= {"sharey": "y" in self.share}
        sizes |= {"width_ratios": self.widths} if self.widths else {}
        sizes |= {"height_ratios": self.heights} if self.heights else {}
        every = list(picture.subplots(rows, columns, **sizes).ravel())
        for axes in every[len(self.panels) :]:
            axes.set_axis_off()
        return every

    @property
    def table(self) -> pd.DataFrame:
        """The rows below the figure: given, or those that its layers draw."""
        if self.rows is not None:
            return self.rows
        drawn = [
            layer.rows[drawn_columns(layer)].assign(series=layer.name)
            for panel in self.panels
            for layer in panel.layers
            if len(layer.rows)
        ]
        return pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame()

    def tell(self) -> str:
        """The alt text: the title, what is drawn, then series while there is room."""
        heads = [self.title, *(_head(panel) for panel in self.panels)]
        series = (_series(p, layer) for p in self.panels for layer in p.layers)
        text = ""
        for part in dict.fromkeys(part for part in (*heads, *series) if part):
            sentence = part.replace("\n", "; ").rstrip(". ") + ". "
            if len(text) + len(sentence) > MOST_TOLD:
                break
            text += sentence
        return (text or heads[0][:MOST_TOLD] or "A figure without rows.").strip()


def nothing(why: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    return Figure([], why, size=(8.0, 1.2))


def against(
    rows: pd.DataFrame,
    title: str,
    x: Axis,
    y: Axis,
    columns: tuple[str, str] = ("estimated_ms", "measured_ms"),
    behind: Sequence[Layer] = (),
    names: Mapping[str, str] = {},
) -> Figure:
    """Marks of each precision and phase around the diagonal, log-log, in a square.

    columns: of x and y; names: what a precision is called in the key. More than MANY
    rows have no intervals, which would cover them.
    """
    drawn = [rows[list(columns)], *(one.rows[[one.x, one.y]] for one in behind)]
    every = np.concatenate([table.to_numpy(float) for table in drawn])
    low, high = every.min() / 1.6, every.max() * 1.6
    first, second = columns
    look: dict[str, Any] = {"size": 7 if len(rows) <= MANY else 4.5}
    if len(rows) <= MANY and first == "estimated_ms":
        look |= {"across": ENDS, "ends": OWN_ENDS}
    layers = formats(rows, first, second, names, **look)
    x, y = (replace(axis, scale="log", limits=(low, high)) for axis in (x, y))
    crowded = len(layers) > ROOM
    key, decor = "beside" if crowded else "lower right", [diagonal(low, high)]
    panel = Panel(x, y, [*behind, *layers], "", key, decor=decor, square=True)
    return Figure([panel], title, rows, (8.8 if crowded else 7.2, 6.8))


def _head(panel: Panel) -> str:
    kinds = dict.fromkeys(KINDS.get(layer.kind, "marks") for layer in panel.layers)
    if not kinds:
        return panel.title
    what = " and ".join(kinds).capitalize()
    x, y = (axis.label.partition(":")[0] for axis in (panel.x, panel.y))
    scales = [axis.scale == "log" for axis in (panel.x, panel.y)]
    log = ", log-log" if all(scales) else ", log scale" if any(scales) else ""
    named = panel.y.names and not panel.x.names
    over = f"{x} of {len(panel.y.names)} named lines" if named else f"{y} against {x}"
    title = f"{panel.title}: " * bool(panel.title)
    return f"{title}{what}{log}, {over}"


def _series(panel: Panel, layer: Layer) -> str:
    """A layer in words: few marks one by one, a line's ends, the range of others."""
    flat = bool(panel.y.names)  # named lines
    axis, at = (panel.x, panel.y) if flat else (panel.y, panel.x)
    value, place = (layer.x, layer.y) if flat else (layer.y, layer.x)
    value = layer.value or value
    if not layer.name or value not in layer.rows:
        return ""
    rows = layer.rows[layer.rows[value].notna()]
    plainly = layer.value or axis.names or axis.write is plain
    write = layer.write or (digits if plainly else axis.write)
    if rows.empty:
        return ""
    if len(rows) > FEW and layer.kind != "line":
        low, high = (write(float(v)) for v in (rows[value].min(), rows[value].max()))
        many = f"{len(rows)} {KINDS.get(layer.kind, 'marks')}"
        return f"{layer.name}: {many}, {low} to {high}"
    places = [at.say(each) for each in rows[place]]
    if layer.value and flat:
        across = map(panel.x.say, rows[layer.x])
        places = [", ".join(pair) for pair in zip(across, places, strict=True)]
    pairs = zip(map(write, rows[value].astype(float)), places, strict=True)
    each = [f"{number} at {where}" for number, where in pairs]
    told = ", ".join(each) if len(each) <= FEW else f"{each[0]} to {each[-1]}"
    return f"{layer.name}: {told}"

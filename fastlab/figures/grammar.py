"""A figure is a value: panels of layers over rows, drawn, told and folded away.

One declaration, three answers: `draw()` is the picture, `tell()` its alt text, `.table`
the rows below it. So they cannot drift apart. What two figures need stands here; what
one needs is a `drawn` layer or the figure's own `finish`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from fastlab.figures.layers import diagonal, formats
from fastlab.figures.panels import (
    ENDS,
    KINDS,
    OWN_ENDS,
    Axis,
    Layer,
    Panel,
    drawn_columns,
    legend,
    paint,
    write_words,
)
from fastlab.figures.style import TITLE
from fastlab.words import digits, plain

MOST_TOLD = 480  # characters of an alt text; the rest is in the folded table
MANY, ROOM = 100, 8  # marks that crowd a square, and keys that fit into it
FEW = 3  # marks of a layer that are told one by one
PIXELS = 2  # of the image, for one of the page: sharp on a projector
NARROWEST = 640  # pixels of the page: on a phone a figure scrolls, and is readable


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
            columns = self.columns or max(len(self.panels), 1)
            rows = -(-max(len(self.panels), 1) // columns)
            sizes: dict[str, Any] = {"width_ratios": self.widths or None}
            sizes |= {"height_ratios": self.heights or None, "squeeze": False}
            sizes |= {f"share{axis}": axis in self.share for axis in "xy"}
            every = list(picture.subplots(rows, columns, **sizes).ravel())
            for axes in every[len(self.panels) :]:
                axes.set_axis_off()
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
        heads, before = [self.title], ""
        for panel in self.panels:
            what, lines = _head(panel, len(self.panels) > 1)
            said = lines if what == before else f"{what} of {lines}" if lines else what
            if said or panel.title not in [layer.name for layer in panel.layers]:
                heads.append(": ".join(filter(None, (panel.title, said))))
            before = what
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


@dataclass(frozen=True)
class Shown:
    """A figure as HTML: image, alt text, caption, and its rows one click away."""

    markup: str
    alt: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return f"[figure] {self.alt}"


def show(figure: Figure, caption: str = "", save: Path | None = None) -> Shown:
    """A figure for a notebook, readable without seeing it; `save` writes its PNG too.

    Output metadata for alt text is ignored by JupyterLab and nbconvert, hence HTML.
    """
    png = png_of(figure)
    if save is not None:
        save.write_bytes(png)
    alt, width = figure.tell(), int.from_bytes(png[16:20], "big") // PIXELS
    words = "; ".join(part for part in (caption, figure.note) if part)
    style: dict[str, Any] = {"index": False, "border": 0, "na_rep": ""}
    rows = figure.table.to_html(float_format=lambda v: f"{v:.4g}", **style)
    folded = f"<details><summary>the rows of this figure</summary>{rows}</details>"
    parts = [
        f'<figure style="margin:0; overflow-x:auto"><img alt="{html.escape(alt)}" '
        f'width="{width}" style="max-width:100%; min-width:{min(width, NARROWEST)}px" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">',
        f'<figcaption style="color:#666">{html.escape(words)}</figcaption>',
        folded * bool(len(figure.table.columns)),
        "</figure>",
    ]
    return Shown("".join(parts), alt)


def png_of(figure: Figure) -> bytes:
    """The picture as PNG, two pixels for one of the page."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):
        picture = figure.draw()
        picture.savefig(buffer, format="png", dpi=100 * PIXELS, bbox_inches="tight")
    return buffer.getvalue()


def _head(panel: Panel, ends: bool) -> tuple[str, str]:
    """What a panel draws, and how many named lines, with the values of both ends."""
    kinds = dict.fromkeys(KINDS.get(layer.kind, "marks") for layer in panel.layers)
    what = " and ".join(kinds).capitalize()
    x, y = (axis.label.partition(":")[0] for axis in (panel.x, panel.y))
    scales = [axis.scale == "log" for axis in (panel.x, panel.y)]
    log = ", log-log" if all(scales) else ", log scale" if any(scales) else ""
    if not kinds or not panel.y.names or panel.x.names:
        return f"{what}{log}, {y} against {x}" * bool(kinds), ""
    lines = f"{len(panel.y.names)} named lines"
    ours = (one for one in panel.layers if one.x.startswith("measured"))
    first = next(ours, panel.layers[0])
    asked = first.kind, first.x, first.y
    alike = [one.rows for one in panel.layers if (one.kind, one.x, one.y) == asked]
    rows = pd.concat(alike).dropna(subset=first.x)
    if ends and len(rows) > 1 and first.y in rows:
        places = np.argsort(panel.y.place(rows[first.y]), kind="stable")
        say = digits if panel.x.write is plain else panel.x.write
        pair = (rows.iloc[n] for n in places[[0, -1]])
        said = (f"{say(row[first.x])} at {panel.y.say(row[first.y])}" for row in pair)
        lines += f", {' to '.join(said)}"
    return f"{what}{log}, {x}", lines


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

"""A figure is a value: panels of layers over rows, drawn, told and folded away.

One declaration, three answers: `draw()` is the picture, `tell()` its alt text, `.table`
the rows below it. So they cannot drift apart. What two figures need stands here; what
one needs is a `drawn` layer or the figure's own `finish`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure as Picture

from fastlab.figures.labels import edge_names, name_marks
from fastlab.figures.style import (
    BLACK,
    GREY,
    PALE,
    SMALL,
    TEXT,
    TITLE,
    ink,
    readable,
)
from fastlab.words import digits, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_TOLD = 480  # characters of an alt text; the rest is in the folded table
FEW = 3  # marks of a layer that are told one by one
KINDS = {"points": "marks", "line": "lines", "bars": "bars", "tiles": "tiles"}
INTERVAL: dict[str, Any] = {"lw": 5, "alpha": 0.25, "solid_capstyle": "round"}
Paint = Callable[["Axes", "Panel", "Layer"], None]
Ends = tuple[str, str] | tuple[()]  # two columns: an interval's low and high end


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
            for axes, panel in zip(every, self.panels, strict=False):
                paint(axes, panel)
                if "y" in self.share or "x" in self.share:
                    axes.label_outer()
            if self.title:
                place: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": TITLE}
                picture.suptitle(self.title, **place)
            if self.key:
                _legend(picture, every, self.key)
            if self.finish:
                self.finish(picture, every)
            for axes, panel in zip(every, self.panels, strict=False):
                _write_words(axes, panel)
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
        import pandas as pd

        if self.rows is not None:
            return self.rows
        layers = [layer for panel in self.panels for layer in panel.layers]
        drawn = [
            layer.rows[drawn_columns(layer)].assign(series=layer.name)
            for layer in layers
            if len(layer.rows)
        ]
        return pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame()

    def tell(self) -> str:
        """The alt text: the title, what is drawn, then series while there is room."""
        heads = [self.title, *(_head(panel) for panel in self.panels)]
        series = [
            _series(panel, layer) for panel in self.panels for layer in panel.layers
        ]
        text = ""
        for part in dict.fromkeys(part for part in (*heads, *series) if part):
            sentence = part.replace("\n", "; ").rstrip(". ") + ". "
            if len(text) + len(sentence) > MOST_TOLD:
                break
            text += sentence
        return (text or heads[0][:MOST_TOLD] or "A figure without rows.").strip()


def nothing(why: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    blank = Axis("")

    def bare(axes: Axes) -> None:
        axes.set_axis_off()

    panel = Panel(blank, blank, [], decor=[bare])
    return Figure([panel], title=why, size=(8.0, 1.2))


def drawn_columns(layer: Layer) -> list[str]:
    """The columns of a layer's rows whose values are drawn."""
    asked = (layer.x, layer.y, layer.value, *layer.ends)
    return [name for name in dict.fromkeys(asked) if name in layer.rows]


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
    value, axis, at, other = layer.y, panel.y, layer.x, panel.x
    if panel.y.names:
        value, axis, at, other = layer.x, panel.x, layer.y, panel.y
    value = layer.value or value
    if not layer.name or value not in layer.rows:
        return ""
    rows = layer.rows[layer.rows[value].notna()]
    write = layer.write or (digits if layer.value or axis.names else _spoken(axis))
    if rows.empty:
        return ""
    places = [other.say(place) for place in rows[at]]
    if layer.value and panel.y.names:
        places = [
            f"{panel.x.say(x)}, {panel.y.say(y)}"
            for x, y in zip(rows[layer.x], rows[layer.y], strict=True)
        ]
    if len(rows) <= FEW or layer.kind == "line":
        each = [
            f"{write(float(number))} at {place}"
            for number, place in zip(rows[value], places, strict=True)
        ]
        told = ", ".join(each) if len(each) <= FEW else f"{each[0]} to {each[-1]}"
        return f"{layer.name}: {told}"
    low, high = (write(float(v)) for v in (rows[value].min(), rows[value].max()))
    many = f"{len(rows)} {KINDS.get(layer.kind, 'marks')}"
    return f"{layer.name}: {many}, {low} to {high}"


def _spoken(axis: Axis) -> Callable[[float], str]:
    return digits if axis.write is plain else axis.write


# --- what is drawn


def paint(axes: Axes, panel: Panel) -> None:
    """One panel on its axes: decor, layers, axes, names and notes."""
    for draw in panel.decor:
        draw(axes)
    for axis in ("x", "y"):
        if getattr(panel, axis).scale == "log":
            axes.set(**{f"{axis}scale": "log"})
    for layer in panel.layers:
        layer.paint(axes, panel, layer)
    _set_axis(axes, axes.xaxis, panel.x, "x")
    _set_axis(axes, axes.yaxis, panel.y, "y")
    axes.spines[["top", "right"]].set_visible(False)
    if all(layer.kind == "tiles" for layer in panel.layers) and panel.layers:
        many = len(panel.x.names), len(panel.y.names)
        axes.set(xlim=(-0.5, many[0] - 0.5), ylim=(many[1] - 0.5, -0.5))
        axes.spines[:].set_visible(False)
    if panel.square:
        axes.set_aspect("equal")
    if panel.title:
        axes.set_title(panel.title, fontsize=TITLE, loc="left", pad=_above(panel))
    _write_notes(axes, panel)
    _name_layers(axes, panel)


def _above(panel: Panel) -> float:
    """Points between a panel and its title: headings of notes stand there."""
    lines = [heading.count("\n") + 1 for heading, _ in panel.notes]
    return 6.0 + 14.0 * max(lines, default=0)


def _set_axis(axes: Axes, side: Any, axis: Axis, which: str) -> None:
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
        side.set_major_locator(_log_ticks(low, high))
    side.set_major_formatter(ticker.FuncFormatter(lambda v, _: axis.write(v)))


def _log_ticks(low: float, high: float) -> ticker.Locator:
    """Enough round numbers, however narrow or wide the axis is."""
    if high < 2.5 * low:
        return ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
    subs: tuple[float, ...] = (1, 2, 5) if high < 500 * low else (1,)
    subs = (1, 1.5, 2, 3, 4, 5, 7) if high < 20 * low else subs
    return ticker.LogLocator(subs=subs, numticks=30)


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


def _write_notes(axes: Axes, panel: Panel) -> None:
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
    for n, (heading, texts) in enumerate(panel.notes):
        x = 1.03 + n * panel.note_width
        above: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "bottom"}
        axes.text(x, -0.6, heading, **above, **place)
        for y, text in enumerate(texts):
            axes.text(x, y, text, va="center", fontsize=SMALL, **place)


def _name_layers(axes: Axes, panel: Panel) -> None:
    if panel.key == "edge":
        ends = {
            layer.name: (
                panel.x.place(rows[layer.x])[-1],
                float(rows[layer.y].iloc[-1]),
                layer.color,
            )
            for layer in panel.layers
            if layer.name and len(rows := layer.rows.dropna(subset=[layer.y]))
        }
        edge_names(axes, {n: (y, readable(c)) for n, (_, y, c) in ends.items()})
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


def _legend(picture: Picture, every: Sequence[Axes], place: Any) -> None:
    pairs = [axes.get_legend_handles_labels() for axes in every]
    handles, names = ([one for pair in pairs for one in pair[n]] for n in (0, 1))
    if names:
        found = _once(handles, names)
        flat = "center" in place and "right" not in place
        lines = -(-len(found[1]) // 6) if flat else len(found[1])
        columns = -(-len(found[1]) // lines)
        picture.legend(*found, loc=place, fontsize=SMALL, frameon=False, ncols=columns)


def _write_words(axes: Axes, panel: Panel) -> None:
    """The words beside marks, once all scales are final and all lines are drawn."""
    marks, words, colors = [], [], []
    for layer in panel.layers:
        if layer.words:
            xs, ys = (
                panel.x.place(layer.rows[layer.x]),
                panel.y.place(layer.rows[layer.y]),
            )
            for x, y, word in zip(xs, ys, layer.rows[layer.words], strict=True):
                if word and np.isfinite(x) and np.isfinite(y):
                    marks.append((x, y))
                    words.append(str(word))
                    colors.append(readable(layer.color))
    if words:
        name_marks(axes, marks, words, colors)


# --- layers


def points(
    rows: pd.DataFrame,
    x: str,
    y: str,
    name: str = "",
    *,
    color: str = BLACK,
    marker: str = "o",
    fill: str = "full",
    hollow: bool = False,
    size: float = 8,
    line: str = "",
    ends: Ends = (),
    across: Ends = (),
    pale: bool = False,
    words: str = "",
    shift: float = 0.0,
    alpha: float = 1.0,
) -> Layer:
    """Marks at (x, y); filled ones are measured, hollow ones are not.

    ends, across: columns of an interval of y, or of x; pale: drawn as a broad grey bar,
    as for estimates in charts of named lines. line: a dash that joins them. shift: of
    the place among names, to tell two marks apart.
    """

    def draw(axes: Axes, panel: Panel, layer: Layer) -> None:
        at = panel.x.place(rows[x]), panel.y.place(rows[y])
        along = 0 if panel.x.names else 1
        at[along][:] += shift if (panel.x.names or panel.y.names) else 0
        for columns, axis in ((across, 0), (ends, 1)):
            if columns:
                _interval(axes, at, [rows[c] for c in columns], axis, color, pale)
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": size}
        look |= {"fillstyle": fill, "markerfacecoloralt": "white", "alpha": alpha}
        look |= {"markerfacecolor": "white"} if hollow else {}
        look |= {"ls": line or "none", "lw": 1.3, "label": name or None, "zorder": 4}
        axes.plot(*at, **look)

    both = (*across, *ends)
    return Layer("points", name, rows, x, y, draw, color, "", both, words)


def _interval(
    axes: Axes, at: Any, ends: Sequence[Any], axis: int, color: str, pale: bool
) -> None:
    """A bar from low to high through each mark, along x (axis 0) or along y (1)."""
    low, high = (np.array(end, float) for end in ends)
    look: dict[str, Any] = INTERVAL | {"color": GREY}
    if not pale:
        look = {"color": color, "alpha": 0.5, "lw": 1.2}
    draw = axes.hlines if axis == 0 else axes.vlines
    look.pop("solid_capstyle", None)
    draw(at[1 - axis], low, high, zorder=3, **look)


def line(
    rows: pd.DataFrame,
    x: str,
    y: str,
    name: str = "",
    *,
    color: str = BLACK,
    dash: Any = "-",
    width: float = 1.8,
    band: Ends = (),
    sure: str = "",
    steps: bool = False,
) -> Layer:
    """A line through (x, y) with a band; pale and thin where column `sure` is no.

    steps: it climbs at each x, as a share of samples does.
    """

    def draw(axes: Axes, panel: Panel, layer: Layer) -> None:
        at, up = panel.x.place(rows[x]), panel.y.place(rows[y])
        if band:
            low, high = (rows[end].to_numpy(float) for end in band)
            axes.fill_between(at, low, high, color=color, alpha=0.1, lw=0)
        firm = rows[sure].to_numpy(bool) if sure else np.ones(len(up), bool)
        if not firm.all():
            axes.plot(at, up, color=color, lw=1, alpha=0.5, ls=dash)
        look: dict[str, Any] = {"color": color, "lw": width, "ls": dash}
        look |= {"drawstyle": "steps-pre"} if steps else {}
        axes.plot(at, np.where(firm, up, np.nan), label=name or None, **look)

    return Layer("line", name, rows, x, y, draw, color, "", band)


def bars(
    rows: pd.DataFrame,
    x: str,
    y: str,
    name: str = "",
    *,
    color: str = BLACK,
    hatch: str = "",
    hollow: bool = False,
    base: str = "",
    ends: Ends = (),
    thick: float = 0.6,
    inside: Callable[[float], str] | None = None,
    whole: float = 0.0,
) -> Layer:
    """A bar for each named place, along the other axis, from `base` (a column) or zero.

    hatch: the second channel. ends: columns of an interval. inside: writes a value into
    its bar where that is long enough, beside `whole`, or the longest of the layer.
    """

    def draw(axes: Axes, panel: Panel, layer: Layer) -> None:
        flat = bool(panel.y.names)  # bars lie
        named, value = (panel.y, x) if flat else (panel.x, y)
        places = named.place(rows[y if flat else x])
        long = rows[value].to_numpy(float)
        start = rows[base].to_numpy(float) if base else np.zeros(len(long))
        look: dict[str, Any] = {"color": "white" if hollow else color, "hatch": hatch}
        look |= {"edgecolor": color if hollow else "white", "lw": 0.8}
        look |= {"label": name or None, ("left" if flat else "bottom"): start}
        (axes.barh if flat else axes.bar)(places, long, thick, **look)
        if ends:
            low, high = (rows[end].to_numpy(float) for end in ends)
            draw_line = axes.hlines if flat else axes.vlines
            draw_line(places, low, high, color=BLACK, lw=1.2, zorder=5)
        if inside:
            most = whole or float(np.nanmax(start + long, initial=0.0))
            _inside(axes, flat, places, start, long, color, inside, most)

    return Layer("bars", name, rows, x, y, draw, color, "", ends)


def _inside(
    axes: Axes,
    flat: bool,
    places: Any,
    start: Any,
    long: Any,
    color: str,
    write: Any,
    most: float,
) -> None:
    box = {"boxstyle": "round,pad=0.15", "fc": color, "ec": "none"}
    place: dict[str, Any] = {"ha": "center", "va": "center", "bbox": box}
    for at, first, size in zip(places, start, long, strict=True):
        if size >= 0.06 * most:
            middle = (first + size / 2, at) if flat else (at, first + size / 2)
            axes.text(*middle, write(size), color=ink(color), fontsize=SMALL, **place)


def stacked(
    rows: pd.DataFrame,
    at: str,
    parts: Mapping[str, tuple[str, str]],
    flat: bool = False,
    **look: Any,
) -> list[Layer]:
    """Bars on one another: a layer for each part (a column): its colour and hatch."""
    layers, below = [], np.zeros(len(rows))
    look["whole"] = float(rows[list(parts)].sum(axis="columns").max())
    for part, (color, hatch) in parts.items():
        own = rows[[at, part]].assign(_base=below)
        pair = (part, at) if flat else (at, part)
        layers.append(
            bars(own, *pair, part, color=color, hatch=hatch, base="_base", **look)
        )
        below = below + rows[part].to_numpy(float)
    return layers


def tiles(
    rows: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    name: str = "",
    *,
    norm: Any,
    cmap: str = "cividis",
    write: Callable[[float], str] = digits,
    words: str = "",
    upward: bool = True,
) -> Layer:
    """A coloured cell for each (x, y) of two axes with names, its value written in it.

    words: a column of texts: put before the number, or in its place where it is none.
    """

    def draw(axes: Axes, panel: Panel, layer: Layer) -> None:
        from matplotlib import colormaps
        from matplotlib.patches import Rectangle

        at = panel.x.place(rows[x]), panel.y.place(rows[y])
        texts = rows[words] if words else [""] * len(rows)
        for left, low, number, text in zip(*at, rows[value], texts, strict=True):
            known = number is not None and np.isfinite(number)
            face = colormaps[cmap](norm(number)) if known else PALE
            axes.add_patch(
                Rectangle((left - 0.5, low - 0.5), 1, 1, fc=face, ec="white")
            )
            said = f"{text}{write(number)}" if known else text
            color = ink(face[:3]) if known else readable(GREY)
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TEXT}
            axes.text(left, low, said, color=color, **place)
        axes.grid(False)

    return Layer("tiles", name, rows, x, y, draw, BLACK, value, write=write)


def drawn(
    draw: Callable[[Axes, pd.DataFrame], Any],
    rows: pd.DataFrame,
    x: str,
    y: str,
    name: str = "",
    kind: str = "points",
    **look: Any,
) -> Layer:
    """A layer that only one figure needs: `draw(axes, rows)` paints it."""
    return Layer(kind, name, rows, x, y, lambda axes, *_: draw(axes, rows), **look)


# --- decor: what is no data


def level(at: float, axis: str = "y", color: str = GREY, dash: str = "--") -> Any:
    """A thin line across a panel at one value of an axis."""

    def draw(axes: Axes) -> None:
        across = axes.axhline if axis == "y" else axes.axvline
        across(at, color=color, lw=1, ls=dash, zorder=1)

    return draw


def diagonal(low: float, high: float, factors: Sequence[float] = (2.0, 1.25)) -> Any:
    """The line y = x from low to high, with a pale band for each factor beside it."""

    def draw(axes: Axes) -> None:
        ends = np.array([low, high])
        for factor, shade in zip(factors, ("#f1f1f1", "#dcdcdc"), strict=False):
            axes.fill_between(ends, ends / factor, ends * factor, color=shade, lw=0)
            text: dict[str, Any] = {"color": GREY, "fontsize": SMALL, "rotation": 45}
            text |= {"ha": "right", "va": "bottom", "rotation_mode": "anchor"}
            at = high / factor / 1.04
            axes.text(at, at * factor, f"×{factor:g}", **text)
        axes.plot(ends, ends, color=GREY, lw=1, zorder=1)

    return draw


def gridlines(axis: str = "both") -> Any:
    """Pale lines at the ticks."""

    def draw(axes: Axes) -> None:
        axes.grid(True, axis=axis, color=PALE, lw=0.8)  # type: ignore[arg-type]
        axes.set_axisbelow(True)

    return draw

"""The layers that figures share, and what is no data: each a function of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fastlab.figures.panels import ENDS, OWN_ENDS, Ends, Layer, Panel
from fastlab.figures.style import BLACK, GREY, PALE, SMALL, TEXT, ink, look_of, readable
from fastlab.words import digits

INTERVAL: dict[str, Any] = {"color": GREY, "lw": 5, "alpha": 0.25}


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
        bar = INTERVAL if pale else {"color": color, "alpha": 0.5, "lw": 1.2}
        pairs = (across, at[1], "hlines"), (ends, at[0], "vlines")
        for columns, places, span in pairs:
            if columns:
                low, high = (rows[column].to_numpy(float) for column in columns)
                getattr(axes, span)(places, low, high, zorder=3, **bar)
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": size}
        look |= {"fillstyle": fill, "markerfacecoloralt": "white", "alpha": alpha}
        look |= {"markerfacecolor": "white"} if hollow else {}
        look |= {"ls": line or "none", "lw": 1.3, "label": name or None, "zorder": 4}
        axes.plot(*at, **look)

    return Layer("points", name, rows, x, y, draw, color, "", (*across, *ends), words)


def formats(
    rows: pd.DataFrame,
    x: str,
    y: str,
    names: Mapping[str, str] = {},
    name: str | None = None,
    **look: Any,
) -> list[Layer]:
    """Marks of each precision and phase, in their look.

    names: of precisions, for the key; name: of all layers instead.
    """
    return [
        points(own, x, y, say if name is None else name, **(style | look))
        for say, style, own in _each(rows, names)
    ]


def _each(rows: pd.DataFrame, names: Mapping[str, str] = {}) -> Iterator[Any]:
    """Name, look and rows of each precision and phase."""
    for (p, phase), own in rows.groupby(["precision", "phase"], sort=False):
        yield f"{names.get(p, p)} {phase}", look_of(p, phase), own


def clocks(rows: pd.DataFrame, y: str, name: str = "", **look: Any) -> list[Layer]:
    """On named lines, in ms: estimates, hollow over their intervals; measurements.

    Without a name those of each precision and phase, in their look.
    """
    if not name:
        each = (clocks(own, y, n, **(style | look)) for n, style, own in _each(rows))
        return [layer for layers in each for layer in layers]
    guessed = look | {"across": ENDS, "hollow": True, "pale": True}
    timed = look | {"across": OWN_ENDS}
    return [
        points(own, f"{what}_ms", y, f"{name} {what}", **style)
        for what, style in (("estimated", guessed), ("measured", timed))
        if f"{what}_ms" in rows and len(own := rows.dropna(subset=f"{what}_ms"))
    ]


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
        drawn = (axes.barh if flat else axes.bar)(places, long, thick, **look)
        if ends:
            low, high = (rows[end].to_numpy(float) for end in ends)
            span = axes.hlines if flat else axes.vlines
            span(places, low, high, color=BLACK, lw=1.2, zorder=5)
        if inside:
            least = 0.06 * (whole or float(np.nanmax(start + long, initial=0.0)))
            texts = [inside(size) if size >= least else "" for size in long]
            box = {"boxstyle": "round,pad=0.15", "fc": color, "ec": "none"}
            how: dict[str, Any] = {"label_type": "center", "bbox": box}
            axes.bar_label(drawn, texts, color=ink(color), fontsize=SMALL, **how)

    return Layer("bars", name, rows, x, y, draw, color, "", ends)


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
        bar = bars(own, *pair, part, color=color, hatch=hatch, base="_base", **look)
        layers.append(bar)
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
            cell = Rectangle((left - 0.5, low - 0.5), 1, 1, fc=face, ec="white")
            axes.add_patch(cell)
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


def level(
    at: float, axis: str = "y", color: str = GREY, dash: str = "--", words: str = ""
) -> Any:
    """A thin line across a panel at one value of an axis, with words at its end."""

    def draw(axes: Axes) -> None:
        flat = axis == "y"
        look: dict[str, Any] = {"color": color, "fontsize": SMALL, "ha": "right"}
        across = axes.axhline if flat else axes.axvline
        across(at, color=color, lw=1, ls=dash, zorder=1)
        of_axes = axes.get_yaxis_transform() if flat else axes.get_xaxis_transform()
        end, side = ((0.99, at), "bottom") if flat else ((at, 0.99), "top")
        axes.text(*end, words, va=side, transform=of_axes, **look)

    return draw


def diagonal(
    low: float, high: float, factors: Sequence[float] = (2.0, 1.25), words: str = ""
) -> Any:
    """The line y = x from low to high, with a pale band for each factor beside it.

    words: along the line's upper end; it is dashed then.
    """

    def draw(axes: Axes) -> None:
        text: dict[str, Any] = {"color": GREY, "fontsize": SMALL, "rotation": 45}
        text |= {"ha": "right", "va": "bottom", "rotation_mode": "anchor"}
        text |= {"transform_rotates_text": True}
        ends = np.array([low, high])
        for factor, shade in zip(factors, ("#f1f1f1", "#dcdcdc"), strict=False):
            axes.fill_between(ends, ends / factor, ends * factor, color=shade, lw=0)
            at = high / factor / 1.04
            axes.text(at, at * factor, f"×{factor:g}", **text)
        axes.plot(ends, ends, color=GREY, lw=1, ls="--" if words else "-", zorder=1)
        if words:
            axes.text(high, 1.03 * high, words, **text)

    return draw


def gridlines(axis: str = "both") -> Any:
    """Pale lines at the ticks."""

    def draw(axes: Axes) -> None:
        axes.grid(True, axis=axis, color=PALE, lw=0.8)  # type: ignore[arg-type]
        axes.set_axisbelow(True)

    return draw

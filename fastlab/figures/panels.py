"""What a figure is declared of: axes, layers of rows on them, and panels of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fastlab.figures.style import BLACK
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

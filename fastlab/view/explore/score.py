"""The explorer of notebook 04: leave a value out, and see its points predicted.

All predictions of a field are made once, when it is first chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.latency.devices import Device
from fastlab.record import Record
from fastlab.scores.scoreboard import HOLDOUTS, Errors, predictions
from fastlab.view.alt.score import left_out as words
from fastlab.view.figure import Shown, show
from fastlab.view.plots.score import left_out as drawn
from fastlab.view.tables.score import predicted

if TYPE_CHECKING:
    import pandas as pd
    from ipywidgets import VBox


@dataclass(frozen=True)
class LeftOut:
    """Every row as predicted without its own value of a field, and as estimated."""

    field: str
    rows: pd.DataFrame
    values: list[Any]
    as_is: np.ndarray  # estimated seconds / measured seconds, no row used

    def chosen(self, value: Any) -> np.ndarray:
        """Which rows have this value of the field."""
        return np.array([own == value for own in self.values])

    def title(self, value: Any) -> str:
        """How far off the rows of a value are, predicted without them."""
        mine = self.chosen(value)
        made = 1 / self.rows["ratio"].to_numpy(float)[mine]
        off = Errors.of("", made, np.ones(len(made)))
        plain = Errors.of("", self.as_is[mine], np.ones(len(made)))
        return (
            f"{self.field} {value} left out, {off.n} rows: median error "
            f"{off.median:.1f} %, p90 {off.p90:.0f} %,\nbias {off.bias:+.1f} %; "
            f"with no row used at all: {plain.median:.1f} %"
        )


def left_out_of(records: Iterable[Record], device: Device, field: str) -> LeftOut:
    """Predictions of all rows, each value of `field` left out in turn."""
    made = predictions(records, device, field)
    as_is = np.array([e.seconds for e in made.estimates]) / made.measured
    values = [HOLDOUTS[field](point) for point in made.points]
    return LeftOut(field, predicted(made), values, as_is)


def held_out(records: Iterable[Record], device: Device, caption: str = "") -> VBox:
    """Menus of a field and of one of its values; arrow keys move both.

    The rows of that value stand out, predicted from all others; nothing is measured.
    """
    import ipywidgets as widgets

    kept = list(records)
    made = cache(lambda field: left_out_of(kept, device, field))
    field = widgets.Dropdown(options=fields_of(kept), description="field")
    value = widgets.SelectionSlider(options=["?"], description="left out")
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        picture.value = shown(made(field.value), value.value, caption).markup

    def choose(_: Any = None) -> None:
        value.unobserve_all("value")
        values = made(field.value).values
        value.options = sorted(set(values))
        value.value = max(value.options, key=values.count)
        value.observe(redraw, names="value")
        redraw()

    field.observe(choose, names="value")
    choose()
    return widgets.VBox([widgets.HBox([field, value]), picture])


def fields_of(records: Iterable[Record]) -> list[str]:
    """The fields that have two values or more among the records."""
    points = [record.point for record in records]
    return [name for name, of in HOLDOUTS.items() if len(set(map(of, points))) > 1]


def shown(made: LeftOut, value: Any, caption: str = "") -> Shown:
    """The explorer's figure in one state, with the alt text of that."""
    title = made.title(value)
    figure = drawn(made.rows, made.chosen(value), title)
    alt = words(title.replace("\n", " "), made.rows, caption)
    return show(figure, alt=alt, caption=caption)

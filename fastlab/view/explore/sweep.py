"""Explorers: widgets that redraw a figure from rows and fresh estimates.

Moving a slider never measures anything: an estimate takes a fraction of a millisecond.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.spec.grids import FLAT, point_of
from fastlab.spec.point import Point
from fastlab.spec.shape import override
from fastlab.view.alt import sweep as alts
from fastlab.view.figure import Shown, show
from fastlab.view.plots import sweep as plots
from fastlab.view.tables.sweep import choose, settled

if TYPE_CHECKING:
    import pandas as pd
    from ipywidgets import VBox
    from matplotlib.figure import Figure

BETWEEN = 64  # estimated hidden sizes are multiples of it
REACH = 2  # the slider goes to so many times the most layers measured


def layers_by_hidden(
    rows: pd.DataFrame, profile: Device | None = None, caption: str = ""
) -> VBox:
    """Time against hidden size, for any number of layers up to twice those measured.

    `profile` is the device that is estimated (run.profile); without it only the
    numbers of layers in `rows` are drawn.
    """
    import ipywidgets as widgets

    most = int(rows["layers"].max())
    slider = widgets.IntSlider(
        value=most, min=1, max=REACH * most, description="layers"
    )
    precision = _dropdown("precision", rows)
    phase = _dropdown("phase", rows)
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        state = {c.description: c.value for c in (slider, precision, phase)}
        picture.value = shown(rows, profile, caption, **state).markup

    for control in (slider, precision, phase):
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.HBox([slider, precision, phase]), picture])


def _dropdown(name: str, rows: pd.DataFrame) -> Any:
    import ipywidgets as widgets

    options = list(dict.fromkeys(rows[name]))
    return widgets.Dropdown(options=options, value=options[0], description=name)


def shown(
    rows: pd.DataFrame, profile: Device | None, caption: str = "", **state: Any
) -> Shown:
    """The explorer's figure in one state, with the alt text and caption of that."""
    alt = alts.lines(rows, curve(rows, profile, **state), caption, **state)
    return show(figure(rows, profile, **state), alt=alt, caption=caption)


def figure(
    rows: pd.DataFrame,
    profile: Device | None,
    *,
    layers: int,
    precision: str,
    phase: str,
) -> Figure:
    """The explorer's figure: estimated line and band, measured points where they are.

    The axes stay the same for all numbers of layers, so that moving the slider shows.
    """
    chosen = choose(rows, phase, precision)
    state = {"precision": precision, "phase": phase}
    line = curve(rows, profile, layers=layers, **state)
    ends = [
        curve(rows, profile, layers=n, **state)
        for n in (1, REACH * int(rows["layers"].max()))
    ]
    return plots.lines(chosen, line, layers, limits(chosen, *ends))


def limits(chosen: pd.DataFrame, *curves: pd.DataFrame) -> tuple[float, float]:
    """Lowest and highest milliseconds, of settled rows if any, with room around."""
    sure = chosen[settled(chosen)]
    kept = sure if len(sure) else chosen[chosen["measured_ms"].notna()]
    known = [kept["measured_ms"].to_numpy(float)]
    known += [c[n].to_numpy(float) for c in curves for n in ("low_ms", "high_ms")]
    values = np.concatenate(known)
    if not values.size:
        return 1.0, 10.0
    return float(values.min()) / 1.4, float(values.max()) * 1.4


def curve(
    rows: pd.DataFrame,
    profile: Device | None,
    *,
    layers: int,
    precision: str,
    phase: str,
) -> pd.DataFrame:
    """Estimated ms against hidden for any number of layers: hidden, ms, low, high.

    Without a profile it is what the rows hold for this number of layers; it is empty
    where the device cannot do the precision.
    """
    import pandas as pd

    chosen = choose(rows, phase, precision)
    if profile is None:
        return _stored(chosen[chosen["layers"] == layers])
    points = _points(chosen, layers) if profile.can(precision) else []
    found = estimate(points, profile)
    columns = ["hidden", "ms", "low_ms", "high_ms"]
    times = [[e.seconds * 1e3, e.low_s * 1e3, e.high_s * 1e3] for e in found]
    values = [[p.shape.hidden, *t] for p, t in zip(points, times, strict=True)]
    return pd.DataFrame(values, columns=columns)


def _stored(chosen: pd.DataFrame) -> pd.DataFrame:
    names = {
        "estimated_ms": "ms",
        "estimated_low_ms": "low_ms",
        "estimated_high_ms": "high_ms",
    }
    kept = chosen.rename(columns=names)[["hidden", *names.values()]]
    return kept.dropna().sort_values("hidden")


def _points(chosen: pd.DataFrame, layers: int) -> list[Point]:
    """A point for every hidden size of the rows, and for those in between."""
    known = {row["hidden"]: _point(row) for _, row in chosen.iterrows()}
    first = next(iter(known.values()))
    if all(_usual(point) for point in known.values()):
        for hidden in range(min(known), max(known), BETWEEN):
            shape = override(first.shape, {"hidden": hidden})
            known.setdefault(hidden, replace(first, shape=shape))
    return [
        replace(p, shape=replace(p.shape, layers=layers))
        for _, p in sorted(known.items())
    ]


def _point(row: pd.Series) -> Point:
    return point_of(weights=row["weights"], **{n: row[n] for n in FLAT})


def _usual(point: Point) -> bool:
    """Whether heads and ffn are those that follow from hidden: then others can."""
    shape = point.shape
    return shape == override(shape, {"hidden": shape.hidden})

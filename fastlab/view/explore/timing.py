"""The explorer of notebook 02: which number would you have reported?

It draws from samples already taken; moving a control measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.clock.stats import median, median_interval, plain_interval
from fastlab.clock.traps import Series
from fastlab.spec.checks import check_choice
from fastlab.view.alt import timing as alt
from fastlab.view.figure import Shown, show
from fastlab.view.plots import timing as plots

if TYPE_CHECKING:
    from ipywidgets import VBox

Reported = tuple[float, float, float]  # low, what is reported, high: in ms
Report = Callable[[Sequence[float]], Reported]


def _median(ms: Sequence[float]) -> Reported:
    low, high = median_interval(ms)
    return low, median(ms), high


def _plain(ms: Sequence[float]) -> Reported:
    low, high = plain_interval(ms)
    return low, median(ms), high


def _mean(ms: Sequence[float]) -> Reported:
    # Mean and 1.96 standard errors, as if the times were normal and independent.
    values = np.asarray(ms, dtype=float)
    error = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    middle = float(values.mean())
    return middle - float(error), middle, middle + float(error)


def _fastest(ms: Sequence[float]) -> Reported:
    return min(ms), min(ms), min(ms)


# What it is called -> whether the naive loop's samples are taken, and the statistic.
TRAPS: dict[str, tuple[bool, Report]] = {
    "none: warm, median": (False, _median),
    "naive loop, median": (True, _median),
    "naive loop, mean": (True, _mean),
    "the fastest call": (False, _fastest),
    "interval ignores drift": (False, _plain),
}


def samples_taken(naive: Series, ours: Series, caption: str = "") -> VBox:
    """A slider over the number of samples, and a menu of traps; arrow keys move both.

    The figure sets what you would have reported beside all samples of `ours`.
    """
    import ipywidgets as widgets

    most = min(len(naive.ns), len(ours.ns))
    slider = widgets.IntSlider(
        value=min(3, most), min=1, max=most, description="samples"
    )
    menu = widgets.Dropdown(options=list(TRAPS), value=list(TRAPS)[1])
    menu.description = "trap"
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        state = {"trap": menu.value, "taken": slider.value}
        picture.value = shown(naive, ours, caption, **state).markup

    for control in (slider, menu):
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.HBox([slider, menu]), picture])


def shown(
    naive: Series, ours: Series, caption: str = "", *, trap: str, taken: int
) -> Shown:
    """The explorer's figure in one state, with the alt text and caption of that."""
    chosen, value, truth = compared(naive, ours, trap=trap, taken=taken)
    figure = plots.reported(chosen, taken, value, truth, limits(naive, ours))
    words = alt.reported(trap, taken, value, truth)
    caption = f"Samples {caption}." if caption else ""
    return show(figure, alt=words, caption=f"{words} {caption}")


def compared(
    naive: Series, ours: Series, *, trap: str, taken: int
) -> tuple[Series, Reported, Reported]:
    """The samples used, what is reported from the first `taken`, and the full answer.

    ValueError for a trap that is none.
    """
    check_choice("trap", trap, TRAPS)
    from_naive, report = TRAPS[trap]
    chosen = naive if from_naive else ours
    ms = [ns / 1e6 for ns in chosen.ns[:taken]]
    return chosen, report(ms), _median([ns / 1e6 for ns in ours.ns])


def limits(*series: Series) -> tuple[float, float]:
    """The milliseconds of all samples, with room: the axis stays as controls move."""
    ms = np.concatenate([s.ns for s in series]) / 1e6
    return float(ms.min()) / 1.2, float(ms.max()) * 1.2

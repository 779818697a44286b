"""What figures that are not ported yet share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fastlab.view.style import GREY, PALE, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE: dict[str, Any] = {"lw": 5, "alpha": 0.25, "solid_capstyle": "round"}
PLAIN: dict[str, Any] = {"fc": "white", "ec": "none", "pad": 1.5}  # behind a text


def bare(axes: Axes) -> None:
    """Axes of named lines: only the scale below is drawn."""
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL, color=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(True, axis="y", color=PALE, lw=0.8)
    axes.set_axisbelow(True)


def ticks_to(most: float) -> list[float]:
    """Four to eight round numbers from zero to the longest time."""
    return [
        t for t in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, most) if t <= most
    ]


def known(value: Any) -> bool:
    """Whether there is a number, and it is finite."""
    return value is not None and bool(np.isfinite(float(value)))

"""The house style of figures: colours, marks, sizes, scales. Always passed, never set.

Filled = measured, hollow or line = predicted; colour = precision, marker = phase.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Told apart under protan, deutan and tritan simulation (facts/notebooks.md, 3.8).
COLORS = {
    "fp32": "#000000",
    "tf32": "#a96b59",
    "bf16": "#0072B2",
    "fp16": "#0072B2",
    "int8": "#D55E00",
    "int4": "#7a21dd",
    # Farther than 27 (CIE76) from one another and all above in the same simulations;
    # precisions that share a colour are told apart by label and dash.
    **dict.fromkeys(("int4-g32", "int4-g64", "int4-g128"), "#7a21dd"),
    "int8-dynamic": "#781800",
    **dict.fromkeys(("autocast-fp16", "autocast-bf16"), "#9090a8"),
    **dict.fromkeys(("fp8", "fp8-dynamic"), "#601860"),
}
MARKERS = {"prefill": "o", "decode": "^", "generate": "s"}
# What shares its colour with another format is drawn with half-filled markers.
FILLS = dict.fromkeys(("fp16", "autocast-fp16", "fp8-dynamic", "int4-g64"), "left")
FILLS |= {"int4-g32": "bottom"}
GREY, PALE = "#666666", "#e8e8e8"
TITLE, TEXT, SMALL = 12, 11, 10  # points


def log_norm(values: np.ndarray) -> LogNorm:
    """A log scale over all finite values."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    low, high = (known.min(), known.max()) if known.size else (1.0, 10.0)
    return LogNorm(low / 1.05, high * 1.05)


def ratio_norm(ratios: np.ndarray) -> LogNorm:
    """A log scale centred at one, to a factor of at least 4 on either side."""
    known = ratios[np.isfinite(ratios)]
    widest = max(4.0, *np.exp(np.abs(np.log(known)))) if known.size else 4.0
    return LogNorm(1 / widest, widest)


def ink(rgba: Any) -> str:
    """Black or white: what is better read on a colour."""
    # Relative luminance of WCAG: black and white contrast equally at 0.179.
    linear = np.where(
        np.array(rgba[:3]) <= 0.04045,
        np.array(rgba[:3]) / 12.92,
        ((np.array(rgba[:3]) + 0.055) / 1.055) ** 2.4,
    )
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def colorbar(
    figure: Figure,
    image: AxesImage,
    axes: list[Axes],
    label: str,
    write: Callable[[float], str],
) -> None:
    """A bar under `axes`, with its ends and its middle written out."""
    low, high = image.get_clim()
    assert low is not None and high is not None
    ticks = [low, (low * high) ** 0.5, high]
    bar = figure.colorbar(
        image, ax=axes, location="bottom", aspect=40, shrink=0.7, ticks=ticks
    )
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.set_xticklabels([write(t) for t in ticks])
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(label, fontsize=SMALL)
    bar.outline.set_visible(False)


def log_axes(axes: Axes, x: str, y: str) -> None:
    """Logarithmic axes, labelled in plain numbers."""
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)
    axes.tick_params(which="both", labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(NullFormatter())

"""The house style of figures: colours, marks, sizes. Always passed, never set.

Filled = measured, hollow or line = predicted, with a ring in it = published by others;
colour = precision, marker = phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, to_rgb

from fastlab.spec.formats import FORMATS

# A colour means one thing in all notebooks; those of precisions are in spec.formats.
BLACK, GREEN, PINK, ORANGE = "#000000", "#009E73", "#CC79A7", "#E69F00"
GREY, PALE, FAINT = "#666666", "#e8e8e8", "#bdbdbd"
COLORS = {name: form.color for name, form in FORMATS.items()}
MARKERS = {"prefill": "o", "decode": "^", "generate": "s"}
TITLE, TEXT, SMALL = 12, 11, 10  # points, at 100 pixels an inch
WIDEST = 11.0  # inches: what is wider is shrunk by a notebook until its text is small
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)))  # of lines of one colour
# Four steps of cividis: told apart without hue too; hatches are the second channel.
STACKED = (("#00224e", ""), ("#fdea45", "//"), ("#9a9996", "\\\\"), ("#c9ba6a", ".."))


def color_of(precision: object) -> str:
    """A precision's colour; grey for one that has none yet."""
    return COLORS.get(str(precision), GREY)


def look_of(precision: object, phase: object = "prefill") -> dict[str, Any]:
    """Colour, marker and fill of a precision's mark in a phase, as `points` takes."""
    form, marker = FORMATS.get(str(precision)), MARKERS.get(str(phase), "D")
    fill = form.fill if form else "full"
    return {"color": color_of(precision), "marker": marker, "fill": fill}


def luminance(color: Any) -> float:
    """Relative luminance of a colour, 0 to 1 (WCAG 2.1)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def ink(color: Any) -> str:
    """Black or white: what is better read on a colour."""
    return BLACK if luminance(color) > 0.179 else "white"


def readable(color: str) -> str:
    """The colour as text on white: darkened until the contrast is 4.5 to 1."""
    rgb = np.array(to_rgb(color))
    while 1.05 / (luminance(rgb) + 0.05) < 4.5:
        rgb = rgb * 0.95
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def log_norm(values: Any) -> LogNorm:
    """A log scale over all finite values."""
    known = _finite(values)
    low, high = (known.min(), known.max()) if known.size else (1.0, 10.0)
    return LogNorm(low / 1.05, high * 1.05)


def ratio_norm(ratios: Any) -> LogNorm:
    """A log scale centred at one, to a factor of at least 4 on either side."""
    widest = np.exp(max([np.log(4), *np.abs(np.log(_finite(ratios)))]))
    return LogNorm(1 / widest, widest)


def _finite(values: Any) -> np.ndarray:
    known = np.asarray(values, dtype=float)
    return known[np.isfinite(known)]

"""The house style of figures: colours, marks, sizes. Always passed, never set.

Filled = measured, hollow or line = predicted; colour = precision, marker = phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, to_rgb

# Told apart under protan, deutan and tritan simulation: the worst pair is 34 apart
# (CIE76, Machado 2009). A colour means one thing in all notebooks.
BLACK, BLUE, RED, PURPLE, BROWN = "#000000", "#0072B2", "#D55E00", "#7a21dd", "#a96b59"
GREEN, PINK, ORANGE = "#009E73", "#CC79A7", "#E69F00"  # no precision has these
GREY, PALE, FAINT = "#666666", "#e8e8e8", "#bdbdbd"
COLORS = {
    **{"fp32": BLACK, "tf32": BROWN, "bf16": BLUE, "fp16": BLUE},
    **{"int8": RED, "int4": PURPLE},
    # Farther than 27 from one another and all above in the same simulations;
    # precisions that share a colour are told apart by label, fill and dash.
    **dict.fromkeys(("int4-g32", "int4-g64", "int4-g128"), PURPLE),
    "int8-dynamic": "#781800",
    **dict.fromkeys(("autocast-fp16", "autocast-bf16"), "#9090a8"),
    **dict.fromkeys(("fp8", "fp8-dynamic"), "#601860"),
}
MARKERS = {"prefill": "o", "decode": "^", "generate": "s"}
# What shares its colour with another format is drawn with half-filled markers.
FILLS = dict.fromkeys(("fp16", "autocast-fp16", "fp8-dynamic", "int4-g64"), "left")
FILLS |= {"int4-g32": "bottom"}
TITLE, TEXT, SMALL = 12, 11, 10  # points, at 100 pixels an inch
WIDEST = 11.0  # inches: what is wider is shrunk by a notebook until its text is small
# Four steps of cividis: told apart without hue too; hatches are the second channel.
STACKED = (("#00224e", ""), ("#fdea45", "//"), ("#7c7b78", "\\\\"), ("#c9ba6a", ".."))


def color_of(precision: object) -> str:
    """A precision's colour; grey for one that has none yet."""
    return COLORS.get(str(precision), GREY)


def look_of(precision: object, phase: object = "prefill") -> dict[str, Any]:
    """Colour, marker and fill of a precision's mark in a phase, as `points` takes."""
    return {
        "color": color_of(precision),
        "marker": MARKERS.get(str(phase), "D"),
        "fill": FILLS.get(str(precision), "full"),
    }


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
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    low, high = (known.min(), known.max()) if known.size else (1.0, 10.0)
    return LogNorm(low / 1.05, high * 1.05)


def ratio_norm(ratios: Any) -> LogNorm:
    """A log scale centred at one, to a factor of at least 4 on either side."""
    known = np.asarray(ratios, dtype=float)
    known = known[np.isfinite(known)]
    widest = max(4.0, *np.exp(np.abs(np.log(known)))) if known.size else 4.0
    return LogNorm(1 / widest, widest)

"""What holds for every figure, whichever rows it is made of: see `faults`."""

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from fastlab.figures.grammar import Figure
from fastlab.figures.panels import Layer, drawn_columns
from fastlab.figures.style import SMALL, WIDEST, luminance

LONGEST_ALT, SHORTEST_ALT = 500, 20
CONTRAST = 4.5  # of text on its ground (WCAG 2.1, AA)
SAME = 1e-9  # relative


def faults(figure: Figure) -> list[str]:
    """What is wrong with a figure, in words; [] if nothing is."""
    alt = figure.tell()
    found = [] if SHORTEST_ALT <= len(alt) < LONGEST_ALT else [f"alt text: {alt}"]
    if figure.size[0] > WIDEST:
        found.append(f"{figure.size[0]} inches wide")
    found += [f for p in figure.panels for one in p.layers for f in untold(figure, one)]
    return [*found, *texts(figure)]


def untold(figure: Figure, layer: Layer) -> list[str]:
    """The columns of a layer with a number that the figure's rows do not have."""
    told = [column.to_numpy() for _, column in figure.table.items()]
    known = np.concatenate([_numbers(column) for column in told] or [np.zeros(0)])
    found = []
    for name in drawn_columns(layer):
        drawn = _numbers(layer.rows[name].to_numpy())
        lacking = [float(v) for v in drawn if not np.isclose(known, v, rtol=SAME).any()]
        if lacking:
            found.append(
                f"{layer.name or layer.kind}: {name} {lacking[:3]} is not told"
            )
    return found


def _numbers(column: np.ndarray) -> np.ndarray:
    """The finite numbers of a column; none of texts."""
    if column.dtype.kind not in "biuf":
        values = [v for v in column if isinstance(v, (int, float, np.number))]
        column = np.array(values, float)
    return np.unique(column[np.isfinite(column)].astype(float))


def texts(figure: Figure) -> list[str]:
    """Texts that are too small, or too pale for white ground."""
    with matplotlib.rc_context({"text.parse_math": False}):
        picture = figure.draw()
        picture.draw_without_rendering()
    found = []
    for text in picture.findobj(Text):
        if not text.get_text().strip() or not text.get_visible():
            continue
        if text.get_fontsize() < SMALL:
            found.append(f"{text.get_text()!r} has {text.get_fontsize():g} points")
        if text.get_bbox_patch() is None and _contrast(text.get_color()) < CONTRAST:
            found.append(f"{text.get_text()!r} is pale: {text.get_color()}")
    return found


def _contrast(color: object) -> float:
    """Of text on white; white text stands on colour, which `ink` takes care of."""
    if to_rgb(color) == (1.0, 1.0, 1.0):
        return 21.0
    return 1.05 / (luminance(color) + 0.05)

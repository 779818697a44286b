"""Short words beside marks, where neither lines nor marks nor other words lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patheffects import withStroke

from fastlab.view.style import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# In printer's points: how far a word stands from its mark, half a mark, half a digit.
DISTANCES, MARK, DIGIT, HEIGHT = (11, 14, 18, 23), 5.0, 3.6, 5.0
ANGLES = np.deg2rad(np.arange(90, 450, 30))  # above first
FAR = 0.15  # what a point of distance weighs, beside one point of a line that is hit


def name_marks(
    axes: Axes,
    marks: Sequence[tuple[float, float]],
    words: Sequence[str],
    colors: Sequence[str],
) -> None:
    """A word beside each mark (x, y), in its colour, on the free side of it.

    Scales and limits must be final; what the axes' lines cover is kept clear.
    """
    figure: Figure = axes.figure  # type: ignore[assignment]
    figure.draw_without_rendering()
    places = _points(axes, np.array(marks, float).reshape(-1, 2))
    lines = [_points(axes, np.asarray(line.get_xydata())) for line in axes.lines]
    taken = np.concatenate([*map(_steps, lines), *map(_disc, places), np.zeros((0, 2))])
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL}
    look |= {"path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    for at, place, word, color in zip(marks, places, words, colors, strict=True):
        half = np.array([DIGIT * len(word), HEIGHT])
        off = _free(place, half, taken)
        taken = np.concatenate([taken, _box(place + off, half)])
        look |= {"color": color, "textcoords": "offset points"}
        axes.annotate(word, at, (float(off[0]), float(off[1])), **look)


def _points(axes: Axes, data: Floats) -> Floats:
    """Data coordinates (n, 2) in printer's points."""
    pixels: Floats = axes.transData.transform(data)
    return pixels * 72 / axes.figure.dpi


def _steps(line: Floats) -> Floats:
    """A polyline (n, 2) as points some two apart."""
    if len(line) < 2:
        return line
    parts = [_segment(first, last) for first, last in itertools.pairwise(line)]
    return np.concatenate(parts)


def _segment(first: Floats, last: Floats) -> Floats:
    count = 2 + int(np.hypot(*(last - first)) / 2)
    return np.linspace(first, last, count)


def _disc(center: Floats) -> Floats:
    rings = [MARK * part * _around() for part in (0.0, 0.5, 1.0)]
    return center + np.concatenate(rings)


def _around() -> Floats:
    return np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])


def _box(center: Floats, half: Floats) -> Floats:
    steps = np.linspace(-1, 1, 5)
    return center + half * np.array([(x, y) for x in steps for y in steps])


def _free(place: Floats, half: Floats, taken: Floats) -> Floats:
    """The offset at which a word of this half size covers least, near ones first."""
    tried = [far * one for far in DISTANCES for one in _around()]
    costs = [_hits(place + off, half, taken) + FAR * np.hypot(*off) for off in tried]
    return tried[int(np.argmin(costs))]


def _hits(center: Floats, half: Floats, taken: Floats) -> int:
    return int((np.abs(taken - center) <= half + 1).all(axis=1).sum())

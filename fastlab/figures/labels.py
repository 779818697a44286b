"""Short words beside marks and lines, where nothing else lies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patheffects import withStroke

from fastlab.figures.style import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# In printer's points: how far a word stands from its mark, half a mark, half a digit.
DISTANCES, MARK, DIGIT, HEIGHT = (11, 14, 18, 23), 5.0, 3.6, 5.0
ANGLES = np.deg2rad(np.arange(90, 450, 30))  # above first
FAR = 0.15  # what a point of distance weighs, beside one point of a line that is hit
LINE = 13.0  # points between two names at the edge


def edge_names(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Each line's name right of its end (y, colour), pushed apart where ends lie close.

    Scales and limits must be final.
    """
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    box = axes.get_window_extent()
    step = LINE * axes.figure.dpi / 72 / box.height
    to_share = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    places = {name: to_share.transform((left, y))[1] for name, (y, _) in ends.items()}
    for name, place in apart(places, step).items():
        style: dict[str, Any] = {"color": ends[name][1], "fontsize": SMALL}
        style |= {"va": "center", "transform": axes.transAxes, "clip_on": False}
        axes.text(1.01, place, name, **style)


def apart(places: Mapping[str, float], step: float) -> dict[str, float]:
    """Places on a line moved as little as it takes to lie `step` apart, in order."""
    order = sorted(places, key=lambda name: -places[name])
    groups: list[list[str]] = []
    middles: list[float] = []
    for name in order:
        groups.append([name])
        middles.append(places[name])
        while len(groups) > 1 and (
            middles[-2] - middles[-1] < step * (len(groups[-2]) + len(groups[-1])) / 2
        ):
            last, _ = groups.pop(), middles.pop()
            groups[-1] += last
            middles[-1] = float(np.mean([places[one] for one in groups[-1]]))
    return {
        name: middle + step * ((len(group) - 1) / 2 - n)
        for group, middle in zip(groups, middles, strict=True)
        for n, name in enumerate(group)
    }


def name_marks(
    axes: Axes,
    marks: Sequence[tuple[float, float]],
    words: Sequence[str],
    colors: Sequence[str],
) -> None:
    """A word beside each mark (x, y), in its colour, on the free side of it.

    Scales and limits must be final; what the axes' lines and texts cover is kept clear.
    """
    figure: Figure = axes.figure  # type: ignore[assignment]
    figure.draw_without_rendering()
    places = _points(axes, np.array(marks, float).reshape(-1, 2))
    lines = [_points(axes, np.asarray(line.get_xydata())) for line in axes.lines]
    lines = [line for line in lines if np.isfinite(line).all()]
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
    """The offset at which a word of this half size covers least, near ones first.

    A long word needs its half width to stand clear of its mark sideways.
    """
    wide = np.array([max(half[0] - 2 * DIGIT, 0.0), 0.0])
    tried = [far * one + wide * one for far in DISTANCES for one in _around()]
    costs = [_hits(place + off, half, taken) + FAR * np.hypot(*off) for off in tried]
    return tried[int(np.argmin(costs))]


def _hits(center: Floats, half: Floats, taken: Floats) -> int:
    return int((np.abs(taken - center) <= half + 1).all(axis=1).sum())

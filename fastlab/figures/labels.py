"""Short words beside marks and lines, where nothing else lies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from fastlab.figures.style import SMALL

Floats = NDArray[np.float64]

# In printer's points: how far a word stands from its mark, half a mark, half a digit.
DISTANCES, MARK, DIGIT, HEIGHT = (11, 14, 18, 23, 32, 44, 60, 80), 5.0, 3.6, 5.0
# Points between a mark and its word from which on a line leads there, and how much
# nearer the word must be to its own mark than to another to need none.
LEAD, PLAIN, CROSSED = 16.0, 5.0, np.full(2, 1.5)
ROUNDS = 2  # each word is placed again once all others have a place
_ANGLES = np.deg2rad(np.arange(90, 450, 30))  # above first
AROUND = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
DISC = MARK * np.concatenate([0 * AROUND, 0.5 * AROUND, AROUND])
FAR = 0.15  # what a point of distance weighs, beside one point of a line that is hit
LINE = 13.0  # points between two names at the edge
NONE = np.zeros((0, 2))  # no points
GRID = np.array([*itertools.product(np.linspace(-1, 1, 5), repeat=2)])  # of a box


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
    from scipy.optimize import isotonic_regression  # 0.2 s, for names at an edge only

    order = sorted(places, key=lambda name: -places[name])
    steps = step * np.arange(len(order))
    found = isotonic_regression([places[n] for n in order] + steps, increasing=False)
    return dict(zip(order, (found.x - steps).tolist(), strict=True))


def name_marks(
    axes: Axes,
    marks: Sequence[tuple[float, float]],
    words: Sequence[str],
    colors: Sequence[str],
) -> None:
    """A word beside each mark (x, y), in its colour, on the free side of it.

    Scales and limits must be final; what the axes' marks, lines, arrows, intervals,
    texts and legend cover is kept clear. A word that finds no room beside its mark
    stands farther off, at the end of a thin line.
    """
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    dots = axes.figure.dpi / 72
    places = axes.transData.transform(np.array(marks, float).reshape(-1, 2)) / dots
    frame = np.asarray(axes.get_window_extent().get_points()) / dots
    lines = [word.split("\n") for word in words]
    sizes = [(max(map(len, each)), len(each)) for each in lines]
    halves = np.array(sizes) * (DIGIT, HEIGHT)
    fixed = np.concatenate([*_covered(axes), *(place + DISC for place in places)])
    own, leads = [NONE] * len(places), [NONE] * len(places)
    offsets = np.zeros((len(places), 2))
    for n in [*range(len(places))] * ROUNDS:
        taken = np.concatenate([fixed, *own[:n], *own[n + 1 :]])
        others = np.delete(places, n, axis=0)
        offsets[n], leads[n] = _free(places[n], halves[n], taken, others, frame)
        box = places[n] + offsets[n] + halves[n] * GRID
        own[n] = np.concatenate([box, leads[n]])
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL}
    look |= {"path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    look |= {"textcoords": "offset points"}
    thin: dict[str, Any] = {"lw": 0.7, "alpha": 0.7, "scalex": False, "scaley": False}
    for n, (at, word, color) in enumerate(zip(marks, words, colors, strict=True)):
        if len(leads[n]):
            ends = axes.transData.inverted().transform(leads[n][[0, -1]] * dots)
            axes.plot(*ends.T, color=color, **thin)
        axes.annotate(word, at, tuple(offsets[n]), color=color, **look)


def _covered(axes: Axes) -> list[Floats]:
    """What lies on the axes, as points some two apart."""
    found, to_page, dots = [NONE], axes.transData.transform, axes.figure.dpi / 72
    paths, boxes = [], []
    for line in axes.lines:
        places = line.get_transform().transform(line.get_xydata())
        places = places[np.isfinite(places).all(axis=1)]
        if line.get_linestyle() in ("None", ""):
            found += [place / dots + DISC for place in places]
        else:
            paths.append(places)
    for group in axes.collections:
        if isinstance(group, LineCollection):
            paths += [to_page(part) for part in group.get_segments()]
    for text in axes.texts:
        if getattr(text, "arrow_patch", None) is not None:
            paths.append(to_page([text.xy, text.xyann]))  # type: ignore[attr-defined]
        if text.get_text():
            boxes.append(text.get_window_extent())
    if (key := axes.get_legend()) is not None:
        boxes.append(key.get_window_extent())
    for path in paths:
        found += itertools.starmap(
            _segment, itertools.pairwise(np.asarray(path) / dots)
        )
    for low, high in (np.asarray(box.get_points()) / dots for box in boxes):
        counts = 2 + ((high - low) / 4).astype(int)
        each = [np.linspace(*ends) for ends in zip(low, high, counts, strict=True)]
        found.append(np.stack(np.meshgrid(*each), axis=-1).reshape(-1, 2))
    return [points for points in found if np.isfinite(points).all()]


def _lead(place: Floats, off: Floats, half: Floats, others: Floats) -> Floats:
    """A thin line from a mark to its word, as points; none if it is plainly its own."""
    low, high = place + off - half, place + off + half
    end = np.clip(place, low, high)
    far = float(np.hypot(*(end - place)))
    apart = np.hypot(*(np.clip(others, low, high) - others).T)
    if far < LEAD and (apart > far + PLAIN).all():
        return NONE
    return _segment(place + (end - place) * min(MARK / max(far, 1e-9), 1.0), end)


def _segment(first: Floats, last: Floats) -> Floats:
    return np.linspace(first, last, 2 + int(np.hypot(*(last - first)) / 2))


def _free(
    place: Floats, half: Floats, taken: Floats, others: Floats, frame: Floats
) -> tuple[Floats, Floats]:
    """Where a word of this half size covers least, near ones first; the line to it.

    A long word needs its half width to stand clear of its mark sideways.
    """
    wide = np.array([max(half[0] - 2 * DIGIT, 0.0), 0.0])
    reach = DISTANCES[-1] + half + wide + half
    taken = taken[(np.abs(taken - place) < reach).all(axis=1)]
    least, best = np.inf, (np.zeros(2), NONE)
    for far, one in itertools.product(DISTANCES, AROUND):
        center = place + (off := far * one + wide * one)
        out = np.maximum(np.maximum(frame[0] - center, center - frame[1]) + half, 0)
        cost = FAR * float(np.hypot(*off)) + float(out.sum())
        cost += _hits(center, half, taken) if cost < least else 0
        if cost < least:
            lead = _lead(place, off, half, others)
            cost += 3 * sum(_hits(at, CROSSED, taken) > 0 for at in lead[::2])
            if cost < least:
                least, best = cost, (off, lead)
    return best


def _hits(center: Floats, half: Floats, taken: Floats) -> int:
    return int((np.abs(taken - center) <= half + 1).all(axis=1).sum())

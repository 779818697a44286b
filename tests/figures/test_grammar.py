"""The grammar: what is declared once is drawn, told and folded away alike."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rcParams

from fastlab.figures.grammar import Figure, nothing, show
from fastlab.figures.labels import apart
from fastlab.figures.layers import bars, line, points, stacked, tiles
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import (
    COLORS,
    GREY,
    STACKED,
    color_of,
    ink,
    log_norm,
    luminance,
    readable,
)
from fastlab.words import percent
from tests.figures.checks import faults, untold

ROWS = pd.DataFrame({"x": [1, 2, 4], "y": [10.0, 21.0, 39.5], "low": 9.0, "high": 50.0})
X, Y = Axis("batch"), Axis("ms", "log")


def figure(*layers, x=X, y=Y, **more) -> Figure:
    return Figure([Panel(x, y, layers)], "what one should see", **more)


def test_one_declaration_is_drawn_told_and_folded():
    made = figure(points(ROWS, "x", "y", "measured", ends=("low", "high")))
    (axes,) = made.draw().axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 4])
    assert made.tell() == (
        "what one should see. Marks, log scale, ms against batch. "
        "measured: 10.0 at 1, 21.0 at 2, 39.5 at 4."
    )
    assert list(made.table.columns) == ["x", "y", "low", "high", "series"]
    assert faults(made) == []


def test_many_marks_are_told_by_their_range_and_lines_by_their_ends():
    many = pd.concat([ROWS] * 2, ignore_index=True)
    assert "all: 6 marks, 10.0 to 39.5" in figure(points(many, "x", "y", "all")).tell()
    told = figure(line(many, "x", "y", "path")).tell()
    assert "path: 10.0 at 1 to 39.5 at 4" in told


def test_named_lines_stand_in_order_from_the_top_with_their_notes():
    named = pd.DataFrame({"call": ["a", "b"], "ms": [1.0, 2.0]})
    panel = Panel(
        *(Axis("ms"), Axis("", names=["a", "b"]), [points(named, "ms", "call", "x")]),
        notes=[("ratio", ["×1", "×2"])],
    )
    (axes,) = Figure([panel], "title").draw().axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [t.get_text() for t in axes.texts] == ["ratio", "×1", "×2"]
    assert "ms of 2 named lines" in Figure([panel], "title").tell()


def test_stacked_bars_reach_their_sum_and_each_part_is_told():
    table = pd.DataFrame({"n": ["64", "128"], "MLP": [0.7, 0.6], "head": [0.3, 0.4]})
    parts = dict(zip(("MLP", "head"), STACKED, strict=False))
    panel = Panel(
        Axis("tokens", names=["64", "128"]),
        Axis("share", write=percent),
        stacked(table, "n", parts, inside=percent),
    )
    made = Figure([panel], "shares", table)
    tops = {p.get_y() + p.get_height() for p in made.draw().axes[0].patches}
    assert max(tops) == pytest.approx(1.0)
    assert "MLP: 70 % at 64, 60 % at 128" in made.tell()
    assert faults(made) == []


def test_a_tile_is_written_in_a_colour_that_can_be_read():
    cells = pd.DataFrame({"h": [1, 2], "l": [1, 1], "ms": [1.0, 90.0]})
    axes = Axis("hidden", names=["1", "2"]), Axis("layers", names=["1"])
    layer = tiles(cells, "h", "l", "ms", "measured", norm=log_norm(cells["ms"]))
    made = Figure([Panel(*axes, [layer])], "map", cells)
    dark, bright = made.draw().axes[0].texts
    assert (dark.get_color(), bright.get_color()) == ("white", "#000000")
    assert "measured: 1.00 at 1, 1, 90.0 at 2, 1" in made.tell()


def test_a_number_that_is_drawn_and_not_folded_is_found():
    short = ROWS.drop(columns="high")
    layer = points(ROWS, "x", "y", "measured", ends=("low", "high"))
    assert untold(figure(layer, rows=short), layer) == [
        "measured: high [50.0] is not told"
    ]


@given(st.text(max_size=80), st.lists(st.text(min_size=1, max_size=60), max_size=30))
def test_an_alt_text_is_never_long_and_never_empty(title, names):
    layers = [points(ROWS, "x", "y", name) for name in names]
    made = Figure([Panel(X, Y, layers, title)], title)
    assert 0 < len(made.tell()) < 500


@pytest.mark.parametrize("name", ["GPU $x_1$ ^", "50 % & <b>", "a\\b_{c}$"])
def test_a_name_with_signs_of_mathematics_is_drawn_as_it_stands(name):
    made = Figure([Panel(Axis(name), Axis(name), [points(ROWS, "x", "y", name)], name)])
    assert show(made).markup.count("<figure") == 1
    assert name in [
        t.get_text()
        for t in made.draw().axes[0].get_children()
        if hasattr(t, "get_text")
    ] + [made.draw().axes[0].get_title("left")]


def test_drawing_leaves_no_trace():
    before = dict(rcParams)
    show(figure(bars(ROWS.assign(n=[*"abc"]), "n", "y"), x=Axis("", names="abc")))
    assert plt.get_fignums() == []
    assert dict(rcParams) == before


def test_a_figure_of_nothing_says_why():
    assert nothing("nothing measured: 1 oom").tell() == "nothing measured: 1 oom."
    assert faults(nothing("nothing measured: 1 oom")) == []


def test_the_image_is_twice_as_sharp_as_the_page():
    shown = show(figure(points(ROWS, "x", "y"), size=(5.0, 3.0)))
    assert 450 < int(shown.markup.split('width="')[1].split('"')[0]) < 550


def test_text_can_be_read_in_every_colour():
    for color in {*COLORS.values(), GREY, "#bdbdbd"}:
        assert 1.05 / (luminance(readable(color)) + 0.05) >= 4.4
    assert (ink("#fdea45"), ink("#00224e")) == ("#000000", "white")
    assert color_of("fp7") == GREY


@given(
    st.dictionaries(st.integers(), st.floats(0, 1), min_size=1, max_size=12),
    st.floats(0.01, 0.2),
)
def test_names_at_an_edge_stand_apart_and_in_order(places, step):
    placed = apart(places, step)
    order = sorted(places, key=lambda name: -places[name])
    gaps = -np.diff([placed[name] for name in order])
    assert (gaps >= step * (1 - 1e-6)).all()
    alone = [
        n
        for n in places
        if all(abs(places[n] - places[m]) > 12 * step for m in places if m != n)
    ]
    assert all(placed[name] == pytest.approx(places[name]) for name in alone)

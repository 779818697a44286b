"""The first figure, the first explorer, and the index of the series."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

import fastlab as fl
from fastlab.notebook.series import NOTEBOOKS, series
from fastlab.view.explore import first as explore
from tests.figures.made import measurement


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_line_for_every_point_with_its_ratio(rows):
    (axes,) = fl.plots.pairs(rows).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "2 layers x 256, prefill"
    assert len(names) == 16
    assert texts(axes).count("×1.20") == texts(axes).count("÷2.00") == 8
    assert texts(axes)[-1] == "ratio"
    assert axes.get_xlabel() == "milliseconds: hollow = estimated, filled = measured"


def test_hollow_is_estimated_and_filled_is_measured(rows):
    (axes,) = fl.plots.pairs(rows.head(1)).axes
    hollow, filled = [line for line in axes.lines if line.get_marker() == "o"]
    assert hollow.get_xdata()[0] == rows["estimated_ms"][0]
    assert hollow.get_markerfacecolor() == "white"
    assert filled.get_xdata()[0] == rows["measured_ms"][0]


def test_what_has_not_settled_is_marked(changed):
    wild = changed(0, measured=measurement(9.0, n=3))
    (axes,) = fl.plots.pairs(wild).axes
    assert texts(axes)[-1] == "ratio (~ not settled)"
    assert texts(axes)[-2].startswith("~×")


def test_points_without_a_measurement_are_left_out(changed):
    (axes,) = fl.plots.pairs(changed(0, status="oom", measured=None)).axes
    assert len(axes.get_yticklabels()) == 15


def test_the_alt_text_tells_every_pair(rows):
    text = fl.alt.pairs(rows, "measured on a box")
    assert "16 points, 8 of 16 within ×1.25" in text
    assert text.count("×1.20") == text.count("÷2.00") == 8
    assert text.endswith("measured on a box.")


@pytest.fixture
def machines(device):
    here = replace(device, name="box", kind="cpu", bandwidth=1e10).stamped()
    return [here, fl.device("t4"), device]


def test_the_explorer_estimates_every_device(points, machines):
    shown = explore.shown(points[0], machines, 20)
    deep = replace(points[0], shape=replace(points[0].shape, layers=20))
    made = fl.estimate([deep], fl.device("t4"))[0]
    assert f"Tesla T4 (datasheet) {made.seconds * 1e3:.2f} ms" in shown.alt
    assert "box (calibrated)" in shown.alt
    assert "20 layers x 256, prefill, 128 tokens" in shown.alt
    assert "estimated, not calibrated" in shown.markup


def test_one_slider_with_an_axis_that_stays(points, machines):
    slider, picture = fl.explorers.depth(points[0], machines).children
    assert (slider.min, slider.max, slider.value) == (1, 64, 2)
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    for value in (3, 30, 64):
        slider.value = value
    assert len(seen) == 3
    assert "64 layers x 256" in re.search('alt="([^"]+)"', seen[-1])[1]
    low, high = explore.limits(points[0], machines)
    for count in (1, 64):
        made = explore.estimates(points[0], machines, count)
        assert all(low < e.low_s * 1e3 and e.high_s * 1e3 < high for e in made)
    assert plt.get_fignums() == []


TITLE = """# 07 Dream

**Is it <so>?**

9 minutes to read, 2 running. CPU fine / GPU measures live.
"""


def notebook(folder, name, source=TITLE):
    cell = {"cell_type": "markdown", "metadata": {}, "source": source.splitlines(True)}
    (folder / name).write_text(json.dumps({"cells": [cell]}))


def test_the_series_is_read_from_title_cells(tmp_path):
    notebook(tmp_path, "08_later.ipynb", TITLE.replace("07 Dream", "08 Later"))
    notebook(tmp_path, "07_dream.ipynb")
    notebook(tmp_path, "scratch.ipynb", "nothing")
    found = series(tmp_path)
    assert [each.title for each in found.lessons] == ["07 Dream", "08 Later"]
    first = found.lessons[0]
    assert (first.question, first.minutes) == ("Is it <so>?", "9")
    assert first.device == "CPU fine / GPU measures live"
    assert "Is it &lt;so&gt;?" in found._repr_html_()
    assert 'href="07_dream.ipynb"' in found._repr_html_()


def test_a_title_cell_that_lacks_something_is_named(tmp_path):
    notebook(tmp_path, "07_dream.ipynb", "# 07 Dream\n\n9 minutes")
    with pytest.raises(ValueError, match=r"07_dream\.ipynb lacks question, device"):
        series(tmp_path)


def test_every_notebook_of_the_repository_is_in_the_index():
    files = sorted(path.name for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    assert [each.file for each in fl.series().lessons] == files
    assert repr(fl.series()).count("\n") == len(files) - 1

"""The explorer: its figure without the widget, then the widget's traits."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

import fastlab as fl
from fastlab.spec import grid
from fastlab.view.explore import sweep as explore

STATE = {"layers": 4, "precision": "fp32", "phase": "prefill"}


def test_the_curve_is_the_estimate_for_layers_that_nobody_measured(rows, device):
    found = explore.curve(rows, device, **{**STATE, "layers": 20})
    point = grid(family="llama", layers=20, hidden=[256, 320, 512], vocab=512)
    wanted = [e.seconds * 1e3 for e in fl.estimate(point, device)]
    by_hidden = found.set_index("hidden")["ms"]
    np.testing.assert_allclose(by_hidden[[256, 320, 512]], wanted)
    assert list(found["hidden"]) == [256, 320, 384, 448, 512]


def test_the_curve_agrees_with_the_rows_where_there_are_rows(rows, device):
    found = explore.curve(rows, device, **STATE).set_index("hidden")
    stored = explore.curve(rows, None, **STATE).set_index("hidden")
    np.testing.assert_allclose(found.loc[[256, 512]], stored.loc[[256, 512]])


def test_without_a_profile_only_measured_depths_have_a_curve(rows):
    assert explore.curve(rows, None, **{**STATE, "layers": 3}).empty
    figure = explore.figure(rows, None, **{**STATE, "layers": 3})
    assert "estimated only" in figure.axes[0].get_title(loc="left")


def test_a_precision_that_the_device_lacks_has_no_curve(rows, device):
    lacking = replace(device, peak_flops={"bf16": 1e12})
    assert explore.curve(rows, lacking, **STATE).empty


def test_unusual_heads_are_kept_and_nothing_is_put_in_between(device):
    odd = grid(family="llama", layers=2, hidden=[256, 512], heads=2, vocab=512)
    from tests.figures.made import record

    rows = fl.table(record(p, device, 1.0) for p in odd)
    assert list(explore.curve(rows, device, **STATE)["hidden"]) == [256, 512]


def test_measured_marks_appear_only_at_their_depth(rows, device):
    at = explore.figure(rows, device, **STATE).axes[0]
    assert len(at.containers[0].lines[0].get_xdata()) == 2
    between = explore.figure(rows, device, **{**STATE, "layers": 3}).axes[0]
    assert not between.containers


def test_the_axes_stay_while_the_slider_moves(rows, device):
    figures = [explore.figure(rows, device, **{**STATE, "layers": n}) for n in (1, 8)]
    low, high = (f.axes[0].get_ylim() for f in figures)
    assert low == high


def parts(box):
    controls, picture = box.children
    return (*controls.children, picture)


@pytest.fixture
def box(rows, device):
    return fl.explorers.layers_by_hidden(rows, device, "measured on a box")


def test_the_slider_reaches_twice_the_measured_depth(box):
    slider, precision, phase, _ = parts(box)
    assert (slider.min, slider.max, slider.value) == (1, 8, 4)
    assert precision.options == ("fp32", "bf16")
    assert phase.options == ("prefill", "decode")


def test_one_change_is_one_redraw_that_says_its_state(box):
    slider, precision, _, picture = parts(box)
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    slider.value = 7
    precision.value = "bf16"
    assert len(seen) == 2
    alts = [re.search('alt="([^"]+)"', markup)[1] for markup in seen]
    assert "fp32 prefill, 7 layers" in alts[0]
    assert "bf16 prefill, 7 layers" in alts[1]
    assert "measured nothing at this depth" in alts[1]
    assert plt.get_fignums() == []


def test_moving_the_slider_never_measures(box, monkeypatch):
    def refuse(*_):
        raise AssertionError("measured")

    monkeypatch.setattr("fastlab.clock.measure.Bench.measure", refuse)
    monkeypatch.setattr("fastlab.clock.calibrate.calibrate", refuse)
    parts(box)[0].value = 5

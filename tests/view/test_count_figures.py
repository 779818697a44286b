"""Figures and explorer of counts: the numbers that stand in them, and the traits."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest

import fastlab as fl
from fastlab.view.explore import count as explore
from fastlab.view.tables import count as counts


@pytest.fixture(scope="module")
def point():
    return fl.grid(model="llama-3.2-1b", prompt_len=512, precision="bf16")[0]


@pytest.fixture(scope="module")
def tables(point):
    lengths = counts.shares(point, "prompt_len", [512, 32768])
    return lengths, counts.shares(point, "hidden", [256, 2048])


STATE = {"layers": 16, "hidden": 2048, "prompt_len": 512, "batch": 1, "group": 4}
STATE |= {"phase": "prefill"}


def test_the_bars_are_the_shares_and_the_title_says_where_they_meet(tables):
    figure = fl.plots.flop_shares(*tables)
    left, right = figure.axes
    heights = [[bar.get_height() for bar in kind] for kind in left.containers]
    assert [h[0] for h in heights] == pytest.approx(
        tables[0].iloc[0, 1:5].astype(float).tolist()
    )
    # attention 4 n² H = MLP 6 n H F at n = 1.5 F = 12,288
    assert left.get_title(loc="left") == "attention equals the MLP at 12,288 tokens"
    assert right.get_title(loc="left") == "the head: 63% to 21% of the FLOPs"
    assert left.get_xlabel() == "prompt length (tokens)"
    assert [t.get_text() for t in right.get_xticklabels()] == ["256", "2,048"]


def test_every_part_has_a_hatch_or_a_shade_of_its_own(tables):
    left, _ = fl.plots.flop_shares(*tables).axes
    looks = {(c[0].get_facecolor(), c[0].get_hatch()) for c in left.containers}
    assert len(looks) == 4


def test_the_alt_text_tells_the_shares(tables):
    text = fl.alt.flop_shares(*tables)
    assert "at 512 projections 13%, attention 3%, MLP 63%, head 21%" in text
    assert "12,288 tokens" in text


def test_the_bytes_are_stacked_to_their_sum(point):
    table = counts.moved([point])
    (axes,) = fl.plots.bytes_moved(table).axes
    ends = [kind[0].get_x() + kind[0].get_width() for kind in axes.containers]
    assert max(ends) == pytest.approx(table.iloc[0, 3:7].astype(float).sum())
    assert axes.get_xlabel() == "GB moved through memory"
    assert axes.texts[0].get_text() == "  1.3 TFLOP: 217 for each byte"
    assert "217 FLOPs for each byte" in fl.alt.bytes_moved(table)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "all FLOPs same"),
        ({"prompt_len": 1024}, "FLOPs of projections ×2, now 344 GFLOP; FLOPs of att"),
        ({"prompt_len": 1024}, "FLOPs of attention ×4,"),
        ({"hidden": 4096}, "FLOPs of MLP ×4,"),
        ({"hidden": 4096}, "FLOPs of attention ×2,"),
        ({"group": 1}, "KV cache held ×4,"),
        ({"group": 1}, "FLOPs of attention same"),
        ({"layers": 32}, "FLOPs of MLP ×2,"),
        ({"batch": 8}, "weights moved ×1.01"),
        ({"phase": "decode"}, "FLOPs of MLP ÷512,"),
        ({"phase": "decode"}, "weights moved same"),
    ],
)
def test_the_explorer_tells_the_factor_of_each_count(point, change, told):
    assert told in explore.shown(point, **{**STATE, **change}).alt


def test_the_start_is_the_point_itself(point):
    assert explore.numbers(explore.changed(point, **STATE)) == explore.numbers(point)


def test_far_factors_are_arrows_at_the_end_of_the_axis(point):
    decoded = explore.numbers(explore.changed(point, **{**STATE, "phase": "decode"}))
    from fastlab.view.plots.count import factors

    (axes,) = factors(decoded, explore.numbers(point), "decode").axes
    markers = [line.get_marker() for line in axes.lines]
    assert "<" in markers
    assert "÷512" in [text.get_text() for text in axes.texts]


def controls(box):
    first, second, picture = box.children
    return {c.description: c for c in (*first.children, *second.children)}, picture


@pytest.mark.parametrize(
    "model", ["gpt2", "bert", "qwen3-0.6b", "llama-3.1-8b", "tiny-llama", "tiny-gpt2"]
)
def test_every_state_of_the_sliders_draws(model):
    sliders, picture = controls(fl.explorers.counts(fl.grid(model=model)[0]))
    assert set(sliders) == {"layers", "hidden", "prompt", "batch", "Q per KV", "phase"}
    for slider in sliders.values():
        values = getattr(slider, "options", None) or (slider.min, slider.max)
        for value in (values[0], values[-1]):
            slider.value = value
            assert "<figure>" in picture.value
    assert plt.get_fignums() == []


def test_one_change_is_one_redraw(point):
    sliders, picture = controls(fl.explorers.counts(point))
    seen = []
    picture.observe(lambda change: seen.append(change["new"]), names="value")
    for value in (4, 20, 64):
        sliders["layers"].value = value
    assert len(seen) == 3
    assert "64 layers x 2,048" in re.search('alt="([^"]+)"', seen[-1])[1]

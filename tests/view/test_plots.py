"""Figures are tested by the numbers that stand in them."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from fastlab.view import style, tables, words
from fastlab.view.alt import sweep as alt
from fastlab.view.plots import sweep as plots
from tests.figures.made import measurement


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_the_cells_of_the_heatmaps_hold_the_rows_numbers(rows):
    figure = plots.heatmaps(rows, "prefill", "fp32")
    chosen = rows[(rows.phase == "prefill") & (rows.precision == "fp32")]
    assert texts(figure, 0) == [words.digits(v) for v in chosen["measured_ms"]]
    assert texts(figure, 1) == [words.digits(v) for v in chosen["estimated_ms"]]
    assert texts(figure, 2) == ["×1.20"] * 4
    assert texts(plots.heatmaps(rows, "decode", "bf16"), 2) == ["÷2.00"] * 4


def test_both_time_panels_share_one_scale_and_the_ratio_is_centred_at_one(rows):
    measured, estimated, ratio, *_ = plots.heatmaps(rows, "prefill", "fp32").axes
    assert measured.images[0].norm is estimated.images[0].norm
    norm = ratio.images[0].norm
    assert norm(1.0) == pytest.approx(0.5)
    assert norm.vmin * norm.vmax == pytest.approx(1.0)


def test_axes_name_their_units(rows):
    left, *_, bar, _ = plots.heatmaps(rows, "prefill", "fp32").axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("hidden size", "layers")
    assert bar.get_xlabel() == "milliseconds"
    (axes,) = plots.scatter(rows).axes
    assert axes.get_xlabel() == "estimated (ms)"
    assert axes.get_ylabel() == "measured (ms)"


def test_cells_without_a_value_say_why(changed):
    gone = changed(0, status="oom", measured=None)
    assert texts(plots.heatmaps(gone, "prefill", "fp32"), 0)[0] == "oom"
    assert texts(plots.heatmaps(gone.drop(0), "prefill", "fp32"), 1)[0] == "no row"
    refused = changed(0, status="unsupported", measured=None, estimate=None)
    assert texts(plots.heatmaps(refused, "prefill", "fp32"), 2)[0] == "unsupported"


def test_a_precision_that_nothing_ran_in_still_draws(rows):
    refused = rows.assign(status="unsupported")
    names = ["measured_ms", "measured_low_ms", "measured_high_ms", "estimated_ms"]
    refused[[*names, "ratio"]] = None
    assert texts(plots.heatmaps(refused, "prefill", "bf16"), 0) == ["unsupported"] * 4


@pytest.mark.parametrize(("n", "spread"), [(3, 0.02), (50, 0.2)])
def test_an_unsettled_cell_is_marked_and_leaves_the_scale_alone(
    rows, changed, n, spread
):
    wild = changed(0, measured=measurement(9.0, n, spread))
    usual = plots.heatmaps(rows, "prefill", "fp32").axes[0].images[0].norm
    figure = plots.heatmaps(wild, "prefill", "fp32")
    assert texts(figure, 0)[0] == "~9000"
    assert "~ unsettled" in figure.axes[-2].get_xlabel()
    assert figure.axes[0].images[0].norm.vmax == pytest.approx(usual.vmax)


def test_text_on_a_cell_is_black_or_white_by_contrast():
    assert style.ink((1, 1, 0, 1)) == "black"
    assert style.ink((0, 0, 0.4, 1)) == "white"


def test_heatmaps_refuse_what_they_cannot_show(rows):
    with pytest.raises(ValueError, match="no rows for fp16 prefill; there are bf16 de"):
        plots.heatmaps(rows, "prefill", "fp16")
    with pytest.raises(ValueError, match="several rows for 2 layers x 256"):
        plots.heatmaps(pd.concat([rows, rows]), "prefill", "fp32")


def test_the_scatter_draws_every_point_and_says_how_good_they_are(rows):
    (axes,) = plots.scatter(rows).axes
    title = axes.get_title(loc="left")
    # ratios: eight times 1.2, eight times 0.5
    how, found = title.split("\n")
    assert how == "Estimates, no row used"
    assert found == "measured / estimated: median ÷1.18, 8 of 16 within ×1.25"
    drawn = [c.lines[0].get_data(orig=False) for c in axes.containers]
    assert sum(len(x) for x, _ in drawn) == 16
    x, y = drawn[0]
    np.testing.assert_allclose(y.astype(float) / x.astype(float), 1.2)


def test_colour_says_precision_and_marker_says_phase(rows):
    (axes,) = plots.scatter(rows).axes
    series = {c.get_label(): c.lines[0] for c in axes.containers}
    looks = {n: (m.get_color(), m.get_marker()) for n, m in series.items()}
    assert looks == {
        "fp32 prefill": ("#000000", "o"),
        "fp32 decode": ("#000000", "^"),
        "bf16 prefill": ("#0072B2", "o"),
        "bf16 decode": ("#0072B2", "^"),
    }


def test_formats_of_one_colour_have_different_marks(rows):
    alike = ("fp16", "int4-g32", "int4-g64", "int4-g128")
    every = pd.concat([rows, *(rows.assign(precision=name) for name in alike)])
    (axes,) = plots.scatter(every).axes
    fills = {c.get_label(): c.lines[0].get_fillstyle() for c in axes.containers}
    assert fills["bf16 prefill"] == "full"
    assert fills["fp16 prefill"] == "left"
    assert len({fills[f"{name} decode"] for name in alike[1:]}) == 3


def test_the_bars_of_the_scatter_are_the_estimates_interval(rows):
    (axes,) = plots.scatter(rows).axes
    across = axes.containers[0].lines[2][0].get_segments()[0]
    first = rows.iloc[0]
    low, high = first["estimated_low_ms"], first["estimated_high_ms"]
    np.testing.assert_allclose(across[:, 0], [low, high])


def test_a_crowded_scatter_has_smaller_marks_and_no_bars(rows):
    (axes,) = plots.scatter(pd.concat([rows] * 7), "other sizes known").axes
    assert all(not container.lines[2] for container in axes.containers)
    assert {c.lines[0].get_markersize() for c in axes.containers} == {4.5}
    assert axes.get_title(loc="left").startswith("Estimates, other sizes known\n")


def test_a_scatter_of_nothing_says_what_there_is(changed):
    none = changed(0, status="oom", measured=None).head(1)
    (axes,) = plots.scatter(none).axes
    assert axes.get_title(loc="left") == "nothing measured: 1 oom"
    assert alt.scatter(none, "on a box").endswith("ms; nothing measured: 1 oom.")


def test_figures_leave_no_trace(rows):
    before = dict(rcParams)
    plots.heatmaps(rows, "prefill", "fp32")
    plots.scatter(rows)
    assert plt.get_fignums() == []
    assert dict(rcParams) == before


def test_alt_texts_tell_the_numbers(rows):
    chosen = rows[(rows.phase == "prefill") & (rows.precision == "fp32")]
    text = alt.heatmaps(rows, "prefill", "fp32", "measured on a box")
    assert "layers (2 to 4) by hidden size (256 to 512)" in text
    assert words.digits(chosen["measured_ms"].max()) in text
    assert "(×1.20 to ×1.20)" in text
    assert text.endswith("measured on a box.")
    text = alt.scatter(rows, "measured on a box")
    assert "16 points" in text
    assert "8 of 16 within ×1.25; farthest off is llama 2x256 bf16 " in text
    assert "16 points; estimates with no row used." in text
    assert "other sizes known." in alt.scatter(rows, "x", "other sizes known")
    assert "÷2.00. measured on a box." in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (4.567, "4.57"),
        (99.96, "100.0"),
        (1234.5, "1234"),
        (0, "0"),
    ],
)
def test_digits(value, text):
    assert words.digits(value) == text


def test_ratios_read_alike_on_both_sides_of_one():
    assert words.times(1.25) == "×1.25"
    assert words.times(0.8) == "÷1.25"


def test_samples_in_words(rows, changed):
    assert words.samples(rows) == "16 points, medians of 20 samples"
    fewer = changed(0, measured=measurement(1.0, n=7))
    assert words.samples(fewer) == "16 points, medians of 7 to 20 samples"
    assert words.samples(rows.head(0)) == "no point measured"


def test_the_operations_table_adds_up(points, device):
    from fastlab.latency.costs import costs_of

    found = tables.operations(points[0], device)
    flops, *_, launches = costs_of(points[0]).totals
    assert found["GFLOP"].sum() == pytest.approx(flops / 1e9)
    assert found["launches"].sum() == launches
    assert found["share"].sum() == pytest.approx(1)
    assert found["ms"].is_monotonic_decreasing


def test_without_a_device_operations_are_ordered_by_their_flops(points, device):
    lacking = replace(device, peak_flops={"fp16": 1e12})
    for unable in (None, lacking):
        found = tables.operations(points[0], unable)
        assert "ms" not in found
        assert found["GFLOP"].is_monotonic_decreasing
        assert found["share"].sum() == pytest.approx(1)

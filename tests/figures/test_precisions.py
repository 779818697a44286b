"""Speed-ups of precisions: worked numbers, what the figures show, and the explorer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.figures import precisions as made
from fastlab.figures import speedups as fast
from fastlab.figures.labels import LINE
from fastlab.figures.style import GREY
from fastlab.record import Effective, Quality
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.figures.made import one, record, texts
from tests.pins import compare

SMALL = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512, "prompt_len": 64}
NAMES = ["fp32", "bf16", "int8", "int4-g128"]
FACTORS = {"fp32": 1.0, "bf16": 1.0, "int8": 1.5, "int4-g128": 2.0}


def records(device, **lists):
    """Records whose clock says so many times the estimate; int8 lost 0.01 nats."""
    quality = Quality("dense fp32", "", 0.01, 0.875, 0.5)
    stored = Effective("bfloat16", "sdpa", 100, 2_000_000)
    return [
        record(
            *(point, device, FACTORS[point.recipe.precision]),
            effective=stored,
            quality=quality if point.recipe.precision == "int8" else None,
        )
        for point in fl.grid(**SMALL, precision=NAMES, **lists)
    ]


def with_gains(records, device=None, known=(), baseline="bf16"):
    fresh = fl.estimated(fl.table(records), device)
    return fl.over(fl.rows.with_quality(fresh, fl.table(known)), precision=baseline)


@pytest.fixture(scope="module")
def rows(device):
    return with_gains(records(device, phase=["prefill", "decode"]), device)


def floors(points, device, rows=None):
    """What notebook 06 counts of points; with rows its figure beside it."""
    asked = {"asked": points, "device": device, "pd": pd}
    space = run_cells("06_precisions", "floors", **asked)
    if rows is None:
        return pd.DataFrame(space["floors"])
    space = run_cells("06_precisions", "reasons", **space | {"table": rows})
    return space["run"].shown["reasons"]


def test_rows_of_a_product_are_the_tokens_that_a_call_computes(device):
    both = fl.table(records(device, batch=4, phase=["prefill", "decode"]))
    counts = made.calls(both).groupby("phase")["rows"].unique().to_dict()
    assert counts == {"prefill": [256], "decode": [4]}


def test_what_was_not_measured_has_no_speedup_but_a_status(device):
    whole = records(device, phase=["prefill", "decode"])
    absent = replace(whole[0], status="unsupported", measured=None)
    found = with_gains([absent, *whole[1:]], device, baseline="fp32")
    assert one(found, precision="fp32", phase="decode")["measured_gain"] == 1.0
    assert found[found["phase"] == "prefill"]["measured_gain"].isna().all()
    assert "unsupported" in texts(made.trade(found, "fp32"), 0)


def test_formats_that_a_device_lacks_or_that_do_not_divide_have_no_curve(device):
    assert not fl.device("t4").can("fp8")
    assert not fl.device("t4").can("bf16")
    assert device.can("fp8-dynamic")
    (point,) = fl.grid(family="llama", layers=1, hidden=192, vocab=512, phase="decode")
    curves = fast.curves(point, device, ["int4-g64", "int4-g128"], 2)
    assert curves["precision"].unique().tolist() == ["bf16", "int4-g64"]
    with pytest.raises(ValueError, match="no bf16"):
        fast.curves(point, fl.device("t4"), ["int8"], 1)


def test_bytes_alone_and_arithmetic_alone_by_hand(device):
    rates = {"fp32": 1e12, "bf16": 1e12, "int8": 2e12}
    simple = replace(device, peak_flops=rates, bandwidth=1e9, launch_s=0.0)
    points = fl.grid(**SMALL, precision=["bf16", "int8", "int8-dynamic"])
    found = floors(points, simple).set_index("precision")
    gflop, mb = found["GFLOP"], found["MB moved"]
    assert found["memory ms"].tolist() == pytest.approx(mb.tolist())  # MB / (1 GB/s)
    assert found["arithmetic ms"]["bf16"] == pytest.approx(gflop["bf16"])
    assert found["arithmetic ms"]["int8"] == pytest.approx(gflop["bf16"])
    # the layers at twice the rate; attention and the dense head as before
    dynamic = found["arithmetic ms"]["int8-dynamic"]
    assert gflop["bf16"] / 2 < dynamic < gflop["bf16"]
    assert mb["int8"] > mb["bf16"]  # 64 rows: weights are written out in 16 bit first
    steps = fl.grid(**SMALL, precision=["bf16", "int8", "int4-g128"], phase="decode")
    moved = floors(steps, device)["MB moved"].tolist()
    assert moved == sorted(moved, reverse=True)


def test_a_curve_is_a_ratio_of_estimates(device):
    (point,) = fl.grid(**SMALL, phase="decode")
    curves = fast.curves(point, device, ["int8", "bf16"], 64)
    a, b = fl.grid(**SMALL, phase="decode", batch=64, precision=["bf16", "int8"])
    wanted = fl.estimate([a], device)[0].seconds / fl.estimate([b], device)[0].seconds
    gain = one(curves, precision="int8", batch=64)["estimated_gain"]
    assert gain == pytest.approx(wanted)
    batches = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert curves["batch"].tolist() == 2 * batches


def test_the_title_tells_where_a_line_crosses_between_batches(device):
    (point,) = fl.grid(**SMALL, phase="decode")
    lines = fast.curves(point, device, ["int8"], 16)
    lines = lines[lines["batch"].isin([1, 4, 16])]
    # from x2 at batch 4 to /2 at 16, log-log: x1 half way, at 8
    for gains, told in (([2, 2, 0.5], "int8 8"), ([2, 1.5, 1.2], "none that")):
        own = lines.assign(estimated_gain=[1, 1, 1, *gains])
        assert fast.by_batch(own, lines[:0]).title.splitlines()[1].startswith(told)


def test_the_most_bytes_a_second_are_the_line(device):
    """30 MB in 2 ms are 15 GB/s, 40 MB in 5 ms are 8: the first is the line."""
    points = fl.grid(model="tiny-llama", precision=["bf16", "fp32"])
    rows = fl.table([record(point, device, 1.0) for point in points])
    rows = rows.assign(bytes=[30e6, 40e6], measured_ms=[2.0, 5.0])
    figure = made.per_byte(rows)
    assert faults(figure) == []
    assert figure.title.startswith("The most bytes a second: 15.0 GB/s")
    assert list(figure.table["gb_per_s"]) == [15.0, 8.0]
    (line,) = [n for n in figure.draw().axes[0].lines if n.get_linestyle() == "--"]
    assert list(line.get_ydata()) == pytest.approx([2.0, 40 / 15])
    assert made.per_byte(rows.assign(ratio=None)).tell() == "nothing measured: 2 ok."


def test_a_precision_without_a_colour_is_grey(rows):
    new = rows.assign(precision=rows["precision"].replace("int8", "int2"))
    colors = {layer.color for layer in made.trade(new).panels[0].layers}
    assert GREY in colors
    made.trade(new).draw()
    fast.predicted(new).draw()


def places(figure, panel, column):
    """Where the marks of a column lie, in pixels of the page, by precision."""
    axes = figure.draw().axes[panel]
    axes.figure.draw_without_rendering()
    return {
        row["precision"]: axes.transData.transform((row[column], 0))[0]
        for layer in figure.panels[panel].layers
        if layer.x == column
        for _, row in layer.rows.iterrows()
    }


def test_marks_that_differ_by_a_third_are_told_apart(rows, device):
    # as those of notebook 06: 17.5 ms, 12.5 and 7; and autocast far away from all
    ms = {"fp32": 46.3, "bf16": 17.5, "int8": 12.5, "int4-g128": 7.1}
    like = rows.assign(measured_ms=rows["precision"].map(ms))
    points = fl.grid(**SMALL, precision=NAMES, phase="decode")
    figures = (made.trade(like), 1), (floors(points, device, like), 0)
    for figure, panel in figures:
        where = places(figure, panel, "measured_ms")
        gaps = [a - b for a, b in itertools.pairwise(where[name] for name in ms)]
        assert min(gaps) > 10


def test_the_batch_figure_has_lines_marks_and_names_at_their_ends(device):
    (point,) = fl.grid(**SMALL, phase="decode")
    curves = fast.curves(point, device, NAMES, 16)
    rows = with_gains(records(device, phase="decode", batch=[1, 4]), device)
    figure = fast.by_batch(curves, rows)
    assert faults(figure) == []
    (axes,) = figure.draw().axes
    assert sum(len(n.get_xdata()) for n in axes.lines if n.get_marker() == "^") == 6
    ends = {layer.name: layer for layer in figure.panels[0].layers if layer.name}
    assert set(ends) == {"fp32", "bf16", "int8, KL 0.01", "int4-g128"}
    axes.figure.draw_without_rendering()
    for text in axes.texts:
        last = ends[text.get_text()].rows.iloc[-1]
        x, y = axes.transData.transform((last["batch"], last["estimated_gain"]))
        box = text.get_window_extent()
        lines_off = abs(box.y0 + box.y1 - 2 * y) / 2 / (LINE * axes.figure.dpi / 72)
        assert 0 < box.x0 - x < 30
        assert lines_off < len(ends) / 2  # no farther than names of lines in between


def test_predicted_speedups_are_scored_by_their_side_of_one(rows):
    figure = fast.predicted(rows)
    both = rows[rows["precision"] != "bf16"]
    logs = np.log(both["estimated_gain"]) * np.log(both["measured_gain"])
    assert figure.title.startswith(f"{(logs > 0).sum()} of {len(both)} speed-ups on")
    # int8 takes 1.5 times its estimate, int4 twice, fp32 no more: the middle is 1.5
    assert figure.title.endswith("median off by a factor of 1.50")
    assert "int8, KL 0.01 prefill" in [layer.name for layer in figure.panels[0].layers]
    assert faults(figure) == []
    alone = rows[rows["precision"] == "bf16"]
    words = "no precision beside bf16 was measured"
    assert fast.predicted(alone).title == words


def test_every_state_of_the_explorer_draws(device):
    rows = with_gains(records(device, phase="decode", batch=[1, 4]), device)
    model = {name: SMALL[name] for name in ("family", "layers", "hidden", "vocab")}
    given = {"speedups": fast, "model": model, "device": device, "by_batch": rows}
    given |= {"hidden": 256, "prompt_len": 64, "baseline": "bf16"}
    explorer = run_cells("06_precisions", "explorer", **given)["shown"]
    assert set(explorer.options) == {"hidden", "prompt_len", "runtime", "device"}
    assert "Tesla T4" not in explorer.options["device"]  # has no bf16
    assert "(measured)" in explorer.make(**explorer.state).title
    for end in (256, 8192):  # the axis stays, and holds the lines
        figure = explorer.make(**(explorer.state | {"hidden": end}))
        low, high = figure.panels[0].y.limits
        assert figure.table["estimated_gain"].between(low, high).all()


def test_codes_and_scales_by_hand_are_those_of_quantize():
    space = run_cells("06_precisions", "hand-int8", "hand-int4", "hand-check")
    eight, four = space["by_hand"].values()
    assert 0.005 < eight["error by hand"] < 0.01
    assert 0.09 < four["error by hand"] < 0.12


# ---- the rows below notebook 06's figures are those that were pinned

REPLAYED = {"family": "llama", "layers": 6, "hidden": 1024, "vocab": 8192}
STORED = ["fp32", "bf16", "autocast-bf16", "int8", "int8-dynamic", "int4-g128"]
FEW = ["fp32", "bf16", "int8", "int4-g128"]


def replayed(**lists):
    params = {"source": "replay", "prompt_len": 64, **REPLAYED, **lists}
    run = fl.start("06_precisions", **params)
    known = fl.table(run.records())
    fresh = fl.rows.with_quality(fl.estimated(run.rows(), run.profile), known)
    return run, fl.over(fresh, precision="bf16")


@pytest.fixture(scope="module")
def runs():
    return (
        replayed(phase=["prefill", "decode"], precision=STORED),
        replayed(phase="decode", precision=STORED, batch=[1, 4, 16, 64]),
        replayed(phase="decode", precision=FEW, runtime="decoder"),
    )


def test_the_rows_are_those_that_were_pinned(runs):
    (run, rows), (batched, steps), (_, fused) = runs
    given = {"model": REPLAYED, "prompt_len": 64, "precisions": STORED, "table": rows}
    shows = Shows()
    shows.points, shows.profile = run.points, run.profile
    run_cells("06_precisions", "asked", "floors", "reasons", run=shows, **given)
    curves = fast.curves(batched.points[0], batched.profile, STORED, 64)
    batch = fast.by_batch(curves, steps).table
    eager = rows[(rows.phase == "decode") & rows.precision.isin(FEW)]
    found = {
        "05": rows,
        "trade": made.trade(rows).table,
        "reasons": shows.shown["reasons"].table,
        "batch": batch[batch["status"] != "estimated"],  # lines were not told before
        "engines": made.engines(
            fl.rows.merge_runs(eager, fused).assign(speedup=1.0)
        ).table,
        "promised": fast.predicted(fl.rows.merge_runs(rows, steps, fused)).table,
    }
    off = {name: compare(f"06_precisions_{name}", t) for name, t in found.items()}
    assert not any(off.values()), off

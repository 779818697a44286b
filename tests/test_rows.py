"""The table's verbs: rows in, rows out, with numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlab as fl
from fastlab import reading
from fastlab import rows as verbs
from fastlab.clock.calibrate import marked_busy
from fastlab.record import Quality
from fastlab.rows import settled
from fastlab.spec import grid
from fastlab.spec.grids import flat
from tests.figures.made import measurement

SIZES = {"family": "llama", "hidden": 256, "vocab": 512}
QUALITY = Quality("dense fp32", "0" * 64, 0.01, 0.9, 0.5)


@given(
    st.fixed_dictionaries(
        {
            "layers": st.integers(1, 4),
            "precision": st.sampled_from(["fp32", "bf16", "int8", "int4-g32"]),
            "phase": st.sampled_from(["prefill", "decode", "generate"]),
            "prune_layers": st.sampled_from([0, 0.5]),
            "sparse_ratio": st.sampled_from([0, 0.5]),
        }
    )
)
@settings(max_examples=40)
def test_rows_know_their_points(fields):
    """point -> row -> point is the identity, also through a table that lacks some."""
    try:
        point = grid(**SIZES, **fields)[0]
    except ValueError:  # no such combination
        return
    table = pd.DataFrame([flat(point), {"layers": np.nan}])
    assert verbs.points_of(table.head(1)) == [point]


def test_only_takes_rows_in_the_order_of_points(points, rows):
    wanted = [points[5], points[2]]
    assert verbs.points_of(fl.rows.only(rows, wanted)) == wanted
    assert fl.rows.only(rows, []).empty


def test_a_point_without_a_row_says_so_and_is_estimated(points, rows, device):
    found = verbs.with_missing(rows.drop(3), points, device.name, device)
    assert list(found["status"]).count("missing") == 1
    assert found["estimated_ms"][3] == pytest.approx(rows["estimated_ms"][3])
    assert np.isnan(found["measured_ms"][3])


def test_estimates_made_afresh_are_of_one_device(rows, points):
    t4 = fl.device("t4")
    found = fl.estimated(rows, t4)
    able = [p for p in points if t4.can(p.recipe.precision)]
    wanted = {
        p: e.seconds * 1e3 for p, e in zip(able, fl.estimate(able, t4), strict=True)
    }
    for point, ms in zip(points, found["estimated_ms"], strict=True):
        assert ms == pytest.approx(wanted[point]) if point in wanted else ms != ms
    known = found[found["estimated_ms"].notna()]
    ratio = known["measured_ms"] / known["estimated_ms"].astype(float)
    np.testing.assert_allclose(known["ratio"].astype(float), ratio)


def test_rates_of_a_busy_machine_are_told_with_each_estimate(rows, device):
    busy = marked_busy(device, "other programs took 1.2 cores")
    found = fl.estimated(rows, busy)
    assert set(found["rates"]) == {"busy machine"} == set(reading.short(found)["rates"])
    assert "rates" not in reading.short(fl.estimated(found, device))


def test_a_speed_up_is_the_baselines_time_over_a_rows_own(rows):
    """fp32 takes 1.2 and bf16 0.5 times its estimate: gains differ by 2.4."""
    found = fl.over(rows, precision="fp32")
    assert set(found[found.precision == "fp32"]["measured_gain"]) == {1.0}
    half = found[found.precision == "bf16"]
    np.testing.assert_allclose(half["measured_gain"] / half["estimated_gain"], 2.4)


def test_a_row_without_its_baseline_has_no_speed_up(rows):
    found = fl.over(rows[rows.precision == "bf16"], precision="fp32")
    assert found["measured_gain"].isna().all()


def test_any_columns_can_name_a_baseline(rows):
    found = fl.over(rows, same=["hidden", "precision", "phase"], layers=2)
    deep = found[found.layers == 4]
    assert (deep["measured_gain"] < 1).all()
    assert set(found[found.layers == 2]["measured_gain"]) == {1.0}


def test_quality_goes_by_model_and_not_by_call(points, device, records):
    judged = replace(records[2], quality=QUALITY)  # bf16, layers 2, hidden 256
    found = fl.rows.with_quality(fl.table(records), fl.table([judged]))
    same = (found.precision == "bf16") & (found.layers == 2) & (found.hidden == 256)
    assert set(found[same]["kl_nats"]) == {0.01}
    assert set(found[found.precision == "fp32"]["kl_nats"]) == {0.0}
    assert found[~same & (found.precision == "bf16")]["kl_nats"].isna().all()
    cut = fl.table(records).assign(prune_layers=0.5)  # in fp32 too it may lose
    assert fl.rows.with_quality(cut)["kl_nats"].isna().all()
    packed = fl.table([judged]).assign(cache="static-int8")  # loses more: another one
    assert fl.rows.with_quality(fl.table(records), packed)[same]["kl_nats"].isna().all()


@pytest.mark.parametrize(
    ("n", "spread", "sure"), [(20, 0.02, True), (4, 0.02, False), (20, 0.3, False)]
)
def test_settled_means_known_to_a_quarter_from_five_samples(changed, n, spread, sure):
    table = changed(0, measured=measurement(1.0, n, spread))
    assert bool(settled(table)[0]) is sure


def test_short_rows_keep_what_tells_them_apart(rows):
    more = pd.concat([rows, rows.assign(batch=4)], ignore_index=True)
    assert "batch" in fl.short(more)
    assert "batch" not in fl.short(rows)


def test_merged_runs_have_each_point_once(rows):
    assert len(fl.rows.merge_runs(rows.head(5), rows)) == len(rows)


def test_samples_in_words(rows, changed):
    assert reading.sample_counts(rows) == "16 points, medians of 20 samples"
    fewer = changed(0, measured=measurement(1.0, n=7))
    assert reading.sample_counts(fewer) == "16 points, medians of 7 to 20 samples"
    assert reading.sample_counts(rows.head(0)) == "no point measured"
    assert fl.reading.sample_summary(rows) == (
        "n 20 to 20, 95 % intervals ±2.0 % in the median, ±2.0 % at most"
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ratio", 0.84, "÷1.19"),
        ("measured_gain", 2.0, "×2.00"),
        ("top1", 0.211, "21 %"),
        ("prune_layers", 0.0, "0 %"),
        ("n", 12.0, "12"),
        ("measured_ms", 1234.5, "1,234"),
        ("measured_ms", 0.01234, "0.0123"),
        ("reason", None, ""),
        ("kl_nats", float("nan"), ""),
        ("name", "<b>", "<b>"),
    ],
)
def test_a_kind_of_number_is_written_one_way(name, value, text):
    assert reading.written(name, value) == text


def test_a_styled_table_is_escaped():
    table = pd.DataFrame({"<i>": ["<b>bold</b>"], "ratio": [0.5]})
    html = fl.styled(table, caption="<script>").to_html()
    assert "<b>bold" not in html and "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<script>" not in html and "<i>" not in html
    assert "÷2.00" in html

"""The article's case: its points, the numbers of each step, what is told of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import fastlab as fl
from fastlab.record import Quality
from fastlab.view.tables import case, claims, topics
from tests.figures.made import measurement, record

MS = {"dense": 1000.0, "pruned": 250.0, "16 bit": 100.0, "compiled": 50.0}
MS |= {"last logits": 10.0, "8 bit": 5.0}
LOST = Quality("dense fp32", "0" * 64, 0.26, 0.012, 9.0)
TEXT = Quality("dense fp32", "1" * 64, 0.1, 0.9, 9.0, 1.47, 1.4, 1.55, 1.47)


@pytest.fixture(scope="module")
def paths():
    return fl.tables.case_points()


def taken(steps, device, quality=LOST, **over):
    """A record for each step, measured at MS; quality for all but the first."""
    made = []
    for n, (name, point) in enumerate(steps.items()):
        one = replace(record(point, device, 1.0), measured=measurement(MS[name] / 1e3))
        made.append(replace(one, quality=quality if n else over.get("first")))
    return made


@pytest.fixture(scope="module")
def tables(paths):
    device = fl.device("h200")
    return {
        phase: fl.tables.case_of(steps, taken(steps, device), device)
        for phase, steps in paths.items()
    }


def test_the_path_is_the_articles_own(paths):
    assert list(paths["prefill"]) == [
        *("dense", "pruned", "16 bit", "compiled", "last logits")
    ]
    assert list(paths["decode"]) == ["dense", "pruned", "16 bit", "compiled", "8 bit"]
    built = [(p.built_shape.layers, p.built_shape.hidden) for p in _all(paths)]
    assert set(built[1:5]) == {(3, 512)}
    assert built[0] == (12, 768)
    assert {p.built_shape.ffn for p in paths["prefill"].values()} == {3072, 2048}
    work = [p.workload for p in paths["prefill"].values()]
    assert {w.prompt_len for w in work} == {1024}
    assert [w.logits for w in work] == ["all"] * 4 + ["last"]
    assert {p.workload.positions for p in paths["decode"].values()} == {1024}


def _all(paths):
    return [point for steps in paths.values() for point in steps.values()]


def test_steps_that_change_nothing_are_left_out():
    found = fl.tables.case_points(4, 192, 16, ["fp32"], compiled=False)
    assert list(found["prefill"]) == ["dense", "pruned", "last logits"]
    assert list(found["decode"]) == ["dense", "pruned"]


def test_a_longer_prompt_than_gpt2_has_positions_for_gets_them():
    point = fl.tables.case_points(prompt_len=2000)["prefill"]["dense"]
    assert point.shape.max_positions == 2000


def test_what_the_article_prints_and_what_its_formula_gives(tables):
    table = tables["prefill"].set_index("step")
    printed = [1, 2.5e9 / 1.5e9, 2.5e9 / 1.875e7, 2.5e9 / 1.75e7]
    assert list(table["printed_gain"][:4]) == pytest.approx(printed)
    assert math.isnan(table["printed_gain"].iloc[4])
    worked = [1, 9, 72, 72 * 1.875 / 1.75, 72 * 1.875 / 1.75]
    assert list(table["formula_gain"]) == pytest.approx(worked)


def test_flops_are_those_of_the_corrected_formula(tables):
    counted = tables["prefill"]["counted"]
    assert counted[0] == fl.article_corrected(1024, 12, 768, 50257)
    assert counted[1] == counted[3] == fl.article_corrected(1024, 3, 512, 50257)
    head = 2 * 1024 * 512 * 50257
    assert counted[4] == counted[3] - head + head // 1024


def test_of_other_sizes_nothing_is_printed_and_of_decoding_nothing_claimed(tables):
    other = fl.tables.case_points(8, 512, 256)["prefill"]
    table = fl.tables.case_of(other, [], fl.device("h200"))
    assert table["printed_gain"].isna().all()
    assert table["formula_gain"].notna().all()
    decode = tables["decode"]
    assert decode[["printed_gain", "formula_gain"]].isna().all(axis=None)


def test_times_and_their_ratios(tables):
    table = tables["prefill"]
    assert list(table["measured_gain"]) == pytest.approx([1, 4, 10, 20, 100])
    whole = table["estimated_ms"].iloc[0] / table["estimated_ms"]
    assert list(table["estimated_gain"]) == pytest.approx(list(whole))
    assert table["kl_nats"].isna().tolist() == [True] + [False] * 4


def test_each_steps_own_factor(tables):
    found = fl.tables.case_factors(tables["prefill"], tables["decode"])
    assert len(found) == 10
    assert found["measured"][5] == ""
    found = found[:5]
    assert list(found["measured"]) == ["", "×4.00", "×2.50", "×2.00", "×5.00"]
    assert list(found["formula"][:4]) == ["", "×9.00", "×8.00", "×1.07"]
    assert list(found["KL, nats"]) == ["", "0.26", "0.26", "0.26", "0.26"]


def test_a_step_without_a_row_says_so_and_keeps_its_estimate(paths):
    device, steps = fl.device("h200"), paths["prefill"]
    table = fl.tables.case_of(steps, taken(steps, device)[1:], device)
    assert list(table["status"]) == ["no row", "ok", "ok", "ok", "ok"]
    assert table["estimated_ms"].notna().all()
    assert table["measured_gain"].isna().all()  # nothing to compare with
    drawn = fl.plots.staircase({"one": table})
    said = [t.get_text() for t in drawn.axes[0].texts]
    assert "no row" in said
    assert "250 ms" in said


def test_without_a_profile_the_records_own_estimates_are_kept(paths):
    device, steps = fl.device("h200"), paths["prefill"]
    records = taken(steps, device)
    own = [1e3 * r.estimate.seconds for r in records]
    assert list(fl.tables.case_of(steps, records)["estimated_ms"]) == own


def test_the_bottom_line(tables):
    prefill = tables["prefill"]
    ends = {"its path": fl.tables.without_last(prefill), "last": prefill}
    lines = fl.tables.bottom_line(ends | {"decode": tables["decode"]})
    found = {(r["path"], r["by"]): r["gain"] for _, r in lines.iterrows()}
    assert found["the article", claims.CLAIM] == 2000
    assert found["its path", "the article's numbers"] == pytest.approx(1000 / 7)
    assert found["its path", "time, measured"] == pytest.approx(20)
    assert found["last", "time, measured"] == pytest.approx(100)
    assert ("last", "the article's numbers") not in found
    assert found["decode", "FLOPs, counted"] == pytest.approx(
        tables["decode"]["counted_gain"].iloc[-1]
    )
    share = lines[lines["by"] == "time, measured"]["of thousands"]
    assert list(share)[:2] == ["1 %", "5 %"]


def test_intervals_of_the_total_hold_the_total(tables):
    lines = fl.tables.bottom_line({"a": tables["prefill"]})
    known = lines[lines["low"].notna()]
    assert list(known["by"]) == ["time, estimated", "time, measured"]
    assert (known["low"] <= known["gain"]).all()
    assert (known["gain"] <= known["high"]).all()


def test_the_staircase_and_its_alt_text(tables):
    both = {"reading": tables["prefill"], "writing": tables["decode"]}
    figure = fl.plots.staircase(both)
    assert len(figure.axes) == 4
    said = [t.get_text() for t in figure.axes[0].texts]
    assert "the article prints ×143" in said
    assert "×100\n10.0 ms" in said
    assert "random weights" in figure.axes[2].get_title(loc="left")
    words = fl.alt.staircase(both, "caption")
    assert "pruned 3 x 512, article ×1.67, its formula ×9.00, FLOPs ×3.72" in words
    assert "KL 0.26 of random logits" in words


def test_a_text_is_judged_in_bits_per_byte(paths):
    device, steps = fl.device("h200"), paths["prefill"]
    worse = replace(TEXT, bits_per_byte=2.94, low=2.8, high=3.1)
    table = fl.tables.case_of(steps, taken(steps, device, worse, first=TEXT), device)
    said = [t.get_text() for t in fl.plots.staircase({"a": table}).axes[1].texts]
    assert said == ["1.47", *["2.94\n+100.0%"] * 4]
    found = fl.tables.case_factors(table)
    assert list(found["bits per byte"]) == ["1.47", *["2.94"] * 4]
    assert "2.94 bits per byte" in fl.alt.staircase({"a": table}, "b")


def test_nothing_to_show_is_said():
    table = fl.tables.case_of({}, [])
    figure = fl.plots.staircase({"the live model": table})
    assert "the live model: nothing was run" in figure.axes[0].get_title()
    assert "nothing was run" in fl.alt.staircase({"the live model": table}, "c")
    assert len(fl.tables.bottom_line({"a": table})) == 1
    assert len(fl.tables.case_factors(table)) == 0
    assert fl.tables.spread(table) == "nothing measured"


def test_claims_tell_measured_from_not(tables):
    lines = fl.tables.bottom_line({"a": tables["prefill"]})
    axes = fl.plots.claims(lines).axes[0]
    assert len(axes.patches) == len(lines) == 6
    said = [t.get_text() for t in axes.texts]
    assert "at least ×2,000" in said
    assert "×100 = 5 % of the claim" in said
    assert "time, measured ×100" in fl.alt.claims(lines, "c")


def test_targets_by_device(paths):
    devices = [fl.device("h200"), fl.device("t4")]
    table = fl.tables.steps_on(paths["prefill"], devices)
    assert len(table) == 10
    assert set(table["basis"]) == {"estimated, not calibrated"}
    t4 = table[table["device"] == "Tesla T4"]
    assert list(t4["precision"]) == ["fp32", "fp32", "fp16", "fp16", "fp16"]
    ms = t4["ms"].tolist()
    assert fl.tables.first_under(t4, ms[1]) == {"Tesla T4": "pruned"}
    assert fl.tables.first_under(t4, 1e-9) == {"Tesla T4": ""}
    drawn = fl.plots.targets(table, ms[1], "title")
    assert "Tesla T4 pruned" in fl.alt.targets(table, ms[1], "title")
    assert len(drawn.axes[0].patches) == 10


def test_a_datasheet_is_taken_at_typical_efficiencies(paths):
    device, dense = fl.device("h200"), {"dense": paths["prefill"]["dense"]}
    (found,) = fl.tables.steps_on(dense, [device])["ms"]
    best = fl.estimate(list(dense.values()), device)[0].seconds * 1e3
    assert 1.05 < found / best < 1 / 0.7 + 0.01


def test_what_a_device_cannot_run_is_a_dash(paths):
    eight = fl.grid(family="llama", layers=1, hidden=64, precision="fp8")
    table = fl.tables.steps_on({"fp8": eight[0]}, [fl.device("t4")])
    assert table["ms"].isna().all()
    said = [t.get_text() for t in fl.plots.targets(table, 1, "t").axes[0].texts]
    assert "–" in said


def test_the_22_things_are_all_told_and_their_notebooks_exist():
    table = fl.tables.article_topics()
    assert list(table["no."]) == list(range(1, 23))
    told = [where for where in table["notebook"] if where not in ("all", topics.OPEN)]
    parts = {p for where in told for p in where.replace(" to ", ", ").split(", ")}
    assert parts <= {f"{n:02}" for n in range(11)}


def test_optimised_covers_what_comes_after_16_bit():
    assert pytest.approx(1.0714, rel=1e-4) == case.OPTIMISED_CLAIM

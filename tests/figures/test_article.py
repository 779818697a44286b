"""The article's case: its points, the numbers of each step, what is told of them."""

from __future__ import annotations

import math
import pathlib
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

import fastlab as fl
from fastlab.cost.article import article_corrected
from fastlab.figures import article
from fastlab.record import Quality
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.figures.made import measurement, record, texts
from tests.pins import compare

MS = {"dense": 1000.0, "pruned": 250.0, "16 bit": 100.0, "compiled": 50.0}
MS |= {"last logits": 10.0, "8 bit": 5.0}
LOST = Quality("dense fp32", "0" * 64, 0.26, 0.012, 9.0)
TEXT = Quality("dense fp32", "1" * 64, 0.1, 0.9, 9.0, 1.47, 1.4, 1.55, 1.47)


def case_points(
    layers=12, hidden=768, prompt_len=1024, formats=("bf16", "int8"), **more
):
    """phase -> step -> point, as the notebook's cells make them."""
    names = {"layers": layers, "hidden": hidden, "prompt_len": prompt_len}
    names |= {"formats": list(formats), "compiled": "large"} | more
    return run_cells("10", "case", "paths", **names)["paths"]


def case_rows(records, paths, layers=12, hidden=768, prompt_len=1024):
    """Rows of steps, as the notebook's cell makes them of a run's."""
    names = {"layers": layers, "hidden": hidden, "prompt_len": prompt_len}
    names |= {"case": article, "run": SimpleNamespace(rows=lambda: fl.table(records))}
    names["run"].profile = None
    names["named"] = {p: step for own in paths.values() for step, p in own.items()}
    return run_cells("10", "by-hand", "rows", **names | {"reading": READING})["steps"]


READING = ("dense", "pruned", "16 bit", "compiled", "last logits")


@pytest.fixture(scope="module")
def paths():
    return case_points()


def measured(steps, quality=LOST, first=None):
    """A record for each step, measured at MS; quality for all but the first."""
    return [
        replace(
            record(point, fl.device("h200"), 1.0),
            measured=measurement(MS[name] / 1e3),
            quality=quality if n else first,
        )
        for n, (name, point) in enumerate(steps.items())
    ]


@pytest.fixture(scope="module")
def rows(paths):
    records = [record for steps in paths.values() for record in measured(steps)]
    return case_rows(records, paths)


@pytest.fixture(scope="module")
def judged(paths):
    worse = replace(TEXT, bits_per_byte=2.94, low=2.8, high=3.1)
    records = measured(paths["prefill"], worse, TEXT)
    return case_rows(records, {"prefill": paths["prefill"]})


def prefill(rows):
    return rows[rows["phase"] == "prefill"].reset_index(drop=True)


def factors(rows):
    """What the notebook's cell makes of the steps' rows."""
    return run_cells("10", "factors", fl=fl, case=article, steps=rows)["factors"]


def bottom_line(paths, run):
    """The notebook's lines of a prefill, a decode and a live path; run shows them."""
    names = dict(zip(("prefill", "decode", "alive"), paths, strict=True))
    names |= {"fl": fl, "pd": pd, "case": article, "sources": list(article.SOURCES)}
    bench = SimpleNamespace(name="h200")
    return run_cells("10", "bottom", **names, run=run, bench=bench)["lines"]


def test_the_path_is_the_articles_own(paths):
    assert list(paths["prefill"]) == list(READING)
    assert list(paths["decode"]) == ["dense", "pruned", "16 bit", "compiled", "8 bit"]
    every = [point for steps in paths.values() for point in steps.values()]
    built = [(p.built_shape.layers, p.built_shape.hidden) for p in every]
    assert built == [(12, 768), *[(3, 512)] * 4] * 2
    assert {p.built_shape.ffn for p in paths["prefill"].values()} == {3072, 2048}
    work = [p.workload for p in paths["prefill"].values()]
    assert {w.prompt_len for w in work} == {1024}
    assert [w.logits for w in work] == ["all"] * 4 + ["last"]
    assert {p.workload.positions for p in paths["decode"].values()} == {1024}


def test_steps_that_change_nothing_are_left_out():
    found = case_points(4, 192, 16, ["fp32"], compiled="none")
    assert list(found["prefill"]) == ["dense", "pruned", "last logits"]
    assert list(found["decode"]) == ["dense", "pruned"]


def test_what_the_article_prints_and_what_its_formula_gives(rows):
    table = prefill(rows)
    printed = [1, 2.5e9 / 1.5e9, 2.5e9 / 1.875e7, 2.5e9 / 1.75e7]
    assert list(table["printed_gain"][:4]) == pytest.approx(printed)
    assert math.isnan(table["printed_gain"].iloc[4])
    worked = [1, 9, 72, 72 * 1.875 / 1.75, 72 * 1.875 / 1.75]
    assert list(table["formula_gain"]) == pytest.approx(worked)


def test_flops_are_those_of_the_corrected_formula(rows):
    counted = prefill(rows)["flops"]
    assert counted[0] == article_corrected(1024, 12, 768, 50257)
    assert counted[1] == counted[3] == article_corrected(1024, 3, 512, 50257)
    head = 2 * 1024 * 512 * 50257
    assert counted[4] == counted[3] - head + head // 1024


def test_of_other_sizes_nothing_is_printed_and_of_decoding_nothing_claimed(rows):
    steps = {"prefill": case_points(8, 512, 256)["prefill"]}
    table = case_rows(measured(steps["prefill"]), steps, 8, 512, 256)
    assert table["printed_gain"].isna().all()
    assert table["formula_gain"].notna().all()
    decode = rows[rows["phase"] == "decode"]
    assert decode[["printed_gain", "formula_gain"]].isna().all(axis=None)


def test_times_their_ratios_and_intervals(rows):
    table = prefill(rows)
    assert list(table["measured_gain"]) == pytest.approx([1, 4, 10, 20, 100])
    whole = table["estimated_ms"].iloc[0] / table["estimated_ms"]
    assert list(table["estimated_gain"]) == pytest.approx(list(whole))
    assert list(table["measured_gain_high"]) == pytest.approx(
        list(1000 / table["measured_low_ms"])
    )


def test_each_steps_own_factor(rows):
    found = factors(rows)
    assert len(found) == 10
    assert found["measured"][5] == ""
    found = found[:5]
    assert list(found["measured"]) == ["", "×4.00", "×2.50", "×2.00", "×5.00"]
    assert list(found["formula"][:4]) == ["", "×9.00", "×8.00", "×1.07"]
    assert list(found["KL, nats"][1:]) == [0.26] * 4


def test_a_step_without_a_row_says_so_and_keeps_its_estimate(paths, monkeypatch):
    steps = {"prefill": paths["prefill"]}
    points, device = list(steps["prefill"].values()), fl.device("h200")
    stored = fl.table(measured(steps["prefill"])[1:])
    whole = fl.rows.with_missing(stored, points, device.name, device)
    monkeypatch.setattr(fl, "table", lambda _: whole)
    table = case_rows([], steps)
    assert list(table["status"]) == ["missing", "ok", "ok", "ok", "ok"]
    assert table["estimated_ms"].notna().all()
    assert table["measured_gain"].isna().all()  # nothing to compare with
    figure = article.staircase(table)
    assert faults(figure) == []
    assert {"missing", "250"} <= {*texts(figure)}


def test_the_bottom_line(rows):
    table, decode = prefill(rows), rows[rows["phase"] == "decode"]
    shelf = Shows()
    lines = bottom_line([table, decode, table[:2]], shelf)
    found = {(r["path"], r["by"]): r["gain"] for _, r in lines.iterrows()}
    assert found["the article", '"thousands"'] == 2000
    assert found["its path", "the article's numbers"] == pytest.approx(1000 / 7)
    assert found["its path", "time, measured"] == pytest.approx(20)
    assert found["and last logits", "time, measured"] == pytest.approx(100)
    assert ("and last logits", "the article's numbers") not in found
    assert found["a token more", "FLOPs, counted"] == decode["flops_gain"].iloc[-1]
    told = shelf.shown["claims"].table
    share = told[told["by"] == "time, measured"]["of thousands"]
    assert list(share)[:2] == ["1.0 %", "5.0 %"]
    known = lines[lines["low"].notna()]
    assert {*known["by"]} == {"time, estimated", "time, measured"}
    assert known["gain"].between(known["low"], known["high"]).all()


def test_a_text_is_judged_in_bits_per_byte(judged):
    figure = article.staircase(judged, "Trained")
    assert faults(figure) == []
    assert "for +100 % bits per byte" in figure.title
    told = [text for text in texts(figure) if "%" in text]
    assert told == ["2.94  +100 %"] * 4


def test_nothing_to_show_is_said():
    table = case_rows([], {"prefill": {}})
    figure = article.staircase(table, "the live model")
    assert "the live model: nothing was run" in figure.tell()
    shelf = Shows()
    assert len(bottom_line([table] * 3, shelf)) == 1
    assert shelf.shown["claims"].title == "Nothing is measured"
    assert len(factors(table)) == 0


def test_the_stored_rows_give_the_pinned_numbers(paths):
    points = [point for steps in paths.values() for point in steps.values()]
    names = {"case": article, "layers": 12, "hidden": 768, "prompt_len": 1024}
    names["named"] = {p: step for own in paths.values() for step, p in own.items()}
    names["run"] = fl.start("10_the_article_case", "replay", points)
    names["reading"] = READING
    rows = run_cells("10", "by-hand", "rows", **names)["steps"]
    reads = prefill(article.staircase(rows).table)  # its rows had no decode steps
    assert compare("10_the_article_case_staircase", reads) == []
    assert compare("10_the_article_case_07", factors(rows)) == []
    assert compare("10_the_article_case_12", topics()) == []


def topics():
    names = {"data": pathlib.Path(fl.__file__).parents[1] / "data", "pd": pd}
    return run_cells("10", "settled", **names)["topics"]


def test_targets_by_device(paths):
    devices = [fl.device("h200"), fl.device("t4")]
    table = article.steps_on(paths["prefill"], devices)
    assert len(table) == 10
    assert set(table["basis"]) == {"prior"}
    t4 = table[table["device"] == "Tesla T4"]
    assert list(t4["precision"]) == ["fp32", "fp32", "fp16", "fp16", "fp16"]
    ms = t4["estimated_ms"].tolist()
    for most, first in ((ms[1], "1 at “pruned”"), (1e-9, "1 at no step")):
        alone = article.targets(paths, devices[1:], most, "prefill", 1024)
        assert f"Of 1 devices: {first}" in alone.title
    figure = article.targets(paths, [*devices, None], ms[1], "prefill", 1024)
    assert faults(figure) == []
    assert "1 at “dense”, 1 at “pruned”" in figure.tell()


def test_a_datasheet_is_taken_at_typical_efficiencies(paths):
    device, dense = fl.device("h200").sheet, {"dense": paths["prefill"]["dense"]}
    row = article.steps_on(dense, [device]).iloc[0]
    best = fl.estimate(list(dense.values()), device)[0].seconds * 1e3
    assert 1.05 < row["estimated_ms"] / best < 1 / 0.7 + 0.01
    assert row["basis"] == "estimated, not calibrated"


def test_what_a_device_cannot_run_is_a_dash():
    eight = fl.grid(family="llama", layers=1, hidden=64, precision="fp8")
    table = article.steps_on({"fp8": eight[0]}, [fl.device("t4")])
    assert table["estimated_ms"].isna().all()
    figure = article.targets(
        {"prefill": {"fp8": eight[0]}}, [fl.device("t4")], 1, "prefill", 128
    )
    assert "–" in texts(figure)
    assert "1 at no step" in figure.tell()


def test_the_22_things_are_all_told_and_their_notebooks_exist():
    table = topics()
    assert list(table["no."]) == list(range(1, 23))
    told = [where for where in table["notebook"] if where not in ("all", "open")]
    parts = {p for where in told for p in where.replace(" to ", ", ").split(", ")}
    assert parts <= {f"{n:02}" for n in range(13)}

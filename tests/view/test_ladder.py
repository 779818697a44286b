"""The ladder: its points, worked rows, what the figure and its alt text say."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fastlab as fl
from fastlab.record import Quality
from fastlab.view.plots import ladder as plots
from fastlab.view.tables import ladder
from tests.figures.made import measurement, record

ROOT = Path(__file__).parents[2]
SMALL = {"family": "llama", "layers": 1, "hidden": 64, "vocab": 512, "kv_heads": 1}
NAMES = ["dynamic", "static", "our decoder", "our graph"]
QUALITY = Quality("fp32", "0" * 64, 0.002, 0.9, 0.1)


def benchmark():
    path = ROOT / "benchmarks" / "decode_ladder.py"
    spec = importlib.util.spec_from_file_location("decode_ladder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def points():
    return fl.tables.ladder_points(SMALL, ["bf16", "fp32", "int4-g64"], NAMES)


@pytest.fixture(scope="module")
def rows(points):
    """10 ms eager, 5 static and ours, 2.5 in int4; graphs refused."""
    device = fl.device("h200")
    ms = {"dynamic": 10, "static": 5, "our decoder": 5}
    made = []
    for point in points:
        one, rung = record(point, device, 1.0), ladder.rung_of(point)
        if rung == "our graph":
            over = {"status": "unsupported", "reason": "runtime graph needs X: so"}
            made.append(replace(one, measured=None, estimate=None, **over))
            continue
        share = 0.5 if point.recipe.precision == "int4-g64" else 1.0
        taken = replace(measurement(ms[rung] * share / 1e3), compile_s=7.0)
        made.append(replace(one, measured=taken, quality=QUALITY))
    return ladder.rungs_of(made)


def test_the_notebook_and_the_benchmark_climb_the_same_rungs():
    here = fl.tables.ladder_points("24x896", ["bf16", "fp32", "int8", "int4-g64"])
    assert set(here) == set(benchmark().points("cpu").values())
    assert len(set(here)) == len(here) == 19


@pytest.mark.parametrize("name", ladder.RUNGS)
def test_each_rung_is_known_by_its_point(name):
    (point,) = fl.tables.ladder_points(SMALL, ["bf16"], [name])
    assert ladder.rung_of(point) == name


def test_a_point_that_is_no_rung_has_no_name():
    (point,) = fl.grid(model="tiny-llama", phase="prefill")
    assert ladder.rung_of(point) == ""


def test_eager_and_compiled_stand_together_for_every_further_precision(points):
    found = [(p.recipe.precision, ladder.rung_of(p)) for p in points]
    assert found[4:6] == [("fp32", "dynamic"), ("fp32", "our decoder")]
    assert [n for p, n in found if p == "int4-g64"] == NAMES[1:]
    assert {p.recipe.scope for p in points[6:]} == {"head"}


def test_an_unknown_rung_is_refused():
    with pytest.raises(ValueError, match="rung='ours'"):
        fl.tables.ladder_points(SMALL, ["bf16"], ["ours"])


def test_rates_and_ratios_by_hand(rows):
    def pick(precision, rung):
        (row,) = rows[
            (rows["precision"] == precision) & (rows["rung"] == rung)
        ].to_dict("records")
        return row

    assert pick("bf16", "dynamic")["tokens_per_s"] == pytest.approx(100)
    assert pick("bf16", "dynamic")["measured_high_per_s"] == pytest.approx(100 / 0.98)
    assert pick("bf16", "our decoder")["speedup"] == pytest.approx(2)
    four = pick("int4-g64", "our decoder")
    assert four["tokens_per_s"] == pytest.approx(400)
    assert (four["speedup"], four["over_dense"]) == pytest.approx((4, 2))
    assert four["estimated_per_s"] == pytest.approx(1e3 / four["estimated_ms"])
    assert (four["kl_nats"], four["top1"]) == (0.002, 0.9)


def test_fp32_is_its_own_reference_and_what_did_not_run_has_no_quality(points):
    device = fl.device("h200")
    plain = [record(p, device, 1.0) for p in points if p.recipe.precision == "fp32"]
    assert list(ladder.rungs_of(plain)["kl_nats"]) == [0.0, 0.0]
    failed = replace(plain[0], measured=None, status="oom")
    assert ladder.rungs_of([failed])["kl_nats"].isna().all()


def test_without_an_eager_row_there_is_no_ratio_over_it(points):
    found = ladder.rungs_of([record(points[1], fl.device("h200"), 1.0)])
    assert found["speedup"].isna().all()


def test_mbu_is_of_the_datasheet_and_of_the_copy(points):
    device = fl.device("h200")
    one = replace(record(points[0], device, 1.0), env="e")
    one = replace(one, effective=_effective(one))
    found = ladder.rungs_of([one], {"e": {"copy_bytes_per_s": device.bandwidth / 2}})
    assert found["mbu_copy"].item() == pytest.approx(2 * found["mbu"].item())
    assert plots.columns_of(found)[plots.SHEET] > 0


def _effective(one):
    from fastlab.record import Effective

    return Effective("bfloat16", "sdpa", one.estimate.parameters, 10**6)


class Replayed:
    """A run that replays only the first of its points."""

    def __init__(self, points, folder):
        self.points, self.device, self.profile = points, "cpu", fl.device("m4-max")
        self.profile = replace(self.profile, kind="cpu")
        self.reference = type("Reference", (), {"folder": folder})()
        self.samples = ""
        self.caption = "replayed: somewhere"

    def records(self):
        return [record(self.points[0], fl.device("h200"), 1.0)]


def test_what_is_not_stored_is_missing_and_what_cannot_run_says_why(points, tmp_path):
    found = fl.tables.rungs(Replayed(points[:4], tmp_path))
    assert list(found["status"]) == ["ok", "missing", "missing", "unsupported"]
    assert "needs an NVIDIA GPU" in found["reason"].iloc[3]
    told = fl.tables.ladder_caption(Replayed(points[:4], tmp_path), found)
    assert told.startswith("replayed: somewhere; 1 points, medians of 20 samples")
    assert "128 tokens cached" in told


def test_a_cpu_replays_what_is_stored_and_measures_what_is_not():
    stored = fl.tables.ladder_points("24x896", ["bf16"], ["dynamic"])
    other = fl.tables.ladder_points(SMALL, ["bf16"], ["dynamic"])
    wanted = "auto" if sys.modules["torch"].cuda.is_available() else "replay"
    assert fl.tables.ladder_source("auto", stored) == wanted
    assert fl.tables.ladder_source("auto", other) == "auto"
    assert fl.tables.ladder_source("measure", stored) == "measure"


def test_the_default_ladder_has_stored_rows():
    points = fl.tables.ladder_points("24x896", ["bf16", "fp32", "int8", "int4-g64"])
    run = fl.start("08_decode_and_cache", "replay", points)
    found = fl.tables.rungs(run)
    assert set(found["status"]) == {"ok", "unsupported"}
    assert set(found[found["status"] != "ok"]["rung"]) <= {
        *("our graph", "generate, our graph", "generate, our graph x4")
    }


def test_groups_stand_apart_and_generations_last(rows):
    whole = rows.iloc[:1].assign(phase="generate")
    placed = plots.placing(_joined(whole, rows))
    assert placed["group"].iloc[-1].startswith("whole generations")
    assert placed["y"].is_monotonic_increasing
    assert placed["y"].diff().max() > 2


def _joined(*tables):
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def test_the_figure_writes_ratios_refusals_and_compile_times(rows):
    figure = fl.plots.rungs(rows, "title")
    said = texts(figure)
    assert "unsupported: needs X" in said
    assert any(text.startswith("×4  (") for text in said)
    assert "7 s" in said
    assert "×2" in said
    assert not any("datasheet" in text for text in said)


def test_a_table_of_nothing_measured_still_draws(rows):
    refused = rows[rows["status"] != "ok"]
    assert "unsupported: needs X" in texts(fl.plots.rungs(refused, "title"))


def test_noisy_bars_are_hatched(rows):
    figure = fl.plots.rungs(rows.assign(flags="noisy"), "title")
    bars = figure.axes[0].patches
    assert any(bar.get_hatch() for bar in bars)


def test_the_alt_text_tells_each_rung(rows):
    told = fl.alt.rungs(rows, "measured on X")
    assert "eager, dynamic cache 100 (estimated" in told
    assert "our decoder 400 (" in told
    assert "our graph unsupported, runtime graph needs X: so" in told
    assert "measured on X" in told

"""A quick calibration takes what points need, and no more; a kept one may serve."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fastlab.cli import main
from fastlab.clock import calibrate, needed
from fastlab.clock.end_to_end import calls_for
from fastlab.clock.fitting import chosen, few, within
from fastlab.cost.classes import CLASSES
from fastlab.latency.samples import class_of
from fastlab.notebook.batch import notebook_parameters
from fastlab.spec import GRID_FIELDS, grid, point_of
from fastlab.sweeps.files import read_sweep
from tests.latency.fitting import calibrated

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 1000}


def test_needs_are_the_classes_and_ends_of_the_points(profile):
    """A llama of 256: products from 256 x 256 to its head, of 128 rows or one."""
    points = grid(**SMALL, phase=["prefill", "decode"], prompt_len=128)
    found = needed.needs(points, profile)
    assert set(found) == {"fp32"}
    assert {"linear", "prefill", "decode", "norm", "elementwise"} <= set(found["fp32"])
    low, high = np.exp(found["fp32"]["linear"])
    assert low == pytest.approx([1, 256, 256])
    assert high[:2] == pytest.approx([128, 1000])
    keys = np.exp(found["fp32"]["decode"][0][1])
    assert keys == pytest.approx(129)


def test_a_class_that_is_not_timed_is_stood_for():
    assert needed.timed_as("matmul", "bf16", "cpu") == ("linear", "bf16")
    assert needed.timed_as("strided", "fp32", "cpu") == ("strided", "fp32")
    assert needed.timed_as("strided", "fp32", "cuda") == ("linear", "fp32")
    assert needed.timed_as("palette", "bf16", "cpu") == ("palette", "fp32")
    assert needed.timed_as("linear", "int4-g64", "cpu")[0] == "linear"
    assert needed.timed_as("plain", "fp32", "cpu")[0] == ""


def test_few_benchmarks_are_chosen_near_the_points(profile):
    """At most six a class; their sizes within a factor 2 of those that are needed."""
    points = grid(**SMALL, phase=["prefill", "decode"], prompt_len=128)
    ends = needed.needs(points, profile)["fp32"]
    counts = {kind: few(kind) for kind in ends}
    picked = chosen(profile, "fp32", counts, ends)
    assert len(picked) == sum(counts.values()) <= 40
    assert max(counts.values()) == 6
    rows = [b.op.dims for b in picked if class_of(b.op) == "linear"]
    assert all(m <= 256 and n <= 2000 and k <= 2048 for m, n, k in rows)
    assert {CLASSES[kind].form for kind in counts} == {"product", "attention", "bytes"}


def test_where_too_few_are_near_the_next_ones_are_taken():
    """Of 0, 1 ... 9 between 4 and 5: those, and the two next to them."""
    places = np.arange(10.0)[:, None]
    ends = np.array([4.0]), np.array([5.0])
    assert within(places, ends, 2).tolist() == [4, 5]
    assert within(places, ends, 3).tolist() == [3, 4, 5, 6]
    assert len(within(places, ends, 99)) == 10


def test_calls_like_the_points_are_timed_whole():
    kinds = [("llama", "prefill"), ("llama", "decode"), ("gpt2", "decode")]
    calls = [point_of(family=f, phase=p, layers=3, hidden=512) for f, p in kinds]
    points = grid(**SMALL, phase=["prefill", "decode"])
    assert set(calls_for(points, [*calls, *calls])) == set(calls[:2])
    assert calls_for(points[:1], calls) == calls[:1]
    assert calls_for([], calls) == calls


def test_a_full_calibration_serves_and_a_quick_one_its_own_points(profile):
    points = grid(**SMALL)
    known = calibrated(profile)
    assert needed.serves(known, points)
    assert not needed.serves(profile, points)
    assert not needed.serves(replace(known, busy="2 cores"), points)
    fits = known.fits
    quick = replace(known, fits=replace(fits, provenance={"quick": "for 1 points"}))
    alone = tuple(one for one in fits.fits if one.kind == "linear")
    assert not needed.serves(
        replace(quick, fits=replace(quick.fits, fits=alone)), points
    )


def test_points_that_cannot_run_are_refused_by_name(profile):
    able = replace(profile, peak_flops={"fp32": 1e11})
    points = grid(**SMALL, precision=["fp32", "bf16"])
    assert needed.runnable(points, able) == points[:1]
    with pytest.raises(ValueError, match=r"can run none of the points: .*bf16"):
        needed.runnable(points[1:], able)


def test_the_demo_is_calibrated_for_the_points_that_it_runs():
    """The sweep file names the grid of notebook 05 as it is saved."""
    found = notebook_parameters(ROOT / "notebooks" / "05_layers_by_hidden.ipynb")
    lists = {name: one.default for name, one in found.items()}
    for many, name in (("precisions", "precision"), ("phases", "phase")):
        lists[name] = lists.pop(many)
    asked = {name: lists[name] for name in lists if name in GRID_FIELDS}
    demo = read_sweep(ROOT / "data" / "sweeps" / "demo.yaml").points
    assert set(demo) == set(grid(**asked))
    assert len(demo) == 54


def test_a_quick_calibration_on_real_operations(monkeypatch, tmp_path):
    """One layer, one precision: kept, and used again without timing anything."""
    sweep = tmp_path / "one.yaml"
    sweep.write_text("grids: [{family: gpt2, layers: 1, hidden: 256, vocab: 1000}]\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibrate, "BUSY_S", 1e9)
    how = ["calibrate", "--device", "cpu", "--for", str(sweep)]
    done = CliRunner().invoke(main, how)
    assert done.exit_code == 0, done.output
    kept = calibrate.kept("cpu")
    assert kept.fits.provenance["quick"] == "for 1 points"
    assert {one.precision for one in kept.fits.fits} == {"fp32"}
    points = read_sweep(sweep).points
    assert needed.serves(replace(kept, busy=""), points)


@pytest.mark.parametrize("other", ["--quick", "--show"])
def test_for_stands_alone(tmp_path, other):
    sweep = tmp_path / "one.yaml"
    sweep.touch()
    done = CliRunner().invoke(main, ["calibrate", "--for", str(sweep), other])
    assert done.exit_code == 2
    assert "leave --quick and --show away" in done.output

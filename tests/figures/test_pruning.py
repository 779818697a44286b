"""Cuts and zeros: points, worked numbers, figures, the explorer, models at hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.figures import cuts as cut_figures
from fastlab.figures import pruning
from fastlab.figures.cuts import dense_of, described, paper_flops
from fastlab.figures.speedups import even_at
from fastlab.notebook.exercises import EXERCISES
from fastlab.record import Effective, Quality
from fastlab.rows import QUESTION, points_of
from fastlab.spec.cuts import cut_points, possible_shares, read_points
from fastlab.spec.pruning import IMPORTANCES, LAYER_CHOICES, pruned_shape
from fastlab.spec.storage import Sparsity, sparse_bytes
from fastlab.words import percent, times
from tests.cells import Shows, run_cells
from tests.figures.checks import faults
from tests.figures.made import record
from tests.small import checkpoint

NOTEBOOK = "07_pruning"
LARGE = {"family": "llama", "layers": 8, "hidden": 768, "kv_heads": 4, "vocab": 512}
SQUARE = {"family": "llama", "layers": 2, "hidden": 256, "vocab": 512}
H200 = fl.device("h200")
SPACE = {"pruning": pruning, "cuts": cut_figures, "pd": pd, "half": 0.5}
SPACE |= {"percent": percent, "times": times, "points_of": points_of}
SPACE |= {"shares": [0.5], "QUESTION": QUESTION}


def made(points, factor=1.2):
    """Rows at so many times their estimate, of a quality that falls with the FLOPs."""
    records = []
    for point in points:
        bits = 1.5 * (paper_flops(dense_of(point)) / paper_flops(point)) ** 0.1
        ends = {"low": bits - 0.1, "high": bits + 0.1, "dense_bits_per_byte": 1.5}
        quality = Quality("dense fp32", "", 0.1, 0.9, 1.0, bits, **ends)
        stored = Effective("float32", "sdpa", 100, 2_000_000)
        records.append(record(point, H200, factor, effective=stored, quality=quality))
    return fl.table(records)


def gains(rows, profile=None):
    """The table that notebook 07 makes of rows."""
    run = Shows()
    run.profile = profile
    return run_cells(NOTEBOOK, "table", **SPACE, rows=rows, run=run)["table"]


def shown(cell, **given):
    """The figure that a cell shows of what is given, and what it leaves behind."""
    space = run_cells(NOTEBOOK, *cell.split(), **(SPACE | given))
    (figure,) = space["run"].shown.values()
    return figure, space


@pytest.fixture(scope="module")
def cuts():
    return gains(made(cut_points([0.25, 0.5], multiple=64, **LARGE)), H200)


@pytest.fixture(scope="module")
def zeroed():
    both = SQUARE | {"phase": ["prefill", "decode"]}
    points = fl.grid(**both) + fl.grid(**both, sparse_pattern="2:4")
    points += fl.grid(**both, sparse_ratio=[0.5, 0.9], sparse_storage=["dense", "csr"])
    return gains(made(points), H200)


def test_each_share_is_cut_from_each_axis_once():
    points = cut_points([0.25, 0.5], multiple=64, **LARGE)
    cut = [(described(point)["kind"], point.built_shape) for point in points]
    # 9 of 12 heads do not divide 768: no 25 % of heads
    kinds = ["layers", "layers", "heads", "ffn", "ffn", "hidden", "hidden"]
    assert [kind for kind, _ in cut] == ["dense", *kinds]
    assert [s.layers for k, s in cut if k == "layers"] == [6, 4]
    assert [s.hidden for k, s in cut if k == "hidden"] == [576, 384]
    with pytest.raises(ValueError, match="shares=2"):
        cut_points([2], **LARGE)


def test_cuts_that_build_the_same_stand_once():
    small = {"family": "llama", "layers": 2, "hidden": 64, "heads": 2, "kv_heads": 2}
    points = cut_points([0.5, 0.75], **small, vocab=64)
    shapes = [point.built_shape for point in points]
    assert len(set(shapes)) == len(shapes)
    assert sum(bool(p.recipe.pruning.layers) for p in points) == 1


def test_each_way_chooses_what_it_can():
    points = cut_points([0.5], ["loss", "taylor", "random"], **LARGE)
    found = [
        (*list(map(described(p).get, ("kind", "choice"))), p.recipe.pruning.seed)
        for p in points
    ]
    assert ("layers", "loss", 0) in found
    assert ("ffn", "taylor", 0) in found
    assert [f[2] for f in found if f[:2] == ("hidden", "random")] == [0, 1, 2]
    assert not [f for f in found if f[:2] == ("layers", "random")]
    assert not [f for f in found if f[:2] == ("ffn", "loss")]
    with pytest.raises(ValueError, match="ways"):
        cut_points([0.5], ["bets"], **LARGE)
    assert len(cut_points([0.5], ["all"], **LARGE)) == 1 + 6 + 3 * (3 + 3)


def test_every_way_to_choose_is_in_the_file():
    every = read_points("cuts")["all"]
    assert {*every["layers"], "random"} == {*LAYER_CHOICES}
    assert {*every["units"]} == {*IMPORTANCES}
    assert {*every["layers"], *every["units"]} == {*pruning.CHOICES}


def test_half_the_layers_promise_nearly_two(cuts):
    half = cuts[(cuts["kind"] == "layers") & (cuts["share"] == 0.5)].iloc[0]
    dense, cut = (fl.grid(**LARGE, prune_layers=share)[0] for share in (0, 0.5))
    flops = [sum(op.times * op.flops for op in fl.operations(p)) for p in (dense, cut)]
    assert half["promised"] == pytest.approx(flops[0] / flops[1])
    assert 1.9 < half["promised"] < 2
    assert half["left"] == fl.parameters(cut.built_shape) / fl.parameters(dense.shape)


def test_zeros_promise_what_their_products_would_save():
    dense, half = fl.grid(**SQUARE, sparse_ratio=[0, 0.5])
    ops = fl.operations(dense)
    inner = sum(
        op.times * op.flops for op in ops if op.kind == "linear" and op.name != "head"
    )
    whole = sum(op.times * op.flops for op in ops)
    assert paper_flops(dense) == whole
    assert paper_flops(half) == pytest.approx(whole - inner / 2)
    csr = fl.grid(**SQUARE, sparse_ratio=0.5, sparse_storage="csr")[0]
    assert paper_flops(csr) == paper_flops(half)


def test_zeros_stored_dense_are_estimated_to_gain_nothing(zeroed):
    gains = zeroed[zeroed["kind"].isin(["zeros", "pattern"])]["estimated_gain"]
    assert gains.tolist() == [1.0] * 6


def test_a_gain_is_over_the_dense_row_of_the_same_call():
    points = cut_points([0.5], **SQUARE)
    near, alone = gains(made(points)), gains(made(points[1:]))
    slow = pd.concat([made(points[:1], 12.0), made(points[1:])], ignore_index=True)
    assert alone["measured_gain"].isna().all()
    assert gains(slow)["measured_gain"].iloc[1:].to_numpy() == pytest.approx(
        10 * near["measured_gain"].iloc[1:].to_numpy()
    )
    ends = near[["gain_low", "measured_gain", "gain_high"]]
    assert (ends.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)


def test_what_is_smaller_in_two_ways_is_left_out():
    points = (
        *fl.grid(**SQUARE, prune_layers=0.5, prune_ffn=0.5),
        *fl.grid(**SQUARE, prune_layers=0.5, sparse_ratio=0.5),
        *fl.grid(**SQUARE, share_bits=4),
    )
    assert [described(point)["kind"] for point in points] == ["", "", ""]


def test_compressed_rows_take_the_bytes_of_dense_ones_at_half(zeroed):
    given = {"hidden": 768, "table": zeroed, "sparse": points_of(zeroed)}
    figure, space = shown("even", **given)
    smaller = space["counted"].set_index("share")["smaller"]
    for share in smaller.index[[0, 9, 23]]:
        bytes_stored = sparse_bytes(Sparsity(share, storage="csr"), 1024, 1024)
        assert smaller[share] == pytest.approx(4 * 1024**2 / bytes_stored)
    assert "50 % in bytes of 1,024 x 1,024" in figure.tell()
    assert not faults(figure)


def test_the_break_even_lies_between_two_rows():
    # from /2 at 80 % to x2 at 90 %: x1 half way
    assert even_at([0.5, 0.8, 0.9], [0.5, 0.5, 2.0]) == pytest.approx(0.85)
    assert np.isnan(even_at([0.5, 0.8, 0.9], [0.5, 0.5, 0.5]))


def test_every_figure_tells_what_it_draws(cuts, zeroed):
    both = pd.concat([cuts, zeroed], ignore_index=True)
    points = cut_points([0.25, 0.5], ["all"], **LARGE)
    ways, _ = shown("choice", table=gains(made(points), H200), tried=points)
    titles = ["layers", "heads", "FFN width", "hidden width"]
    assert [panel.title for panel in ways.panels] == titles
    half = cuts[(cuts["kind"] == "layers") & (cuts["share"] == 0.5)]
    again = half.assign(bits_per_byte=1.52, distill_steps=900, before=[1.8])
    given = {"saved": cuts, "text": cuts, "students": again}
    time, _ = shown("depth", **given)
    assert {1.8, 1.52} <= {*time.table["before"], *time.table["bits_per_byte"]}
    given = {"shaped": points_of(both), "sparse": [], "judged": points_of(cuts)}
    kept, _ = shown("zeros", **given, table=both, guess_factor=None)
    assert "zeros stored dense ÷" in kept.title
    for figure in (kept, time, ways):
        assert not faults(figure)


def test_figures_of_nothing_say_so(cuts):
    empty, even = cuts[:0], pd.DataFrame({"share": [], "smaller": [], "what": []})
    assert "was judged" in pruning.choices(empty, "").tell()
    assert "nothing was both" in pruning.predicted_vs_measured(empty, "").tell()
    counted = pd.DataFrame({"share": [0.4], "smaller": [1.0]})
    for figure in (
        pruning.zeros_are_not_speed(cuts[:1], empty, "none"),
        pruning.break_even(empty, counted, even, "none"),
        pruning.depth_or_width(cuts, empty, empty.assign(before=[]), "none"),
    ):
        figure.draw()


def test_rows_that_are_not_stored_are_named(cuts):
    some = cuts.assign(status=["missing", *["ok"] * (len(cuts) - 1)])
    note = pruning.predicted_vs_measured(some.assign(inside=True), "").note
    assert note == "no row is stored of dense 0 % (prefill)"


def test_estimates_that_held_are_counted(cuts):
    def figure(factor):
        ms = factor * cuts["estimated_ms"]
        ends = {"measured_low_ms": ms, "measured_high_ms": ms}
        table = cuts.assign(measured_ms=ms, ratio=factor, **ends)
        return shown("foretold", table=table, shaped=points_of(cuts))[0]

    assert figure(1.0).title.startswith(f"{len(cuts)} of {len(cuts)} within")
    assert figure(0.5).title.endswith("÷2.00 to ÷2.00 of the estimate, all below it")
    assert not figure(100.0).table["inside"].any()
    assert not faults(figure(100.0))


def test_the_explorer_tells_the_built_shape_and_the_stored_row():
    (dense,) = fl.grid(**LARGE)
    point = fl.grid(**LARGE, prune_ffn=0.5, prune_multiple=64)[0]
    given = {"shaped": [dense], "judged": [dense], "table": made([point])}
    given |= {"cuts": fl.figures.cuts, "run": SimpleNamespace(profile=H200)}
    explorer = run_cells(NOTEBOOK, "explorer", **given)["shown"]
    state = explorer.state | {"layers": 0.0, "ffn": 0.5, "multiple": 64}
    figure = explorer.make(**(state | {"importance": "magnitude"}))
    assert "ffn 2048 → 8 x 768, 12/4 heads, ffn 1024" in figure.title
    assert figure.table["measured"].notna().tolist() == [False] * 3 + [True]
    assert " ms measured, " in figure.note
    assert "bits per byte, 1.50 of the dense model" in figure.note
    assert not faults(figure)
    other = explorer.make(**(state | {"importance": "taylor"}))
    assert "no row is stored" in other.note
    away = explorer.make(
        **(state | {"importance": "magnitude", "device": fl.device("t4")})
    )
    assert "no row is stored" in away.note


def test_only_what_can_be_cut_is_offered():
    (dense,) = fl.grid(**LARGE)
    # 9 of 12 heads do not divide 768, but they do divide a width of 576
    assert possible_shares(dense, "heads", {}) == [0, 0.5, 0.75]
    assert 0.25 in possible_shares(dense, "heads", {"hidden": 0.25, "multiple": 64})
    (gpt2,) = fl.grid(family="gpt2", layers=2, hidden=256, vocab=512)
    assert 0.5 in possible_shares(gpt2, "hidden", {})
    assert possible_shares(gpt2, "heads", {"hidden": 0.5}) == [0.5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint with random weights, and a text of its own."""
    lines = (f"def f{n}(x{n}):\n    return x{n} + {n * 7 % 13}\n" for n in range(900))
    return checkpoint(tmp_path_factory.mktemp("model"), "".join(lines), layers=4)


def test_a_student_stands_beside_its_cut_before(trained, monkeypatch):
    own = {"model": str(trained.folder), "weights": "trained", "prompt_len": 8}
    points = fl.grid(**own, prune_layers=0.5, distill_steps=[0, 100])

    def students(points):
        records = [
            record(p, H200, 1.0, quality=Quality("", "", 0, 1, 0, bits, 0.1, 3.0))
            for p, bits in points.items()
        ]
        stored = SimpleNamespace(records=records)
        given = SPACE | {"trained": trained, "rows": fl.table([])}
        monkeypatch.setattr(fl, "references", lambda: [stored], raising=False)
        space = run_cells(NOTEBOOK, "students", **given)
        return space["students"].to_dict("records")

    bits = dict(zip(points, (2.0, 1.6), strict=True))
    (line,) = students(bits)
    assert (line["kind"], line["choice"]) == ("layers", "uniform")
    assert (line["before"], line["bits_per_byte"]) == (2.0, 1.6)
    (alone,) = students({points[1]: 1.6})
    assert np.isnan(alone["before"])
    assert students({replace(points[0], weights="trained:" + "0" * 64): 2.0}) == []


def test_worked_answers_agree_with_the_code():
    size = EXERCISES["07_4"].answer
    for ffn, share, multiple in ((2048, 0.3, 64), (512, 0.3, 64), (2816, 0.25, 64)):
        shape = fl.ModelShape("llama", 2, 768, ffn=ffn, vocab=64)
        cut = fl.Pruning(ffn=share, multiple=multiple)
        assert pruned_shape(shape, cut).ffn == size(ffn, share, multiple)
    n = k = 1024
    stored = Sparsity(EXERCISES["07_2"].answer / 100, storage="csr")
    assert sparse_bytes(stored, n, k) == pytest.approx(2 * n * k, rel=0.01)

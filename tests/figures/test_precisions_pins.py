"""The rows below notebook 06's figures are those that were pinned."""

import pytest

import fastlab as fl
from fastlab.figures import precisions as made
from fastlab.figures import speedups
from tests.cells import Shows, run_cells
from tests.pins import compare

MODEL = {"family": "llama", "layers": 6, "hidden": 1024, "vocab": 8192}
NAMES = ["fp32", "bf16", "autocast-bf16", "int8", "int8-dynamic", "int4-g128"]
FEW = ["fp32", "bf16", "int8", "int4-g128"]


def replayed(**lists):
    params = {"source": "replay", "prompt_len": 64, **MODEL, **lists}
    run = fl.start("06_precisions", **params)
    known = fl.table(run.records())
    fresh = fl.rows.with_quality(fl.estimated(run.rows(), run.profile), known)
    return run, fl.over(fresh, precision="bf16")


@pytest.fixture(scope="module")
def runs():
    return (
        replayed(phase=["prefill", "decode"], precision=NAMES),
        replayed(phase="decode", precision=NAMES, batch=[1, 4, 16, 64]),
        replayed(phase="decode", precision=FEW, runtime="decoder"),
    )


def test_the_rows_are_those_that_were_pinned(runs):
    (run, rows), (batched, steps), (_, fused) = runs
    given = {"model": MODEL, "prompt_len": 64, "precisions": NAMES, "table": rows}
    shows = Shows()
    shows.points, shows.profile = run.points, run.profile
    run_cells("06_precisions", "asked", "floors", "reasons", run=shows, **given)
    curves = speedups.curves(batched.points[0], batched.profile, NAMES, 64)
    batch = speedups.by_batch(curves, steps).table
    eager = rows[(rows.phase == "decode") & rows.precision.isin(FEW)]
    found = {
        "05": rows,
        "trade": made.trade(rows).table,
        "reasons": shows.shown["reasons"].table,
        "batch": batch[batch["status"] != "estimated"],  # lines were not told before
        "engines": made.engines(
            fl.rows.merge_runs(eager, fused).assign(speedup=1.0)
        ).table,
        "promised": speedups.predicted(fl.rows.merge_runs(rows, steps, fused)).table,
    }
    off = {name: compare(f"06_precisions_{name}", t) for name, t in found.items()}
    assert not any(off.values()), off

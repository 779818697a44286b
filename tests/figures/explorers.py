"""Every explorer of the package, made of rows by hand: see MAKERS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pandas as pd

import fastlab as fl
from fastlab.figures import article, batches, cuts, frontier, speedups
from fastlab.figures.explorer import Explorer
from fastlab.latency.devices import Device
from fastlab.scores.scoreboard import HOLDOUTS
from fastlab.spec import Point, grid
from tests.cells import run_cells
from tests.figures.made import record

SIZES = {"family": "llama", "layers": [2, 4, 6], "hidden": [256, 512], "vocab": 512}
CALLS = {"precision": ["fp32", "bf16"], "phase": ["prefill", "decode"]}
CUT = {"family": "llama", "hidden": 768, "kv_heads": 4, "vocab": 512}


def rows_by_hand() -> tuple[list[Any], Device]:
    """Records of 24 points, measured at 1.2 times their estimate, and their device."""
    device = fl.device("h200")
    return [record(point, device, 1.2) for point in grid(**SIZES, **CALLS)], device


def samples() -> pd.DataFrame:
    """Two series of fifty samples, around 9 and around 10 milliseconds."""
    each = [
        {"series": name, "ms": ms + 0.01 * (n % 7)}
        for name, ms in (("naive", 9), ("ours", 10))
        for n in range(50)
    ]
    return pd.DataFrame(each)


def point() -> Point:
    """A point on which every slider has somewhere to go."""
    return grid(model="llama-3.2-1b", prompt_len=512)[0]


def weights() -> dict[str, Any]:
    """Weights whose rows groups of 16 divide, and groups of 64 only of one."""
    import torch

    source = torch.Generator().manual_seed(0)
    return {f"{n} x 32": torch.randn(n, 32, generator=source) for n in (64, 32)}


def cell(notebook: str, **names: Any) -> Explorer:
    """The explorer of a notebook's cell, made of what the cells before would leave."""
    found: Explorer = run_cells(notebook, "explorer", **names)["shown"]
    return found


def _batching() -> Explorer:
    from fastlab.figures.panels import Axis

    names = {"start_s": 1.5, "point_s": 0.8, "pd": pd, "Axis": Axis}
    found: Explorer = run_cells("11", "explorer-axes", "explorer", **names)["shown"]
    return found


def _cutting() -> Explorer:
    dense = [fl.grid(**CUT, layers=layers)[0] for layers in (8, 12)]
    given = {"shaped": dense[:1], "judged": dense[1:], "table": fl.table([])}
    return cell("07", **given, cuts=cuts, run=Mock(profile=None))


def _target() -> Explorer:
    dense, bf16 = grid(**CUT, layers=8, precision=["fp32", "bf16"])
    paths = {"prefill": {"dense": dense, "16 bit": bf16}}
    given = {"case": article, "run": Mock(profile=None), "prompt_len": 128}
    return cell("10", paths=paths, **given)


def _sweep() -> Explorer:
    records, device = rows_by_hand()
    given = {"layers": [2, 4, 6], "precisions": CALLS["precision"]}
    given |= {"phases": CALLS["phase"], "rows": fl.table(records)}
    return cell("05", **given, run=Mock(profile=device, caption="by hand"))


def _depth() -> Explorer:
    """Of this machine too, whose rates are given."""
    devices = {"this_device": lambda: fl.device("t4"), "device": fl.device}
    stand_in = Mock(explore=fl.explore, figures=fl.figures, status=fl.status, **devices)
    return cell("00", point=point(), gpus=["h200"], fl=stand_in)


def _leave_out() -> Explorer:
    records, device = rows_by_hand()
    run = Mock(profile=device, caption="by hand")
    given = {"records": records, "holdout": "hidden", "HOLDOUTS": HOLDOUTS}
    return cell("04", **given, run=run)


def _roofs() -> Explorer:
    given = {"model": "llama-3.2-1b", "phases": CALLS["phase"], "context_len": 512}
    given |= {"calls": [point()], "sheet": fl.device("t4"), "run": Mock(profile=None)}
    return cell("03", **given)


def _frontier() -> Explorer:
    rows = fl.table(rows_by_hand()[0]).assign(loss=0.01, front=True, name="one")
    return cell("12", ready=rows, recipes=frontier)


def _paying() -> Explorer:
    model = {"family": "llama", "layers": 2, "vocab": 512}
    given = {"model": model, "hidden": 256, "prompt_len": 64, "baseline": "bf16"}
    rows = fl.over(fl.table(rows_by_hand()[0]), precision="bf16")
    return cell(
        "06", **given, speedups=speedups, device=fl.device("h200"), by_batch=rows
    )


MAKERS: dict[str, Callable[[], Explorer]] = {
    "batching": _batching,
    "counts": lambda: cell("01", prefill=point(), prompt_len=512),
    "cutting": _cutting,
    "depth": _depth,
    "frontier": _frontier,
    "kv_growth": lambda: cell("08", batches=batches, formats=("bf16", "int8")),
    "layers_by_hidden": _sweep,
    "leave_out": _leave_out,
    "palettes": lambda: cell("09", originals=weights()),
    "paying": _paying,
    "roofs": _roofs,
    "samples_taken": lambda: cell("02", samples=samples(), here="by hand"),
    "target": _target,
}

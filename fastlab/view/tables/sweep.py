"""Smaller tables out of the rows: for reading, and for figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.cost.operations import operations as listed
from fastlab.cost.ops import Operation
from fastlab.latency.devices import Device
from fastlab.spec.point import Point

if TYPE_CHECKING:
    import pandas as pd

WHICH = ["layers", "hidden", "precision", "phase"]
FOUND = [
    *("estimated_ms", "measured_ms", "ratio", "ttft_ms", "tpot_ms", "tokens_per_s"),
    *("n", "status"),
]

WIDEST, FEWEST = 0.25, 5  # interval / median, and samples, of a settled measurement


def short(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that people read first, and what else tells the rows apart."""
    return rows[[*WHICH, *_apart(rows), *FOUND]].dropna(axis="columns", how="all")


def _apart(rows: pd.DataFrame) -> list[str]:
    """Fields of a point, left of its device, without which rows would look alike."""
    found: list[str] = []
    fields = list(rows.columns[: rows.columns.get_loc("device")])
    for name in [field for field in fields if field not in WHICH]:
        shown = [*WHICH, *found]
        if _kinds(rows, [*shown, name]) > _kinds(rows, shown):
            found.append(name)
    return found


def _kinds(rows: pd.DataFrame, names: list[str]) -> int:
    return len(rows[names].drop_duplicates())


def choose(rows: pd.DataFrame, phase: str, precision: str) -> pd.DataFrame:
    """The rows of one phase and precision; ValueError says which ones there are."""
    chosen = rows[(rows["phase"] == phase) & (rows["precision"] == precision)]
    if chosen.empty:
        there = sorted(set(zip(rows["precision"], rows["phase"], strict=True)))
        have = ", ".join(" ".join(pair) for pair in there) or "no rows at all"
        raise ValueError(f"no rows for {precision} {phase}; there are {have}")
    return chosen


def cells(rows: pd.DataFrame, phase: str, precision: str, name: str) -> pd.DataFrame:
    """Column `name` as a table of layers (down) by hidden (across).

    Raises ValueError where several rows compete for one cell.
    """
    chosen = choose(rows, phase, precision)
    twice = chosen[chosen.duplicated(["layers", "hidden"])]
    if len(twice):
        where = f"{twice['layers'].iloc[0]} layers x {twice['hidden'].iloc[0]}"
        raise ValueError(
            f"several rows for {where}, {precision} {phase}: keep one family, batch "
            "and prompt_len before drawing"
        )
    grid = chosen.pivot(index="layers", columns="hidden", values=name)
    if name == "status":
        return grid.astype(object).fillna("no row")
    return grid.astype(float)


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have both an estimate and a measurement."""
    return rows[rows["ratio"].notna()]


def settled(rows: pd.DataFrame) -> pd.Series:
    """Whether each row's median stands on enough samples that agree well enough."""
    width = rows["measured_high_ms"] - rows["measured_low_ms"]
    narrow = (width / rows["measured_ms"]).astype(float) < WIDEST
    return narrow & (rows["n"] >= FEWEST)


def farthest(known: pd.DataFrame) -> pd.Series:
    """The row whose measurement is farthest from its estimate, by factor."""
    off = np.abs(np.log(known["ratio"].to_numpy(float)))
    return known.iloc[int(off.argmax())]


def operations(point: Point, device: Device | None = None) -> pd.DataFrame:
    """The point's operations by their share of the time on `device`, largest first.

    ms is the longest of an operation's compute, memory and launch time, and `bound`
    says which; all numbers are those of its `times` together. Without a device that
    can do the precision, the share is that of the FLOPs.
    """
    import pandas as pd

    able = device is not None and device.can(point.recipe.precision)
    made = [_operation(op, point, device if able else None) for op in listed(point)]
    found = pd.DataFrame(made)
    most = "ms" if able else "GFLOP"
    found.insert(1, "share", found[most] / found[most].sum())
    return found.sort_values("share", ascending=False, ignore_index=True)


def _operation(op: Operation, point: Point, device: Device | None) -> dict[str, Any]:
    counts = {
        "times": op.times,
        "GFLOP": op.times * op.flops / 1e9,
        "MB": op.times * op.bytes / 1e6,
        "launches": op.times * op.launches,
    }
    return {"operation": op.name} | _longest(op, point, device) | counts


def _longest(op: Operation, point: Point, device: Device | None) -> dict[str, Any]:
    if device is None:
        return {}
    seconds = {
        "compute": op.flops_causal / device.product_rate(point.recipe.precision),
        "memory": op.bytes / device.bandwidth,
        "launch": op.launches * device.launch_s,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return {"ms": 1e3 * op.times * seconds[bound], "bound": bound}

"""Verbs of the table: each takes rows and gives rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.rows.columns import (
    COLUMNS,
    COUNTED,
    ESTIMATED,
    QUALITY,
    QUESTION,
    of_estimate,
)
from fastlab.spec.grids import FLAT, flat, point_of
from fastlab.spec.point import Point

LOSSLESS = ("dynamic", "none", "static")  # caches that keep what they are given

# Of a settled measurement: interval / median, a quarter to either side as in the dark
# band of figures, and samples.
WIDEST, FEWEST = 0.5, 5
MISSING = "missing"  # the status of a point without a row


def points_of(rows: pd.DataFrame) -> list[Point]:
    """The points that rows are of, from their own columns."""
    fields = [name for name in QUESTION if name in rows]
    return [point_of(**_typed(row)) for row in rows[fields].to_dict("records")]


def _typed(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Values as a point takes them: a whole number stays one among floats."""
    found = {str(name): value for name, value in row.items() if value == value}
    for name, value in found.items():
        if isinstance(value, float) and name in FLAT and FLAT[name][1].type == "int":
            found[name] = int(value)
    return found


def only(rows: pd.DataFrame, points: Iterable[Point]) -> pd.DataFrame:
    """The rows of these points, in the order of the points."""
    places = {point: n for n, point in enumerate(points)}
    order = np.array([places.get(point, -1) for point in points_of(rows)], int)
    kept = np.argsort(order, kind="stable")[(order < 0).sum() :]
    return rows.iloc[kept].reset_index(drop=True)


def with_missing(
    rows: pd.DataFrame, points: Sequence[Point], name: str, profile: Device | None
) -> pd.DataFrame:
    """A row for each point, in their order: those without one say so, with an estimate.

    name: of the device that the rows are from; profile: what it is estimated with.
    """
    there = set(points_of(rows))
    absent = [point for point in dict.fromkeys(points) if point not in there]
    if not absent:
        return only(rows, points)
    state = {"device": name, "status": MISSING, "reason": "no row is stored of it"}
    added = pd.DataFrame(
        [flat(point) | state for point in absent], columns=list(COLUMNS)
    )
    if profile is not None:
        added = estimated(added, profile)
    kept = [table for table in (rows, added) if len(table)]
    return only(pd.concat(kept, ignore_index=True), points)


def estimated(
    rows: pd.DataFrame | Iterable[Point], device: Device | None
) -> pd.DataFrame:
    """The rows with estimates made afresh, all with one device, so that they compare.

    Points become rows. Where the device cannot do a row's precision its estimate is
    missing; without a device the rows' own estimates stay.
    """
    if not isinstance(rows, pd.DataFrame):
        rows = pd.DataFrame([flat(point) for point in rows], columns=list(COLUMNS))
    if device is None or not len(rows):
        return rows.copy()
    points = points_of(rows)
    found = {p: _estimate_of(p, device) for p in dict.fromkeys(points)}
    made = pd.DataFrame([found[point] for point in points], index=rows.index)
    names = [*ESTIMATED, *COUNTED, "estimated_gb", "extrapolated", "rates"]
    rows = rows.assign(**{name: made.get(name) for name in names})
    ms = rows["estimated_ms"].astype(float)
    return rows.assign(ratio=rows["measured_ms"].astype(float) / ms)


def _estimate_of(point: Point, device: Device) -> dict[str, Any]:
    try:
        (found,) = estimate([point], device)
    except ValueError:  # a precision that the device does not have
        return {}
    return of_estimate(found) | {"extrapolated": found.extrapolated}


def over(
    rows: pd.DataFrame,
    same: Sequence[str] | None = None,
    of: Sequence[str] = ("measured_ms", "estimated_ms"),
    **baseline: Any,
) -> pd.DataFrame:
    """Speed-ups over a baseline row: its time over each row's, measured and estimated.

    baseline: values of columns that name it, as precision="bf16" or prune_layers=0.
    same: columns that a row shares with its baseline; all of a point but those. of: the
    columns that are compared. Adds measured_gain and estimated_gain, of flops
    flops_gain; missing where the baseline has no such value.
    """
    apart = {*baseline, "scope"} if "precision" in baseline else {*baseline}
    names = [n for n in (same or (*QUESTION, "device")) if n in rows and n not in apart]
    call = pd.MultiIndex.from_frame(rows[names].astype(object).fillna("").astype(str))
    is_base = np.ones(len(rows), bool)
    for name, value in baseline.items():
        is_base &= (rows[name] == value).to_numpy(bool)
    added = {}
    for what in of:
        values = rows[what].to_numpy(float)
        base = dict(zip(call[is_base], values[is_base], strict=True))
        own = np.array([base.get(key, np.nan) for key in call], float)
        added[f"{what.removesuffix('_ms')}_gain"] = own / values
    return rows.assign(**added)


def with_quality(rows: pd.DataFrame, known: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows with the quality of their model, where any row of it was judged.

    No workload changes it: it goes by weights, precision and what the cache keeps. The
    dense fp32 model is the reference: it loses nothing.
    """
    asked = [table for table in (rows, known) if table is not None and len(table)]
    pool = pd.concat(asked, ignore_index=True) if asked else rows
    judged = pool[pool["kl_nats"].notna()]
    found = dict(
        zip(_models(judged), judged[[*QUALITY]].to_dict("records"), strict=True)
    )
    nothing = {"kl_nats": 0.0, "top1": 1.0, "max_abs": 0.0}
    lines = []
    for model, row in zip(
        _models(rows), rows[[*QUALITY]].to_dict("records"), strict=True
    ):
        lines.append(nothing if model[-2:] == ("fp32", "") else found.get(model, row))
    quality = pd.DataFrame(lines, columns=[*QUALITY], index=rows.index)
    return rows.assign(**{name: quality[name] for name in QUALITY})


def _models(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Rows with the same have the same logits, but for rounding of other kernels."""
    work = ("phase", "batch", "prompt_len", "new_tokens", "logits", "prefix_len")
    how = ("attention", "runtime", "unroll", "cache", "precision")
    names = [name for name in QUESTION if name not in (*work, *how)]
    cache = rows["cache"].where(~rows["cache"].isin(LOSSLESS), "")
    table = rows[names].assign(precision=rows["precision"], packed=cache)
    return [tuple(map(str, row)) for row in table.itertuples(index=False)]


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have both an estimate and a measurement."""
    return rows[rows["ratio"].notna()]


def settled(rows: pd.DataFrame) -> pd.Series:
    """Whether each row's median stands on enough samples that agree well enough."""
    width = rows["measured_high_ms"] - rows["measured_low_ms"]
    narrow = (width / rows["measured_ms"]).astype(float) < WIDEST
    return narrow & (rows["n"] >= FEWEST)


def merge_runs(*tables: pd.DataFrame) -> pd.DataFrame:
    """Rows of several tables, each point on each device once."""
    filled = [table for table in tables if len(table)]
    merged = pd.concat(filled, ignore_index=True) if filled else tables[0]
    names = [name for name in (*QUESTION, "device") if name in merged]
    return merged[~merged[names].astype(str).duplicated()].reset_index(drop=True)

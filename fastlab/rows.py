"""The one table, a row for each record, in milliseconds, and verbs that keep to it.

Every verb takes a DataFrame and gives one, so that notebooks, figures, scores and the
command line read the same columns.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from fastlab.cost.memory import decode_bytes
from fastlab.latency.devices import Device, datasheet_row
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate, Measurement, Record
from fastlab.spec.grids import FLAT, flat, point_of
from fastlab.spec.point import Point
from fastlab.spec.recipe import PLAIN

QUESTION = (*FLAT, "weights")
ESTIMATED = ("estimated_ms", "estimated_low_ms", "estimated_high_ms", "bound")
COUNTED = ("parameters", "flops", "flops_causal", "bytes", "kv_cache_bytes", "launches")
MEASURED = ("measured_ms", "measured_low_ms", "measured_high_ms", "n", "converged")
DERIVED = ("ratio", "ttft_ms", "tpot_ms", "tokens_per_s", "peak_gb", "estimated_gb")
UTILIZED = ("mbu", "mbu_copy", "compile_s", "weights_mb", "rates")
QUALITY = {
    **{"kl_nats": "kl_nats", "kl_low": "kl_low", "kl_high": "kl_high", "top1": "top1"},
    **{"max_abs": "max_abs", "bits_per_byte": "bits_per_byte", "bits_low": "low"},
    **{"bits_high": "high", "dense_bits_per_byte": "dense_bits_per_byte"},
}
COLUMNS = (
    *QUESTION,
    *("device", "status", "reason", *ESTIMATED, *MEASURED, "flags"),
    *(*DERIVED, *UTILIZED, *QUALITY, *COUNTED, "host", "key"),
)


def table(
    records: Iterable[Record], envs: Mapping[str, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """One row per record: the question, the estimate, the measurement, their ratio.

    ratio = measured / estimated time. ttft_ms is the time of a prefill, tpot_ms that of
    a decode step; tokens_per_s counts prompt tokens in a prefill, else new ones.
    mbu, of decoding, is `decode_bytes` a second over the datasheet's bandwidth, and
    mbu_copy over the one that a copy reached in the same run, where `envs` has it (the
    environments of a store, `Store.envs()`); so the host. rates: those that the
    estimate was made with, where the machine was busy. kl_nats to bits_per_byte: what
    was lost against dense fp32, where it was asked.
    """
    collects = gc.isenabled()
    gc.disable()  # it would look through all rows again and again, and find nothing
    try:
        rows = [_row(record, envs or {}) for record in records]
    finally:
        if collects:
            gc.enable()
    return pd.DataFrame(rows, columns=_OWN)[[*COLUMNS]]


# The columns of each part of a row, as they are made.
_SAID = ("device", "key", "status", "reason", "host")
_OF_ESTIMATE = (*ESTIMATED, *COUNTED, "estimated_gb", "rates")
_OF_MEASURED = (*MEASURED, "flags", "peak_gb", "compile_s")
_RATES = ("tokens_per_s", "ratio", "ttft_ms", "tpot_ms", "mbu", "mbu_copy")
_OWN = [*QUESTION, *_SAID, *_OF_ESTIMATE, *_OF_MEASURED, *_RATES, "weights_mb"]
_OWN += QUALITY
_quality = attrgetter(*QUALITY.values())


def _blank(names: Collection[str]) -> tuple[Any, ...]:
    return (math.nan,) * len(names)


_NO_ESTIMATE, _NOT_MEASURED = _blank(_OF_ESTIMATE), _blank((*_OF_MEASURED, *_RATES))
_NO_QUALITY = _blank(QUALITY)


def _row(record: Record, envs: Mapping[str, Mapping[str, Any]]) -> tuple[Any, ...]:
    """The values of a row in the order of _OWN; a tuple, as a store has many."""
    env, made, took = envs.get(record.env, {}), record.estimate, record.measured
    return (
        *flat(record.point).values(),
        *(record.device, record.key, record.status, record.reason, env.get("host")),
        *(_estimate(made) if made else _NO_ESTIMATE),
        *(_measured(took) + _rates(record, took, env) if took else _NOT_MEASURED),
        record.effective.weight_bytes / 1e6 if record.effective else math.nan,
        *(_quality(record.quality) if record.quality else _NO_QUALITY),
    )


def _estimate(e: Estimate) -> tuple[Any, ...]:
    """The columns of an estimate, in milliseconds and gigabytes."""
    moved = e.weight_bytes + e.activation_bytes + e.kv_read_bytes + e.kv_write_bytes
    return (
        *(e.seconds * 1e3, e.low_s * 1e3, e.high_s * 1e3, e.bound),
        *(e.parameters, e.flops, e.flops_causal, moved, e.kv_cache_bytes, e.launches),
        *(e.peak_bytes / 1e9, "busy machine" if e.busy else None),
    )


def _measured(m: Measurement) -> tuple[Any, ...]:
    peak = m.peak_bytes / 1e9 if m.peak_bytes is not None else None
    ends = m.seconds * 1e3, m.low_s * 1e3, m.high_s * 1e3
    return *ends, m.n, m.converged, " ".join(m.flags), peak, m.compile_s


def _rates(record: Record, m: Measurement, env: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of the host's run, MBU too: against the datasheet, and against its own copy."""
    work, ms, ratio = record.point.workload, m.seconds * 1e3, math.nan
    if record.estimate:
        ratio = m.seconds / record.estimate.seconds
    if work.phase == "prefill":
        tokens = work.batch * work.prompt_len / m.seconds
        return tokens, ratio, ms, math.nan, math.nan, math.nan
    tokens = work.batch * work.new_tokens / m.seconds
    step = ms if work.phase == "decode" else math.nan
    mbu = [math.nan, math.nan]
    if record.effective:
        moved = decode_bytes(record.point, record.effective.weight_bytes)
        sheet = _datasheet(record.device)
        most = sheet and sheet.bandwidth, env.get("copy_bytes_per_s")
        rate = moved * work.new_tokens / m.seconds
        mbu = [rate / each if each else math.nan for each in most]
    return tokens, ratio, math.nan, step, *mbu


_datasheet = lru_cache(datasheet_row)

LOSSLESS = ("dynamic", "none", "static")  # caches that keep what they are given

# Of a settled measurement: interval / median, a quarter to either side as in the dark
# band of figures, and samples.
WIDEST, FEWEST = 0.5, 5
MISSING = "missing"  # the status of a point without a row


def points_of(rows: pd.DataFrame) -> list[Point]:
    """The points that rows are of, from their own columns."""
    fields = [name for name in QUESTION if name in rows]
    return [point_of(**typed(row)) for row in rows[fields].to_dict("records")]


def typed(row: Mapping[Any, Any]) -> dict[str, Any]:
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
    added = estimated(estimated(absent, None).assign(**state), profile)
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
    told = dict(zip(_OF_ESTIMATE, _estimate(found), strict=True))
    return told | {"extrapolated": found.extrapolated}


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
    found = dict(_models(pool[pool["kl_nats"].notna()]))
    nothing = {"kl_nats": 0.0, "top1": 1.0, "max_abs": 0.0}
    plain = [point.recipe.weights_key == PLAIN.weights_key for point in points_of(rows)]
    lines = [
        nothing if whole and not model[-1] else found.get(model, own)
        for whole, (model, own) in zip(plain, _models(rows), strict=True)
    ]
    quality = pd.DataFrame(lines, columns=[*QUALITY], index=rows.index)
    return rows.assign(**{name: quality[name] for name in QUALITY})


def _models(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Each row's model and quality; those alike have the same logits but for rounding.

    Of other kernels, that is.
    """
    work = ("phase", "batch", "prompt_len", "new_tokens", "logits", "prefix_len")
    how = ("attention", "runtime", "unroll", "cache", "precision")
    names = [name for name in QUESTION if name not in (*work, *how)]
    cache = rows["cache"].where(~rows["cache"].isin(LOSSLESS), "")
    table = rows[names].assign(precision=rows["precision"], packed=cache)
    models = (tuple(map(str, row)) for row in table.itertuples(index=False))
    return zip(models, rows[[*QUALITY]].to_dict("records"), strict=True)


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

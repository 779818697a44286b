"""Records -> a DataFrame: one row each, milliseconds, plain columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fastlab.record import Estimate, Measurement, Record
from fastlab.spec.point import Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd

QUESTION = tuple(f.name for c in (ModelShape, Workload, Recipe) for f in fields(c))
ESTIMATED = ("estimated_ms", "estimated_low_ms", "estimated_high_ms", "bound")
COUNTED = ("parameters", "flops", "flops_causal", "bytes", "kv_cache_bytes", "launches")
MEASURED = ("measured_ms", "measured_low_ms", "measured_high_ms", "n", "converged")
DERIVED = ("ratio", "ttft_ms", "tpot_ms", "tokens_per_s", "peak_gib", "estimated_gib")
COLUMNS = (
    *QUESTION,
    "weights",
    "device",
    "status",
    "reason",
    *ESTIMATED,
    *MEASURED,
    "flags",
    *DERIVED,
    *COUNTED,
    "key",
)


def table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record: the question, the estimate, the measurement, their ratio.

    ratio = measured / estimated time. ttft_ms is the time of a prefill, tpot_ms that of
    a decode step; tokens_per_s counts prompt tokens in a prefill, else new ones.
    """
    import pandas as pd

    return pd.DataFrame([_row(r) for r in records], columns=list(COLUMNS))


def _row(record: Record) -> dict[str, Any]:
    point = record.point
    row = {
        name: getattr(part, name) for part in _parts(record) for name in _names(part)
    }
    row |= {"weights": point.weights, "device": record.device, "key": record.key}
    row |= {"status": record.status, "reason": record.reason}
    if record.estimate:
        row |= _estimated(record.estimate)
    if record.measured:
        row |= _measured(record.measured) | _rates(record)
    return row


def _parts(record: Record) -> tuple[Any, ...]:
    return record.point.shape, record.point.workload, record.point.recipe


def _names(part: Any) -> list[str]:
    return [f.name for f in fields(part)]


def _estimated(e: Estimate) -> dict[str, Any]:
    moved = e.weight_bytes + e.activation_bytes + e.kv_read_bytes + e.kv_write_bytes
    return {
        "estimated_ms": e.seconds * 1e3,
        "estimated_low_ms": e.low_s * 1e3,
        "estimated_high_ms": e.high_s * 1e3,
        "bound": e.bound,
        "parameters": e.parameters,
        "flops": e.flops,
        "flops_causal": e.flops_causal,
        "bytes": moved,
        "kv_cache_bytes": e.kv_cache_bytes,
        "launches": e.launches,
        "estimated_gib": e.peak_bytes / 2**30,
    }


def _measured(m: Measurement) -> dict[str, Any]:
    return {
        "measured_ms": m.seconds * 1e3,
        "measured_low_ms": m.low_s * 1e3,
        "measured_high_ms": m.high_s * 1e3,
        "n": m.n,
        "converged": m.converged,
        "flags": " ".join(m.flags),
        "peak_gib": m.peak_bytes / 2**30 if m.peak_bytes is not None else None,
    }


def _rates(record: Record) -> dict[str, Any]:
    assert record.measured is not None
    work, seconds = record.point.workload, record.measured.seconds
    tokens = work.batch * (
        work.prompt_len if work.phase == "prefill" else work.new_tokens
    )
    rates = {"tokens_per_s": tokens / seconds}
    if record.estimate:
        rates["ratio"] = seconds / record.estimate.seconds
    named = {"prefill": "ttft_ms", "decode": "tpot_ms"}.get(work.phase)
    return rates | ({named: seconds * 1e3} if named else {})

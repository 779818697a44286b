"""The one table: a row for each record, in milliseconds; what its columns are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import pandas as pd

from fastlab.cost.memory import decode_bytes
from fastlab.latency.devices import device
from fastlab.record import Estimate, Measurement, Record
from fastlab.spec.grids import FLAT, flat

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
    *(*DERIVED, *UTILIZED, *QUALITY, *COUNTED, "key"),
)


def table(
    records: Iterable[Record], envs: Mapping[str, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """One row per record: the question, the estimate, the measurement, their ratio.

    ratio = measured / estimated time. ttft_ms is the time of a prefill, tpot_ms that of
    a decode step; tokens_per_s counts prompt tokens in a prefill, else new ones.
    mbu, of decoding, is `decode_bytes` a second over the datasheet's bandwidth, and
    mbu_copy over the one that a copy reached in the same run, where `envs` has it (the
    environments of a store, `Store.envs()`). rates: those that the estimate was made
    with, where the machine was busy. kl_nats to bits_per_byte: what was lost against
    dense fp32, where it was asked.
    """
    rows = [_row(r) | _utilized(r, envs or {}) for r in records]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(record: Record) -> dict[str, Any]:
    point = record.point
    row = flat(point) | {"device": record.device, "key": record.key}
    row |= {"status": record.status, "reason": record.reason}
    if record.estimate:
        row |= of_estimate(record.estimate)
    if record.effective:
        row["weights_mb"] = record.effective.weight_bytes / 1e6
    if record.measured:
        row |= _measured(record.measured) | _rates(record)
    if record.quality:
        row |= {n: getattr(record.quality, own) for n, own in QUALITY.items()}
    return row


def of_estimate(e: Estimate) -> dict[str, Any]:
    """The columns of an estimate, in milliseconds and gigabytes."""
    moved = e.weight_bytes + e.activation_bytes + e.kv_read_bytes + e.kv_write_bytes
    ends = zip(ESTIMATED, (e.seconds, e.low_s, e.high_s), strict=False)
    return {
        **{name: seconds * 1e3 for name, seconds in ends},
        **{name: getattr(e, name) for name in ("bound", *COUNTED) if name != "bytes"},
        "bytes": moved,
        "estimated_gb": e.peak_bytes / 1e9,
        "rates": "busy machine" if e.busy else None,
    }


def _measured(m: Measurement) -> dict[str, Any]:
    ends = zip(MEASURED, (m.seconds, m.low_s, m.high_s), strict=False)
    return {
        **{name: seconds * 1e3 for name, seconds in ends},
        "n": m.n,
        "converged": m.converged,
        "flags": " ".join(m.flags),
        "peak_gb": m.peak_bytes / 1e9 if m.peak_bytes is not None else None,
    }


def _rates(record: Record) -> dict[str, Any]:
    assert record.measured is not None
    work, seconds = record.point.workload, record.measured.seconds
    tokens = work.prompt_len if work.phase == "prefill" else work.new_tokens
    rates = {"tokens_per_s": work.batch * tokens / seconds}
    if record.estimate:
        rates["ratio"] = seconds / record.estimate.seconds
    named = {"prefill": "ttft_ms", "decode": "tpot_ms"}.get(work.phase)
    return rates | ({named: seconds * 1e3} if named else {})


def _utilized(record: Record, envs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """MBU against the datasheet and against the run's own copy; seconds to compile."""
    work, measured = record.point.workload, record.measured
    if measured is None:
        return {}
    row: dict[str, Any] = {"compile_s": measured.compile_s}
    if work.phase == "prefill" or record.effective is None:
        return row
    moved = decode_bytes(record.point, record.effective.weight_bytes)
    rate = moved * work.new_tokens / measured.seconds
    copied = envs.get(record.env, {}).get("copy_bytes_per_s")
    named = {"mbu": _bandwidth(record.device), "mbu_copy": copied}
    return row | {name: rate / most for name, most in named.items() if most}


@lru_cache
def _bandwidth(name: str) -> float | None:
    """The datasheet's bandwidth of a device in bytes per second, if it has one."""
    try:
        return device(name).bandwidth
    except ValueError:
        return None

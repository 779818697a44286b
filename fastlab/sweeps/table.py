"""Records -> a DataFrame: one row each, milliseconds, plain columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastlab.latency.devices import device
from fastlab.record import Estimate, Measurement, Record
from fastlab.spec.grids import FLAT, flat
from fastlab.spec.precision import Format, table_bytes
from fastlab.spec.recipe import kv_row_bytes
from fastlab.spec.shape import LEARNED_POSITIONS

if TYPE_CHECKING:
    import pandas as pd

QUESTION = tuple(FLAT)
ESTIMATED = ("estimated_ms", "estimated_low_ms", "estimated_high_ms", "bound")
COUNTED = ("parameters", "flops", "flops_causal", "bytes", "kv_cache_bytes", "launches")
MEASURED = ("measured_ms", "measured_low_ms", "measured_high_ms", "n", "converged")
DERIVED = ("ratio", "ttft_ms", "tpot_ms", "tokens_per_s", "peak_gib", "estimated_gib")
UTILIZED = ("mbu", "mbu_copy", "compile_s")
LOST = ("kl_nats", "top1", "max_abs", "bits_per_byte", "dense_bits_per_byte")
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
    *UTILIZED,
    *LOST,
    *COUNTED,
    "key",
)


def table(
    records: Iterable[Record], envs: Mapping[str, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """One row per record: the question, the estimate, the measurement, their ratio.

    ratio = measured / estimated time. ttft_ms is the time of a prefill, tpot_ms that of
    a decode step; tokens_per_s counts prompt tokens in a prefill, else new ones.
    mbu, of decoding, is `decode_bytes` a second over the datasheet's bandwidth, and
    mbu_copy over the one that a copy reached in the same run, where `envs` has it (the
    environments of a store, `Store.envs()`). kl_nats to bits_per_byte: what was lost
    against dense fp32, where it was asked.
    """
    import pandas as pd

    rows = [_row(r) | _utilized(r, envs or {}) for r in records]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(record: Record) -> dict[str, Any]:
    point = record.point
    row = flat(point) | {"device": record.device, "key": record.key}
    row |= {"status": record.status, "reason": record.reason}
    if record.estimate:
        row |= _estimated(record.estimate)
    if record.measured:
        row |= _measured(record.measured) | _rates(record)
    if record.quality:
        row |= {name: getattr(record.quality, name) for name in LOST}
    return row


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


def decode_bytes(record: Record) -> int:
    """Bytes that one decode step must read: weights as stored, keys and values.

    Scales are counted, the input embedding table is not (one row of it is read): facts
    of the row itself, by the definition of memory bandwidth utilization (MBU) that
    gpt-fast uses, with the KV cache added. Over a generation the mean of its steps.
    """
    assert record.effective is not None
    point = record.point
    shape, work, recipe = point.built_shape, point.workload, point.recipe
    made, value = recipe.format, 4 if recipe.format.dense in ("fp32", "tf32") else 2
    own_head = not shape.tied or (made.weights and recipe.scope != "layers")
    whole = made if recipe.scope == "all" else Format(made.dense)
    table = table_bytes(whole, shape.vocab, shape.hidden, value) if own_head else 0
    learned = shape.family in LEARNED_POSITIONS
    table += shape.max_positions * shape.hidden * value if learned else 0
    positions = work.prompt_len + (work.new_tokens + 1) // 2
    row = (
        2
        * shape.layers
        * shape.kv_heads
        * kv_row_bytes(recipe.cache, value, shape.head_dim)
    )
    return record.effective.weight_bytes - table + work.batch * positions * row


def _utilized(record: Record, envs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """MBU against the datasheet and against the run's own copy; seconds to compile."""
    work, measured = record.point.workload, record.measured
    if measured is None:
        return {}
    row: dict[str, Any] = {"compile_s": measured.compile_s}
    if work.phase == "prefill" or record.effective is None:
        return row
    rate = decode_bytes(record) * work.new_tokens / measured.seconds
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

"""Memory bandwidth utilization: the bytes of one decode step, worked out."""

from dataclasses import replace
from typing import Any

import pytest

from fastlab.cost.memory import decode_bytes
from fastlab.record import Effective, Measurement, Record
from fastlab.rows import table
from fastlab.spec import point_of

SIZES = {"family": "llama", "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2}
SIZES |= {"head_dim": 16, "ffn": 128, "vocab": 500}
WHOLE = 10**6  # stored bytes of all weights, made up


def record(seconds: float = 1e-3, device: str = "a chip", **over: Any) -> Record:
    point = point_of(**{**SIZES, "phase": "decode", "prompt_len": 99, **over})
    made = Measurement(
        seconds, seconds, seconds, 3, True, "n_max", "warm", 1, 0.1, compile_s=2.5
    )
    effective = Effective("bfloat16", "sdpa", 1, WHOLE)
    bare = Record(point, device, {}, "ok", measured=made, env="here")
    return replace(bare, effective=effective)


# Keys and values: 2 layers x 2 x 2 heads x 16 = 128 numbers at each of 100 positions.
BF16, FP32 = ({"precision": name, "tied": True} for name in ("bf16", "fp32"))
INT8 = {"precision": "int8", "tied": True}


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        (BF16, WHOLE + 100 * 128 * 2),
        (BF16 | {"tied": False}, WHOLE - 500 * 64 * 2 + 100 * 128 * 2),
        (FP32 | {"cache": "none"}, WHOLE),
        # int8 KV: a byte each and 4 for each of 8 rows of 16.
        (FP32 | {"cache": "static-int8"}, WHOLE + 100 * (128 + 8 * 4)),
        # A quantized head has weights of its own; the table stays dense ...
        (INT8 | {"scope": "head"}, WHOLE - 500 * 64 * 2 + 100 * 128 * 2),
        # ... or is int8 too, with a scale of 2 bytes a row.
        (INT8 | {"scope": "all"}, WHOLE - 500 * (64 + 2) + 100 * 128 * 2),
        # 99 + 10 / 2 positions on average.
        (BF16 | {"phase": "generate", "new_tokens": 10}, WHOLE + 104 * 128 * 2),
    ],
)
def test_bytes_of_a_step(over, expected):
    assert decode_bytes(record(**over).point, WHOLE) == expected


def test_learned_positions_are_a_table_too():
    sizes = {"family": "gpt2", "kv_heads": 4, "max_positions": 200, "ffn": 256}
    gpt2 = record(precision="fp32", cache="none", tied=True, **sizes)
    assert decode_bytes(gpt2.point, WHOLE) == WHOLE - 200 * 64 * 4


def test_utilization_columns():
    envs = {"here": {"copy_bytes_per_s": 2e9}}
    rows = [
        record(1e-3, **BF16, cache="none"),
        record(1e-3, "NVIDIA H200", **BF16, cache="none"),
        record(1e-3, phase="prefill"),
    ]
    found = table(rows, envs)
    assert found["mbu_copy"][0] == pytest.approx(0.5)  # 1e6 bytes in 1 ms: 1e9 a second
    assert found["mbu"].isna().tolist() == [True, False, True]
    assert found["mbu"][1] == pytest.approx(1e9 / 4.8e12)
    assert found["mbu_copy"].isna()[2]
    assert found["compile_s"].tolist() == [2.5] * 3
    assert table(rows)["mbu_copy"].isna().all()

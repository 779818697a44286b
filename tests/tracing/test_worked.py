"""Numbers that were worked out by hand, of shapes that are counted by watching."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab.cost.memory import kv_cache_bytes, memory_footprint, parameters
from fastlab.cost.operations import operations, total
from fastlab.models import config_of
from fastlab.spec import ModelShape, Point, Recipe, Workload
from fastlab.tracing.configs import class_of
from tests.runtime.families import small_config
from tests.tracing.reference import held, point


@pytest.mark.parametrize("tokens", [1, 100])
def test_experts_that_are_read(tokens: int) -> None:
    """Of E = 4 experts k = 2 a token: 4 (1 - 2^-T) of (96 x 64 + 64 x 48) weights."""
    shape = ModelShape.from_config(small_config("mixtral"))
    asked = Point(shape, Workload("prefill", 1, tokens), Recipe("bf16"))
    read = sum(
        op.times * op.weight_bytes
        for op in operations(asked)
        if op.name.endswith("experts") and op.kind == "linear"
    )
    touched = 4 * (1 - 0.5**tokens)
    assert read == pytest.approx(4 * 2 * touched * (96 * 64 + 64 * 48), rel=1e-4)


def test_a_window_is_seen_by_decode_and_kept_by_the_cache() -> None:
    """Four layers, 2 heads of 16 for keys, window 8: 7 past positions and the new one.

    Scores and sums of 4 query heads: 4 layers x 4 x (2 sequences x 4 heads x 8 x 16).
    """
    shape = ModelShape.from_config(small_config("mistral"))
    wide = ModelShape.from_config(small_config("mistral", sliding_window=None))
    step = point(shape, "decode", 67)
    assert kv_cache_bytes(step) == 4 * 2 * (2 * 7 * 2 * 16) * 2
    beyond = total(point(wide, "decode", 67), "flops") - total(step, "flops")
    assert beyond == 4 * 4 * 2 * 4 * (68 - 8) * 16


def test_a_latent_cache_by_hand() -> None:
    """transformers keeps a vector of 32 for all heads, and 8 that are turned."""
    shape = ModelShape.from_config(small_config("deepseek_v2"))
    asked = point(shape, "prefill", 19)
    assert kv_cache_bytes(asked) == 4 * 2 * 19 * (32 + 8) * 2


def test_prompts_shorter_than_a_window_are_kept_whole() -> None:
    shape = ModelShape.from_config(small_config("mistral"))
    assert kv_cache_bytes(point(shape, "prefill", 5)) == 4 * 2 * (2 * 5 * 2 * 16) * 2
    assert kv_cache_bytes(point(shape, "decode", 4)) == 4 * 2 * (2 * 5 * 2 * 16) * 2


def test_layer_types_may_be_mixed() -> None:
    """One layer of four sees all: 3 x 7 and 1 x 67 positions are kept."""
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    config = small_config("gemma3_text", layer_types=kinds)
    asked = point(ModelShape.from_config(config), "prefill", 67)
    row = 2 * 2 * 2 * 16 * 2  # sequences, keys and values, heads, width, bytes
    assert kv_cache_bytes(asked) == (3 * 7 + 67) * row


SHAPES = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 3),
        "heads": st.sampled_from([2, 4]),
        "head_dim": st.sampled_from([8, 16]),
        "ffn": st.sampled_from([40, 72]),
        "vocab": st.sampled_from([53, 97]),
    }
)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "bert"])
@settings(max_examples=3, deadline=None)
@given(sizes=SHAPES, batch=st.integers(1, 4), length=st.integers(2, 70))
def test_closed_forms_are_what_is_watched(
    family: str, sizes: dict[str, Any], batch: int, length: int
) -> None:
    hidden = sizes["heads"] * sizes["head_dim"]
    closed = ModelShape(family, hidden=hidden, max_positions=80, **sizes)
    watched = traced(closed)
    assert parameters(closed) == parameters(watched)
    for phase in ("prefill",) if family == "bert" else ("prefill", "decode"):
        work, recipe = Workload(phase, batch, length), Recipe("bf16")
        one, two = Point(closed, work, recipe), Point(watched, work, recipe)
        for field in ("flops", "kv_read_bytes", "kv_write_bytes"):
            assert total(one, field) == total(two, field), field
        assert kv_cache_bytes(one) == kv_cache_bytes(two)


def traced(shape: ModelShape) -> ModelShape:
    """The same model as one that has a config, as options of its own have."""
    import json
    from dataclasses import replace

    config = config_of(shape)
    told = config.to_dict() | {"architectures": [class_of(config).__name__]}
    own = {k: v for k, v in told.items() if k not in ("dtype", "transformers_version")}
    return replace(shape, config=json.dumps(own))


@pytest.mark.parametrize(
    "kind",
    [
        "mistral",
        "qwen2",
        "opt",
        "mixtral",
        "olmoe",
        "mamba",
        "roberta",
        "gpt_oss",
        "gemma2",
        "bloom",
        "falcon",
    ],
)
def test_peak_is_near_what_a_run_holds(kind: str) -> None:
    """Beside the weights, at sizes that were not traced, in fp32 on the CPU."""
    over = {"is_decoder": False} if kind == "roberta" else {}
    config = small_config(kind, **over)
    shape = ModelShape.from_config(config)
    for phase, most in held(config, shape.kind, 67).items():
        footprint = memory_footprint(point(shape, phase, 67, "fp32"))
        assert footprint.peak - footprint.weights == pytest.approx(most, rel=0.15)

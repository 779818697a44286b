"""A point in other sizes keeps its proportions, or says why it cannot."""

from __future__ import annotations

import pytest

from fastlab.spec import point_of
from fastlab.spec.point import lengthened, vary
from fastlab.spec.shape import widened


def test_a_wider_model_has_more_heads_of_the_same_size():
    shape = widened(point_of(model="llama-3.2-1b").shape, 4096)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (64, 16, 64)
    assert (shape.hidden, shape.ffn, shape.vocab) == (4096, 16384, 128256)


def test_the_same_width_is_the_same_shape():
    for name in ("gpt2", "bert", "tiny-qwen3", "llama-3.1-8b"):
        shape = point_of(model=name).shape
        assert widened(shape, shape.hidden) == shape


def test_narrow_models_keep_at_least_one_kv_head():
    shape = widened(point_of(model="llama-3.2-1b").shape, 192)
    assert (shape.heads, shape.kv_heads) == (3, 1)


def test_a_width_of_no_whole_head_is_refused_with_the_step():
    with pytest.raises(ValueError, match="hidden=100 must be a multiple of 64"):
        vary(point_of(model="gpt2"), "hidden", 100)


def test_a_longer_prompt_brings_its_positions():
    point = lengthened(point_of(model="gpt2"), 4096)
    assert point.workload.prompt_len == 4096
    assert point.shape.max_positions == 4097
    assert lengthened(point_of(model="gpt2"), 512).shape.max_positions == 1024


def test_other_fields_of_the_shape_are_replaced():
    assert vary(point_of(model="gpt2"), "layers", 3).shape.layers == 3
    assert vary(point_of(model="gpt2"), "prompt_len", 7).workload.prompt_len == 7

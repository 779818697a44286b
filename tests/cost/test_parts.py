"""FLOPs by part and bytes by kind add up, and are those of a hand count."""

from __future__ import annotations

import pytest

from fastlab.cost.operations import (
    PARTS,
    bytes_by_kind,
    flops_by_part,
    operations,
    part_of,
    total,
)
from fastlab.spec import point_of


@pytest.mark.parametrize(
    "model", ["tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-bert"]
)
def test_the_parts_are_all_flops_and_the_kinds_all_bytes(model):
    point = point_of(model=model)
    found = flops_by_part(point)
    assert tuple(found) == PARTS
    assert sum(found.values()) == total(point, "flops")
    moved = sum(op.times * op.bytes for op in operations(point))
    assert sum(bytes_by_kind(point).values()) == moved


def test_gpt2s_parts_by_hand():
    """n = 1024, H = 768: 8 n H² projections, 4 n² H attention, 16 n H² MLP a layer."""
    n, h, v = 1024, 768, 50257
    assert flops_by_part(point_of(model="gpt2", prompt_len=n)) == {
        "projections": 12 * 8 * n * h * h,
        "attention": 12 * 4 * n * n * h,
        "MLP": 12 * 16 * n * h * h,
        "head": 2 * n * h * v,
    }


def test_what_does_no_product_belongs_to_no_part():
    found = {op.name: part_of(op) for op in operations(point_of(model="tiny-bert"))}
    assert found["norm1"] is None
    assert found["mlp.gelu"] is None
    assert found["q"] == found["out"] == "projections"
    assert found["head.transform"] == found["head"] == "head"

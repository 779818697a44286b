"""Workload, Recipe, Point and grid: what fits together, and keys that never change."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlab.spec import ModelShape, Point, Recipe, Workload, grid, point_of
from fastlab.spec.checks import canonical
from tests.spec.test_shape import shapes

TINY = ModelShape("gpt2", 2, 64)


@st.composite
def points(draw: st.DrawFn) -> Point:
    """Any small valid point."""
    shape = draw(shapes())
    encoder = shape.family == "bert"
    phase = "prefill" if encoder else draw(st.sampled_from(["prefill", "decode"]))
    work = Workload(
        phase,
        batch=draw(st.integers(1, 3)),
        prompt_len=draw(st.integers(1, 15)),
        logits="all" if encoder else draw(st.sampled_from(["all", "last"])),
    )
    recipe = Recipe(
        draw(st.sampled_from(["fp32", "bf16"])),
        draw(st.sampled_from(["sdpa", "eager"])),
    )
    return Point(shape, work, recipe, f"random:{draw(st.integers(0, 9))}")


@given(points())
def test_json_gives_the_point_back(point: Point) -> None:
    again = Point.from_dict(json.loads(canonical(point.to_dict())))
    assert again == point
    assert again.key == point.key


def test_keys_never_change() -> None:
    """Rows on disk are found by these: a new field must not alter an old key."""
    plain = Point(TINY)
    assert canonical(plain.to_dict()) == (
        '{"recipe":{"precision":"fp32"},"shape":{"family":"gpt2","hidden":64,"layers":2},'
        '"weights":"random:0","workload":{"batch":1,"phase":"prefill","prompt_len":128}}'
    )
    key = "02a67c57f39ea83b"
    assert plain.key.startswith(key), plain.key


def test_the_cache_follows_from_the_family() -> None:
    assert Point(TINY).recipe.cache == "dynamic"
    assert Point(ModelShape("bert", 1, 64)).recipe.cache == "none"
    assert "cache" not in Point(ModelShape("bert", 1, 64)).to_dict()["recipe"]
    without = Point(TINY, recipe=Recipe(cache="none"))
    assert without.to_dict()["recipe"]["cache"] == "none"


def test_positions_that_a_call_reaches() -> None:
    assert Workload("prefill", prompt_len=10).positions == 10
    assert Workload("decode", prompt_len=10).positions == 11
    assert Workload("generate", prompt_len=10, new_tokens=5).positions == 14


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"phase": "decod"}, "phase='decod' .* did you mean decode"),
        ({"prompt_len": 2000}, "prompt_len=2000 needs 2000 .* max_positions=1024"),
        ({"prompt_len": 1024, "phase": "decode"}, "needs 1025 positions"),
        ({"precision": "bf61"}, "precision='bf61' .* did you mean bf16"),
        ({"batch": 0}, "batch=0 must be a whole number from 1"),
        ({"new_tokens": 3}, "new_tokens=3 must be 0 in phase prefill"),
        ({"family": "bert", "phase": "decode"}, "does not decode"),
        ({"family": "bert", "logits": "last"}, "bert scores every position"),
        ({"family": "bert", "cache": "dynamic"}, "cache='dynamic' must be 'none'"),
        ({"weights": "zeros"}, "weights='zeros' must be random:<seed> or trained,"),
        ({"weights": "pretrained"}, "model's own; did you mean trained?"),
        ({"weights": "random"}, "did you mean random:0?"),
        ({"hiden": 3}, "'hiden'; did you mean hidden"),
        ({"layers": []}, r"layers=\[\] must have at least one value"),
    ],
)
def test_refused_before_any_work(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grid(**{"layers": 2, "hidden": 64, **values})


def test_grid_is_the_product_and_the_last_field_varies_fastest() -> None:
    made = grid(layers=[2, 4], hidden=64, precision=["fp32", "bf16"])
    assert [(p.shape.layers, p.recipe.precision) for p in made] == [
        (2, "fp32"),
        (2, "bf16"),
        (4, "fp32"),
        (4, "bf16"),
    ]


def test_a_model_with_an_override_is_still_that_model() -> None:
    made = point_of(model="llama-3.1-8b", layers=2)
    assert (made.shape.layers, made.shape.ffn, made.shape.kv_heads) == (2, 14336, 8)
    assert point_of(model="gpt2", layers=12) == point_of(model="gpt2")


def test_sizes_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="hidden must be given, or model="):
        grid(layers=2)

"""Points from flat names, what fits together, and keys that never change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlab.cost.memory import kv_cache_bytes, peak_bytes, weight_bytes
from fastlab.cost.operations import operations
from fastlab.spec import ModelShape, Point, Recipe, Workload, grid, point_of
from fastlab.spec.checks import canonical
from fastlab.spec.grids import FLAT, flat, trained_source
from fastlab.spec.pruning import Pruning
from fastlab.spec.recipe import bucket
from fastlab.spec.storage import Sharing, Sparsity
from tests.spec.test_shape import shapes

TINY = ModelShape("gpt2", 2, 64)
SIZES = {"layers": 4, "hidden": 128, "heads": 4, "ffn": 512, "vocab": 256}
LLAMA = {"family": "llama", **SIZES}


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


@pytest.mark.parametrize(
    ("fields", "cache"),
    [
        ({"phase": "prefill"}, "dynamic"),
        ({"phase": "decode"}, "dynamic"),
        ({"phase": "prefill", "runtime": "compile"}, "dynamic"),
        ({"phase": "decode", "runtime": "compile"}, "static"),
        ({"phase": "generate", "runtime": "transformers"}, "static"),
        ({"phase": "decode", "runtime": "graph"}, "static"),
        ({"family": "bert"}, "none"),
    ],
)
def test_the_usual_cache_is_left_out_of_the_key(fields: dict, cache: str) -> None:
    point = point_of(**LLAMA | fields)
    assert point.recipe.cache == cache
    assert set(point.to_dict()["recipe"]) <= {"precision", "runtime"}
    assert Point.from_dict(point.to_dict()) == point


def test_what_was_chosen_is_part_of_the_key() -> None:
    without = Point(TINY, recipe=Recipe(cache="none"))
    assert without.to_dict()["recipe"]["cache"] == "none"
    prefix = Point(TINY, Workload(prefix_len=64), Recipe(cache="static"))
    assert prefix.to_dict()["workload"]["prefix_len"] == 64


def test_positions_that_a_call_reaches() -> None:
    assert Workload("prefill", prompt_len=10).positions == 10
    assert Workload("decode", prompt_len=10).positions == 11
    assert Workload("generate", prompt_len=10, new_tokens=5).positions == 14


def test_a_static_cache_has_two_lengths_a_doubling() -> None:
    """The least of 128, 192, 256, ... that holds all: a third is empty at most."""
    lengths = [128, 192, 256, 384, 512, 768]
    assert [bucket(n) for n in (1, 128, 129, 193, 257, 385, 513)] == [128, *lengths]
    assert all(p <= bucket(p) <= 1.5 * p for p in range(128, 20_000, 7))


def test_grid_is_the_product_and_the_last_field_varies_fastest() -> None:
    made = grid(layers=[2, 4], hidden=64, precision=["fp32", "bf16"])
    found = [(p.shape.layers, p.recipe.precision) for p in made]
    assert found == [(2, "fp32"), (2, "bf16"), (4, "fp32"), (4, "bf16")]


def test_a_model_with_an_override_is_still_that_model() -> None:
    made = point_of(model="llama-3.1-8b", layers=2)
    assert (made.shape.layers, made.shape.ffn, made.shape.kv_heads) == (2, 14336, 8)
    assert point_of(model="gpt2", layers=12) == point_of(model="gpt2")


# --- what is made smaller, as fields of a recipe


def test_flat_names_become_parts_of_the_recipe() -> None:
    point = point_of(**LLAMA, prune_layers=0.5, prune_ffn=0.25, sparse_ratio=0.9)
    assert point.recipe.pruning == Pruning(layers=0.5, ffn=0.25)
    assert point.recipe.sparsity == Sparsity(0.9)
    assert point.recipe.sharing is None
    assert point_of(**LLAMA, share_bits=3).recipe.sharing == Sharing(3)


def test_zero_leaves_a_part_out_and_its_key_as_it_was() -> None:
    off = {"prune_layers": 0, "sparse_ratio": 0, "sparse_method": "wanda"}
    bare = point_of(**LLAMA)
    assert point_of(**LLAMA, **off, share_bits=0) == bare
    assert set(bare.to_dict()["recipe"]) == {"precision"}


parts = st.fixed_dictionaries(
    {},
    optional={
        "prune_layers": st.sampled_from([0, 0.25, 0.5]),
        "prune_heads": st.sampled_from([0, 0.5]),
        "prune_ffn": st.sampled_from([0, 0.25, 0.5]),
        "prune_importance": st.sampled_from(["magnitude", "taylor", "random"]),
        "prune_seed": st.integers(0, 3),
        "precision": st.sampled_from(["fp32", "bf16"]),
    },
)
ways: Any = st.sampled_from(
    [
        {},
        {"sparse_ratio": 0.3, "sparse_method": "wanda"},
        {"sparse_pattern": "1:2", "sparse_storage": "csr"},
        {"share_bits": 6, "share_rows": 2},
    ]
)


@given(parts, ways)
def test_a_point_comes_back_from_its_flat_fields_and_its_json(
    made: dict[str, Any], way: dict[str, Any]
) -> None:
    point = point_of(**LLAMA, **made, **way)
    assert set(flat(point)) == {*FLAT, "weights"}
    assert point_of(**flat(point)) == point
    assert Point.from_dict(point.to_dict()) == point
    assert hash(Point.from_dict(point.to_dict())) == hash(point)


@given(parts)
def test_every_count_is_that_of_a_model_born_with_the_built_shape(
    made: dict[str, Any],
) -> None:
    point = point_of(**LLAMA, phase="generate", new_tokens=4, **made)
    born = point.built
    assert born.shape == point.built_shape and not born.recipe.prunes
    assert operations(point) == operations(born)
    for count in (weight_bytes, kv_cache_bytes, peak_bytes):
        assert count(point) == count(born)


def test_groups_must_divide_what_pruning_leaves() -> None:
    """4 heads of 32 at hidden 128: of ffn 256 half is 128, two groups of 64."""
    shape = LLAMA | {"ffn": 256}
    assert point_of(**shape, precision="int4-g64", prune_ffn=0.5).built_shape.ffn == 128
    with pytest.raises(ValueError, match="groups of 128 do not divide ffn=192"):
        point_of(**(LLAMA | {"ffn": 384}), precision="int4-g128", prune_ffn=0.5)


def test_labels_say_what_was_made_smaller() -> None:
    point = point_of(**LLAMA, prune_layers=0.5, sparse_ratio=0.9, sparse_storage="csr")
    assert point.label == "llama 2x128 fp32 pruned 90% csr prefill 128"
    assert "3-bit palette" in point_of(**LLAMA, share_bits=3).label


def test_trained_weights_are_those_of_one_model() -> None:
    asked = {"model": "a/b", "weights": "trained"}
    assert trained_source(asked, {"layers": 2}) == "a/b"
    assert trained_source({"model": "gpt2"}) == ""
    with pytest.raises(ValueError, match="trained weights of one model at a time"):
        trained_source({"model": ["a/b", "c/d"], "weights": ["random:0", "trained"]})


# --- refused before any work, by field, value and what is allowed

BERT, GPT2 = {"family": "bert"}, {"family": "gpt2"}
DECODE, PALETTE = {"phase": "decode"}, {"share_bits": 3}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"phase": "decod"}, "phase='decod' .* did you mean decode"),
    (GPT2 | {"prompt_len": 2000}, "prompt_len=2000 needs 2000 .* max_positions=1024"),
    (GPT2 | DECODE | {"prompt_len": 1024}, "needs 1025 positions"),
    ({"precision": "bf61"}, "precision='bf61' .* did you mean bf16"),
    ({"precision": "int4"}, r"did you mean int4-g(32|64|128)\?"),
    ({"batch": 0}, "batch=0 must be a whole number from 1"),
    ({"new_tokens": 3}, "new_tokens=3 must be 0 in phase prefill"),
    (BERT | DECODE, "does not decode"),
    (BERT | {"logits": "last"}, "bert scores every position"),
    (BERT | {"cache": "dynamic"}, "cache='dynamic' must be 'none' for bert"),
    (BERT | {"runtime": "graph"}, "or autotuned for an encoder"),
    ({"weights": "zeros"}, "weights='zeros' must be random:<seed> or trained,"),
    ({"weights": "pretrained"}, "model's own; did you mean trained?"),
    ({"weights": "random"}, "did you mean random:0?"),
    ({"weights": "trained"}, "weights='trained' needs model="),
    ({"hiden": 3}, "'hiden'; did you mean hidden"),
    ({"layers": []}, r"layers=\[\] must have at least one value"),
    ({"scope": "head", "precision": "bf16"}, "scope='head' needs a quantized"),
    ({"unroll": 4}, "unroll=4 needs runtime decoder or graph"),
    (DECODE | {"unroll": 4, "runtime": "graph"}, "must be 1 in phase"),
    ({"runtime": "graph"}, "runtime='graph' needs phase decode or generate"),
    (
        DECODE | {"runtime": "decoder", "cache": "dynamic"},
        "of compiled code must not change; this is phase='decode' with cache='dynam",
    ),
    (DECODE | {"runtime": "transformers"}, "'transformers' needs phase generate"),
    ({"prefix_len": 64}, "prefix_len=64 needs a static cache"),
    ({"prefix_len": 128, "cache": "static"}, "must be less than prompt_len=128"),
    (DECODE | {"prefix_len": 8}, "prefix_len=8 must be 0 in phase"),
    ({"precision": "int4-g128", "hidden": 192}, "groups of 128 do not divide hidden="),
    ({"sparse_method": "wanda"}, "sparse_method='wanda' needs sparse_ratio or"),
    ({"share_rows": 4}, "share_rows=4 needs share_bits"),
    ({"prune_depth": 0.5}, "unknown grid field 'prune_depth'"),
    ({"prune_layers": 1.5}, "^prune_layers=1.5 must be the share that is cut"),
    ({"prune_layers": 0.01}, "^prune_layers=0.01 cuts nothing from 4"),
    ({"prune_importance": "tailor"}, "^prune_importance='tailor' .* mean taylor"),
    ({"share_bits": 5}, "^share_bits=5 is not one of 2, 3, 4, 6"),
    (PALETTE | {"share_rows": 7}, "^share_rows=7: groups do not divide 128 rows"),
    (PALETTE | {"sparse_ratio": 0.5}, "^share_bits=3 and sparse_ratio=0.5 exclude"),
    (PALETTE | {"precision": "int8"}, "precision='int8' does not go with"),
    ({"sparse_pattern": "2-4"}, "^sparse_pattern='2-4' must be N:M"),
    ({"sparse_pattern": "3:7"}, "^sparse_pattern='3:7': groups of 7 do not divide"),
    (
        {"sparse_pattern": "3:4", "sparse_storage": "2:4"},
        "^sparse_storage='2:4' needs sparse_pattern='2:4'; .* sparse_pattern='3:4'",
    ),
    (
        {"sparse_pattern": "2:4", "sparse_storage": "2:4", "prune_ffn": 0.3},
        "^sparse_storage='2:4': 358 outputs and 128 inputs of mlp.gate must be",
    ),
    (
        {"sparse_ratio": 0.5, "sparse_storage": "csr", "runtime": "compile"},
        "runtime='compile' must be eager with weights stored as csr",
    ),
    (
        GPT2 | {"prune_hidden": 0.25},
        "^prune_heads=0.0 and prune_hidden=0.25 must be equal in gpt2",
    ),
    ({"distill_steps": 5}, "distill_steps=5 needs something that is pruned"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        grid(**LLAMA | fields)


def test_sizes_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="hidden must be given, or model="):
        grid(layers=2)

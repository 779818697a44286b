"""What is made smaller, as fields of a recipe: names, keys, shapes, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlab.cost.memory import kv_cache_bytes, peak_bytes, weight_bytes
from fastlab.cost.operations import operations
from fastlab.spec import Point, point_of
from fastlab.spec.grids import FLAT, flat, grid, trained_source
from fastlab.spec.pruning import Pruning
from fastlab.spec.recipe import Recipe
from fastlab.spec.storage import Sharing, Sparsity

SIZES = {"layers": 4, "hidden": 128, "heads": 4, "ffn": 512, "vocab": 256}
LLAMA = {"family": "llama", **SIZES}


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
ways = st.sampled_from(
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


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparse_method": "wanda"}, "sparse_method='wanda' needs sparse_ratio or"),
        ({"share_rows": 4}, "share_rows=4 needs share_bits"),
        ({"prune_depth": 0.5}, "unknown grid field 'prune_depth'"),
        ({"prune_layers": 1.5}, "^prune_layers=1.5 must be the share that is cut"),
        ({"prune_layers": 0.01}, "^prune_layers=0.01 cuts nothing from 4"),
        ({"prune_importance": "tailor"}, "^prune_importance='tailor' is not one of"),
        ({"share_bits": 5}, "^share_bits=5 is not one of 2, 3, 4, 6"),
        (
            {"share_bits": 3, "share_rows": 7},
            "^share_rows=7: groups do not divide 128 rows",
        ),
        (
            {"share_bits": 3, "sparse_ratio": 0.5},
            "^share_bits=3 and sparse_ratio=0.5 exclude each other",
        ),
        ({"sparse_pattern": "2-4"}, "^sparse_pattern='2-4' must be N:M"),
        (
            {"sparse_pattern": "3:4", "sparse_storage": "2:4"},
            "^sparse_storage='2:4' needs sparse_pattern='2:4'; .* sparse_pattern='3:4'",
        ),
        (
            {"prune_hidden": 0.25, "family": "gpt2"},
            "^prune_heads=0.0 and prune_hidden=0.25 must be equal in gpt2",
        ),
        ({"share_bits": 3, "precision": "int8"}, "precision='int8' does not go with"),
        (
            {"sparse_ratio": 0.5, "sparse_storage": "csr", "runtime": "compile"},
            "runtime='compile' must be eager with weights stored as csr",
        ),
        ({"sparse_pattern": "3:7"}, "^sparse_pattern='3:7': groups of 7 do not divide"),
        (
            {"sparse_pattern": "2:4", "sparse_storage": "2:4", "prune_ffn": 0.3},
            "^sparse_storage='2:4': ",
        ),
        ({"weights": "trained"}, "weights='trained' needs model="),
        ({"distill_steps": 5}, "distill_steps=5 needs something that is pruned"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        grid(**(LLAMA | fields))


def test_groups_must_divide_what_pruning_leaves() -> None:
    """4 heads of 32 at hidden 128: of ffn 256 half is 128, two groups of 64."""
    shape = LLAMA | {"ffn": 256}
    assert point_of(**shape, precision="int4-g64", prune_ffn=0.5).built_shape.ffn == 128
    with pytest.raises(ValueError, match="groups of 128 do not divide ffn=192"):
        point_of(**(LLAMA | {"ffn": 384}), precision="int4-g128", prune_ffn=0.5)


def test_a_mapping_makes_a_part_as_its_fields_do() -> None:
    assert Recipe(pruning={"ffn": 0.5}) == Recipe(pruning=Pruning(ffn=0.5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown Pruning field 'fnn'"):
        Recipe(pruning={"fnn": 0.5})  # type: ignore[arg-type]


def test_labels_say_what_was_made_smaller() -> None:
    point = point_of(**LLAMA, prune_layers=0.5, sparse_ratio=0.9, sparse_storage="csr")
    assert point.label == "llama 2x128 fp32 pruned 90% csr prefill 128"
    assert "3-bit palette" in point_of(**LLAMA, share_bits=3).label


def test_trained_weights_are_those_of_one_model() -> None:
    assert (
        trained_source({"model": "a/b", "weights": "trained"}, {"layers": 2}) == "a/b"
    )
    assert trained_source({"model": "gpt2"}) == ""
    with pytest.raises(ValueError, match="trained weights of one model at a time"):
        trained_source({"model": ["a/b", "c/d"], "weights": ["random:0", "trained"]})

"""Recipes: what fits together, what is refused by name, and the keys they make."""

import pytest

from fastlab.spec import ModelShape, Point, Recipe, Workload, point_of
from fastlab.spec.formats import FORMATS, PRECISIONS
from fastlab.spec.recipe import bucket

LLAMA = {"family": "llama", "layers": 2, "hidden": 128, "heads": 4, "vocab": 256}


def test_plain_recipes_keep_the_keys_they_had():
    point = point_of(**LLAMA, precision="bf16")
    assert point.to_dict()["recipe"] == {"precision": "bf16"}
    assert "prefix_len" not in point.to_dict()["workload"]


@pytest.mark.parametrize(
    ("fields", "cache"),
    [
        ({"phase": "prefill"}, "dynamic"),
        ({"phase": "decode"}, "dynamic"),
        ({"phase": "prefill", "runtime": "compile"}, "dynamic"),
        ({"phase": "decode", "runtime": "compile"}, "static"),
        ({"phase": "generate", "runtime": "transformers"}, "static"),
        ({"phase": "decode", "runtime": "graph"}, "static"),
    ],
)
def test_usual_cache_is_left_out_of_the_key(fields, cache):
    point = point_of(**LLAMA, **fields)
    assert point.recipe.cache == cache
    assert "cache" not in point.to_dict()["recipe"]
    assert Point.from_dict(point.to_dict()) == point


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"precision": "int4"}, r"did you mean int4-g(32|64|128)\?"),
        ({"scope": "head", "precision": "bf16"}, "scope='head' needs a quantized"),
        ({"unroll": 4}, "unroll=4 needs runtime decoder or graph"),
        ({"unroll": 4, "runtime": "graph", "phase": "decode"}, "must be 1 in phase"),
        ({"runtime": "graph"}, "runtime='graph' needs phase decode or generate"),
        (
            {"runtime": "decoder", "phase": "decode", "cache": "dynamic"},
            "this is phase='decode' with cache='dynamic'",
        ),
        (
            {"runtime": "transformers", "phase": "decode"},
            "runtime='transformers' is generate",
        ),
        (
            {"runtime": "compile", "phase": "decode", "cache": "dynamic"},
            "shapes change",
        ),
        ({"prefix_len": 64}, "prefix_len=64 needs a static cache"),
        ({"prefix_len": 128, "cache": "static"}, "must be less than prompt_len=128"),
        ({"prefix_len": 8, "phase": "decode"}, "prefix_len=8 must be 0 in phase"),
        (
            {"precision": "int4-g128", "hidden": 192, "ffn": 512},
            "groups of 128 do not divide hidden=192",
        ),
        ({"family": "bert", "runtime": "graph"}, "must be eager or compile for bert"),
        ({"family": "bert", "cache": "static"}, "must be 'none' for bert"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        point_of(**{**LLAMA, **fields})


def test_formats():
    assert PRECISIONS[:4] == ("fp32", "tf32", "fp16", "bf16")
    form = FORMATS["int4-g64"]
    assert (form.dense, form.weights, form.group, form.bits) == ("bf16", "int4", 64, 4)
    assert (FORMATS["tf32"].value, FORMATS["autocast-bf16"].narrow) == (4, 2)


@pytest.mark.parametrize(
    ("positions", "length"),
    [(1, 128), (128, 128), (129, 192), (193, 256), (257, 384), (385, 512), (513, 768)],
)
def test_bucket(positions, length):
    assert bucket(positions) == length


def test_bucket_wastes_a_third_at_most():
    assert all(p <= bucket(p) <= 1.5 * p for p in range(128, 20_000, 7))


def test_a_reused_prefix_is_part_of_the_key():
    shape = ModelShape(**LLAMA)
    recipe = Recipe(cache="static")
    points = [
        Point(shape, Workload(prompt_len=128, prefix_len=n), recipe) for n in (0, 64)
    ]
    assert points[0].key != points[1].key
    assert points[1].to_dict()["workload"]["prefix_len"] == 64

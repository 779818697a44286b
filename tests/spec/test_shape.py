"""Shapes: what follows by itself, what is refused in which words, canonical form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlab.spec import FAMILIES, PRESETS, ModelShape, point_of
from fastlab.spec.checks import make
from fastlab.spec.point import vary
from fastlab.spec.shape import GROUPED, find_shape, widened


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    """Any small valid shape of any family, odd GQA groups and wide heads included."""
    family = draw(st.sampled_from(FAMILIES))
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 8))
    if family in GROUPED:
        hidden = heads * draw(st.integers(2, 6))  # llama's config wants a multiple
        hidden += 0 if family == "llama" else draw(st.integers(0, 5))
    else:
        kv_heads, hidden = heads, heads * head_dim
    return ModelShape(
        family,
        draw(st.integers(1, 3)),
        hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=draw(st.integers(1, 64)),
        vocab=draw(st.integers(4, 80)),
        max_positions=draw(st.integers(16, 64)),
        tied=True if family == "bert" else draw(st.booleans()),
    )


def test_what_follows_from_hidden():
    gpt2 = ModelShape("gpt2", 12, 768)
    assert (gpt2.heads, gpt2.head_dim, gpt2.ffn) == (12, 64, 3072)
    assert (gpt2.vocab, gpt2.max_positions, gpt2.tied) == (50257, 1024, True)
    # 8/3 x 4096 = 10922.7, up to a multiple of 256: LLaMA's 11008
    assert ModelShape("llama", 32, 4096).ffn == 11008
    assert ModelShape("qwen3", 28, 1024).ffn == 3072


def test_heads_follow_from_each_other():
    assert ModelShape("gpt2", 1, 96, heads=3).head_dim == 32
    assert ModelShape("llama", 1, 4096, head_dim=128).heads == 32
    assert ModelShape("llama", 1, 100).head_dim == 50  # widest even divisor <= 64
    assert ModelShape("llama", 1, 256).kv_heads == 4


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"family": "gpt3"}, "family='gpt3' is not one of gpt2, llama, qwen3, bert"),
        ({"layers": 0}, "layers=0 must be a whole number from 1"),
        ({"layers": 2.0}, "layers=2.0 must be a whole number"),
        ({"layers": True}, "layers=True must be a whole number"),
        ({"heads": 5}, "heads=5 x head_dim=12 must equal hidden=64 in family gpt2"),
        ({"kv_heads": 3}, "kv_heads=3 must divide heads=1"),
        ({"heads": 4, "kv_heads": 2}, "gpt2 has no GQA"),
        ({"tied": "yes"}, "tied='yes' must be true or false"),
        ({"family": "bert", "tied": False}, "bert's head is its embedding"),
        ({"family": "llama", "head_dim": 9, "heads": 2}, "head_dim=9 must be even"),
        ({"hiden": 3}, "unknown ModelShape field 'hiden'; did you mean hidden"),
    ],
)
def test_refused_by_field_value_and_what_is_allowed(over, words):
    with pytest.raises(ValueError) as error:
        make(ModelShape, {"family": "gpt2", "layers": 2, "hidden": 64, **over})
    assert words in str(error.value)


def test_canonical_form_leaves_out_what_follows():
    shape = ModelShape("gpt2", 12, 768, heads=12, ffn=3072)
    assert shape.to_dict() == {"family": "gpt2", "layers": 12, "hidden": 768}
    # heads=16 is what hidden=1024 gives, but not beside head_dim=128
    kept = PRESETS["qwen3-0.6b"].to_dict()
    assert (kept["heads"], kept["kv_heads"], kept["head_dim"]) == (16, 8, 128)


@given(shapes())
def test_canonical_form_gives_the_shape_back(shape):
    assert ModelShape(**shape.to_dict()) == shape


def test_override_lets_what_follows_follow():
    wider = find_shape("gpt2", hidden=1024)
    assert (wider.heads, wider.ffn, wider.vocab) == (16, 4096, 50257)
    assert find_shape("llama-3.1-8b", layers=4).kv_heads == 8


def test_an_unknown_model_lists_the_presets():
    with pytest.raises(ValueError, match=r"model='gpt-2' .* did you mean gpt2"):
        find_shape("gpt-2")


# --- a point in other sizes keeps its proportions, or says why it cannot


def test_a_wider_model_has_more_heads_of_the_same_size():
    shape = widened(PRESETS["llama-3.2-1b"], 4096)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (64, 16, 64)
    assert (shape.hidden, shape.ffn, shape.vocab) == (4096, 16384, 128256)
    narrow = widened(PRESETS["llama-3.2-1b"], 192)
    assert (narrow.heads, narrow.kv_heads) == (3, 1)  # one is left at least
    with pytest.raises(ValueError, match="hidden=100 must be a multiple of 64"):
        vary(point_of(model="gpt2"), "hidden", 100)


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_width_is_the_same_shape(name):
    assert widened(PRESETS[name], PRESETS[name].hidden) == PRESETS[name]


def test_a_longer_prompt_brings_its_positions():
    point = vary(point_of(model="gpt2"), "prompt_len", 4096)
    assert point.workload.prompt_len == 4096
    assert point.shape.max_positions == 4097
    assert vary(point_of(model="gpt2"), "prompt_len", 512).shape.max_positions == 1024
    assert vary(point_of(model="gpt2"), "layers", 3).shape.layers == 3

"""What prunings can be said, and the shapes they leave; sparsity and sharing too."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from fastlab.spec.pruned import pruned_config
from fastlab.spec.pruning import IMPORTANCES, LAYER_CHOICES, Pruning, pruned_shape
from fastlab.spec.shape import FAMILIES, PRESETS, ModelShape
from fastlab.spec.storage import (
    Sharing,
    Sparsity,
    palette_bytes,
    sparse_bytes,
    tables_of,
    zeros_per_row,
)


def sizes(shape: ModelShape) -> tuple[int, ...]:
    s = shape
    return s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn


THIRD = {"heads": 1 / 3, "hidden": 1 / 3, "ffn": 1 / 3}
GPT2 = ModelShape("gpt2", 2, 480, heads=10)  # heads of 48: pairs make 96
QWEN3 = ModelShape("qwen3", 2, 1000, heads=4, head_dim=32, ffn=1000)


@pytest.mark.parametrize(
    ("shape", "cut", "after"),
    [
        # the article's case: heads stay 64 wide, the FFN goes its own way
        ("gpt2", {"layers": 3 / 4, **THIRD}, (3, 512, 8, 8, 64, 2048)),
        ("llama-3.1-8b", {"layers": 0.5, "ffn": 0.5}, (16, 4096, 32, 8, 128, 7168)),
        # 8 groups of 4 heads: a quarter is two groups; 3072 is a multiple of 24 heads
        (
            "llama-3.1-8b",
            {"heads": 0.25, "hidden": 0.25},
            (32, 3072, 24, 6, 128, 14336),
        ),
        ("qwen3-0.6b", {"heads": 0.25}, (28, 1024, 12, 6, 128, 3072)),
        # widths are rounded to the nearest multiple
        (QWEN3, {"ffn": 0.4}, (2, 1000, 4, 4, 32, 600)),
        (QWEN3, {"ffn": 0.4, "multiple": 64}, (2, 1000, 4, 4, 32, 576)),
        (QWEN3, {"hidden": 0.4, "multiple": 128}, (2, 640, 4, 4, 32, 1000)),
        (
            GPT2,
            {"heads": 0.5, "hidden": 0.5, "multiple": 96},
            (2, 288, 6, 6, 48, 1920),
        ),
    ],
)
def test_shapes_that_are_left(shape, cut, after):
    before = PRESETS[shape] if isinstance(shape, str) else shape
    left = pruned_shape(before, Pruning(**cut))
    assert sizes(left) == after
    assert (left.vocab, left.tied) == (before.vocab, before.tied)


@pytest.mark.parametrize(
    ("family", "over", "words"),
    [
        ("gpt2", {"heads": 0.5}, "heads=0.5 and hidden=0.0 must be equal in gpt2: its"),
        ("bert", {"heads": 0.5}, "heads=0.5 and hidden=0.0 must be equal in bert: its"),
        ("llama", {"ffn": 0.001}, "ffn=0.001 cuts nothing from 128 in steps of 1"),
        ("llama", {"ffn": 0.1, "multiple": 128}, "cuts nothing from 128 in steps of"),
        ("llama", {"layers": 0.2}, "layers=0.2 cuts nothing from 2"),
        (
            "llama",
            {"layers": 1.0},
            "layers=1.0 must be the share that is cut: 0 .* bel",
        ),
        ("llama", {"heads": -0.1}, "heads=-0.1 must be the share"),
        ("llama", {"ffn": "half"}, "ffn='half' must be the share"),
        ("llama", {"hidden": float("nan")}, "hidden=nan must be the share"),
        ("llama", {"layers": True}, "layers=True must be the share"),
        (
            "llama",
            {"layer_choice": "best"},
            "layer_choice='best' is not one of uniform",
        ),
        ("llama", {"multiple": 0}, "multiple=0 must be a whole number from 1"),
        ("llama", {"seed": -1}, "seed=-1 must be a whole number from 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(family, over, words):
    with pytest.raises(ValueError, match=words):
        pruned_shape(PRESETS[f"tiny-{family}"], Pruning(**over))


def test_llamas_width_must_follow_its_heads():
    with pytest.raises(ValueError, match=r"heads=24 must divide hidden=4096 in llama"):
        pruned_shape(PRESETS["llama-3.1-8b"], Pruning(heads=0.25))


def test_fields_that_decide_nothing_take_their_default():
    assert Pruning(layer_choice="loss", importance="taylor", multiple=64) == Pruning()
    assert Pruning(ffn=0.5, seed=3) == Pruning(ffn=0.5)
    said = Pruning(ffn=0.5, importance="random", seed=3, layer_choice="last")
    assert said.to_dict() == {"ffn": 0.5, "importance": "random", "seed": 3}
    assert Pruning(layers=0.5, layer_choice="random", seed=2).seed == 2
    assert Pruning().to_dict() == {}
    assert Pruning(layers=0.5, layer_choice="loss").needs_text == "layer_choice='loss'"
    assert Pruning(ffn=0.5).needs_text == ""


RATIOS = st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.75, 0.9])


@given(
    st.sampled_from(FAMILIES),
    st.builds(
        Pruning,
        layers=RATIOS,
        heads=RATIOS,
        ffn=RATIOS,
        hidden=RATIOS,
        importance=st.sampled_from(IMPORTANCES),
        layer_choice=st.sampled_from(LAYER_CHOICES),
        multiple=st.sampled_from([1, 8, 64]),
    ),
)
def test_what_is_left_is_a_shape_and_smaller(family, pruning):
    shape = ModelShape(family, 12, 768)
    try:
        after = pruned_shape(shape, pruning)
    except ValueError:  # which those are, the other tests say
        return
    pairs = zip(sizes(after), sizes(shape), strict=True)
    assert all(0 < new <= old for new, old in pairs)
    for name in ("layers", "heads", "ffn", "hidden"):
        cuts = getattr(after, name) < getattr(shape, name)
        assert cuts == bool(getattr(pruning, name))
    assert Pruning(**pruning.to_dict()) == pruning


def test_sparsity_says_ratio_or_pattern():
    assert Sparsity(pattern="2:4").ratio == 0.5
    assert Sparsity(pattern="1:4").to_dict() == {"pattern": "1:4"}
    assert Sparsity(0.9, storage="csr").to_dict() == {"ratio": 0.9, "storage": "csr"}
    assert zeros_per_row(Sparsity(0.9), 25) == 22  # 22.5 to even, as Python rounds
    assert zeros_per_row(Sparsity(pattern="3:8"), 64) == 40


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"ratio": 0.0}, r"ratio=0.0 must be above 0 and below 1"),
        ({"ratio": 1}, r"ratio=1 must be above"),
        ({"pattern": "4:2"}, r"pattern='4:2' must be N:M"),
        ({"method": "wandas"}, r"method='wandas' .* did you mean wanda"),
        ({"storage": "coo"}, r"storage='coo' is not one of dense, csr, 2:4"),
    ],
)
def test_bad_sparsities_are_refused(over, words):
    with pytest.raises(ValueError, match=words):
        Sparsity(**over)


def test_bytes_of_sparse_weights_worked_out_by_hand():
    """10 rows of 64: 640 weights; 2 bytes each where they are dense."""
    assert sparse_bytes(Sparsity(0.75), 10, 64) == 1280
    # 16 of 64 are left in each row: 160 values and columns, 11 starts.
    assert sparse_bytes(Sparsity(0.75, storage="csr"), 10, 64) == 160 * 8 + 44
    # 320 values of 2 bytes, 2 bits for each: 640 + 80.
    made = Sparsity(pattern="2:4", storage="2:4")
    assert sparse_bytes(made, 10, 64) == 720
    with pytest.raises(ValueError, match="groups of 4 do not divide 62 inputs"):
        sparse_bytes(made.__class__(pattern="2:4", storage="csr"), 10, 62)


def test_bytes_of_palettes_worked_out_by_hand():
    """5 rows of 7: 35 weights, filled up to 40."""
    assert palette_bytes(Sharing(3), 5, 7) == 15 + 8 * 2
    assert palette_bytes(Sharing(6), 5, 7, value=4) == 30 + 64 * 4
    # 4 rows of 8, a table of 4 values for each two rows.
    assert palette_bytes(Sharing(2, rows=2), 4, 8) == 8 + 2 * 4 * 2
    assert tables_of(Sharing(2, rows=2), 4) == 2
    assert Sharing().to_dict() == {"bits": 4}
    assert Sharing(2, rows=8).to_dict() == {"bits": 2, "rows": 8}


def test_tables_and_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="rows=-1 must be a whole number from 0"):
        Sharing(4, rows=-1)
    with pytest.raises(ValueError, match="rows=3: groups do not divide 8 rows"):
        tables_of(Sharing(4, rows=3), 8)


MOE = {
    **{"num_hidden_layers": 6, "hidden_size": 96, "num_attention_heads": 12},
    **{"num_key_value_heads": 4, "num_experts": 16, "num_experts_per_tok": 4},
    **{"intermediate_size": 300, "moe_intermediate_size": 40, "head_dim": 16},
}


def test_configs_of_other_families_are_cut() -> None:
    """A quarter of 4 groups of 3 heads; 96 x 2 / 3 to a multiple of 9 heads is 63."""
    config = AutoConfig.for_model("qwen3_moe", **MOE)
    cut = {"heads": 0.25, "hidden": 1 / 3, "ffn": 0.5, "experts": 0.5, "layers": 0.5}
    left = pruned_config(config, Pruning(**cut))
    assert (left.num_attention_heads, left.num_key_value_heads) == (9, 3)
    assert (left.hidden_size, left.head_dim, left.num_hidden_layers) == (63, 16, 3)
    assert (left.intermediate_size, left.moe_intermediate_size) == (150, 20)
    assert left.num_experts == 8
    assert config.num_experts == 16 and config.hidden_size == 96


def test_lists_of_layers_go_with_their_layers() -> None:
    config = AutoConfig.for_model(
        "smollm3", num_hidden_layers=8
    )  # each fourth has no RoPE
    assert config.no_rope_layers == [1, 1, 1, 0, 1, 1, 1, 0]
    left = pruned_config(config, Pruning(layers=0.5), (0, 3, 4, 6))
    assert left.no_rope_layers == [1, 0, 1, 1]
    moe = AutoConfig.for_model("qwen3_moe", **MOE, mlp_only_layers=[1, 4])
    assert pruned_config(moe, Pruning(layers=0.5), (1, 2, 4)).mlp_only_layers == [0, 2]
    dense_first = AutoConfig.for_model("deepseek_v3", num_hidden_layers=6)
    left = pruned_config(dense_first, Pruning(layers=0.5), (0, 2, 5))
    assert dense_first.first_k_dense_replace == 3 and left.first_k_dense_replace == 2


@pytest.mark.parametrize(
    ("family", "cut", "words"),
    [
        ("bloom", {"ffn": 0.5}, "model_type='bloom': its config has no field for ffn"),
        ("qwen2", {"experts": 0.5}, "its config has no field for experts: experts=0.5"),
        ("opt", {"heads": 0.5}, "heads=0.5 and hidden=0.0 must be equal in opt"),
        ("mixtral", {"experts": 0.9}, "tokens choose 2 experts, more than: 1"),
        ("deepseek_v3", {"experts": 0.5}, "experts are chosen by groups, n_group: 8"),
        ("mamba", {"heads": 0.5, "hidden": 0.5}, "config has no field for: heads"),
    ],
)
def test_what_no_config_says_is_refused(
    family: str, cut: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        pruned_config(AutoConfig.for_model(family), Pruning(**cut))


def test_a_shape_with_a_config_is_cut_by_it() -> None:
    """Half of the layers of mistral, and its FFN by a quarter: 14336 -> 10752."""
    left = pruned_shape(PRESETS["mistral-7b"], Pruning(layers=0.5, ffn=0.25))
    assert (left.layers, left.ffn, left.hidden) == (16, 10752, 4096)

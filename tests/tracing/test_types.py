"""Any type of transformers: what is counted by watching is what transformers does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from fastlab.cost.operations import total
from fastlab.spec import ModelShape
from fastlab.spec.kept import program_of
from fastlab.spec.pruned import layer_sizes, pruned_config
from fastlab.spec.pruning import Pruning
from fastlab.tracing.alive import cached_terms
from fastlab.tracing.caches import attends
from fastlab.tracing.configs import config_of
from fastlab.tracing.sizes import Fitter, symbols
from fastlab.tracing.trace import CHUNK, _lengths
from tests.runtime.families import small_config
from tests.tracing import reference
from tests.tracing.reference import counted, done, point

TYPES = """
apertus biogpt bloom codegen cohere falcon gemma glm4 gpt_bigcode gpt_neox gptj granite
mpt nemotron olmo2 opt phi phi3 qwen2 smollm3 stablelm starcoder2 xglm
cohere2 gpt_oss gemma3_text mistral
mixtral olmoe phimoe qwen2_moe granitemoe llama4_text
deepseek_v2 deepseek_v3 minicpm3
mamba falcon_h1 qwen3_next lfm2 minimax
albert distilbert electra modernbert mpnet roberta
bart blenderbot t5 umt5 marian
hrm_text openai_privacy_filter
"""  # decoders, windows, experts, latent attention, states, encoders, both; layers that
# are gone through again, an encoder with experts that ask for values
LENGTH = 67  # beyond windows and chunks of 8, and a chunk of 64


def of(kind: str) -> Any:
    over: dict[str, Any] = {}
    over |= {"is_decoder": False} if kind in ("electra", "roberta") else {}
    over |= {"block_size": 16} if kind == "minimax" else {}
    return small_config(kind, **over)


@pytest.mark.parametrize("kind", TYPES.split())
def test_a_type_is_counted_to_the_last_digit(kind: str) -> None:
    config = of(kind)
    shape = ModelShape.from_config(config)
    assert counted(shape, LENGTH) == done(config, shape.kind, LENGTH)
    assert not program_of(shape)["approximate"]


def test_what_a_config_says_of_one_layer_goes_with_its_depth() -> None:
    """Every sixth layer of Gemma 4 has heads twice as wide, by its number."""
    whole = ModelShape.from_config(CONFIG_MAPPING["gemma4_text"]())
    for layers in (4, 12):
        told = config_of(replace(whole, layers=layers))
        wide = [layer.head_dim == 512 for layer in told.per_layer_config]
        assert wide == [kind == "full_attention" for kind in told.layer_types]
        assert (len(wide), sum(wide)) == (layers, max(1, layers // 6))
    half = pruned_config(told, Pruning(layers=0.5, layer_choice="first"))
    assert [one.head_dim for one in half.per_layer_config] == [*[256] * 5, 512]


HYBRIDS: list[tuple[str, dict[str, Any], str]] = [
    (
        "granitemoehybrid",
        {"layer_types": [*["mamba"] * 5, "attention", *["mamba"] * 6]},
        "layer_types",
    ),
    ("bamba", {"attn_layer_indices": [3, 9]}, "attn_layer_indices"),
    ("jamba", {"attn_layer_period": 8, "attn_layer_offset": 4}, "attn_layer_offset"),
]


@pytest.mark.parametrize(("kind", "over", "told"), HYBRIDS)
def test_a_hybrid_cut_to_four_layers_has_one_that_attends(
    kind: str, over: dict[str, Any], told: str
) -> None:
    """A run of four: the last four of granite's, and bamba's, are all states."""
    whole = CONFIG_MAPPING[kind](num_hidden_layers=12, **over)
    left = config_of(replace(ModelShape.from_config(whole), layers=4))
    found: dict[str, Any] = {
        "layer_types": ["linear_attention"] * 3 + ["full_attention"]
    }
    found |= {"attn_layer_indices": [3], "attn_layer_offset": 3}
    assert getattr(left, told) == found[told] and attends(left)


def test_a_hybrid_without_attention_is_one_line() -> None:
    kinds = ["mamba", "mamba", "attention", "mamba"]
    shape = ModelShape.from_config(small_config("granitemoehybrid", layer_types=kinds))
    with pytest.raises(ValueError, match=r"attends: none of its 1 layers does$"):
        program_of(replace(shape, layers=1))


def test_lists_as_long_as_the_layers_by_chance_stay() -> None:
    left = layer_sizes(CONFIG_MAPPING["mamba2"](num_hidden_layers=2), [1])
    assert left == {"num_hidden_layers": 1}


def test_experts_of_dbrx_are_matrices_below_each_other() -> None:
    """Of 4 experts 2 multiply a token by 3 matrices of 64 x 48 each."""
    config = CONFIG_MAPPING["dbrx"](
        **{"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 97},
        attn_config={"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        ffn_config={
            **{"hidden_size": 64, "ffn_hidden_size": 48},
            **{"moe_num_experts": 4, "moe_top_k": 2},
        },
    )
    weights = 64 * (64 + 2 * 32) + 64 * 64 + 64 * 4 + 2 * 3 * 64 * 48
    attention = 2 * 2 * 64 * 10  # of ten keys
    expected = 2 * (2 * weights + attention) + 2 * 64 * 97
    found = total(point(ModelShape.from_config(config), "decode", 9), "flops")
    assert found == expected * reference.BATCH


def test_a_step_of_rwkv_is_one_of_each_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one sequence: transformers takes each of several with every other."""
    monkeypatch.setattr(reference, "BATCH", 1)
    config = CONFIG_MAPPING["rwkv"](hidden_size=64, num_hidden_layers=7, vocab_size=97)
    shape = ModelShape.from_config(config)
    assert counted(shape, 9) == done(config, "decoder", 9)


@pytest.mark.parametrize("named", ["max_window_layers", "sliding_window_pattern"])
def test_which_layers_see_a_window_is_no_window(named: str) -> None:
    assert _lengths(SimpleNamespace(sliding_window=8, **{named: 6})) == ([8], [CHUNK])


def test_states_whose_number_grows_are_one_size() -> None:
    fitter = Fitter([symbols(1, 4, 0), symbols(2, 6, 0)], ["B*S"], monomials := [])
    both = cached_terms([[(2, 4, 8)], [(2, 8, 16), (1, 8, 16)]], fitter)
    assert (both, monomials) == ([[1, [[2, 0]], [[4, 0]]]], ["B*S"])


def test_what_follows_no_product_of_sizes_is_called_approximate() -> None:
    shape = ModelShape.from_config(small_config("lfm3"))
    assert "FLOPs of states" in program_of(shape)["approximate"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bart", "encoder-decoder"),
        ("marian", "encoder-decoder"),
        ("xlm", "encoder"),
        ("flaubert", "encoder"),
        ("mistral", "decoder"),
    ],
)
def test_a_type_is_what_it_is_used_as(kind: str, expected: str) -> None:
    assert ModelShape.from_config(small_config(kind)).kind == expected


def test_half_of_an_encoder_decoder_is_a_model() -> None:
    bart, t5 = small_config("bart"), small_config("t5")
    assert ModelShape.from_config(bart, "BartForCausalLM").kind == "decoder"
    assert ModelShape.from_config(t5, "T5EncoderModel").kind == "encoder"


def test_an_answerer_of_two_halves_reads_with_both() -> None:
    """It was counted as its encoder alone."""
    config = small_config("bart", pad_token_id=1)
    config.architectures = ["BartForQuestionAnswering"]
    shape = ModelShape.from_config(config)
    assert counted(shape, LENGTH) == done(config, "encoder", LENGTH)


@pytest.mark.parametrize(
    ("kind", "positions"),
    [("gpt_neo", 32), ("gpt_neo", 64), ("opt", 32), ("roberta", 30)],
)
def test_tables_shorter_than_the_traced_passes_do(kind: str, positions: int) -> None:
    over: dict[str, Any] = {"max_position_embeddings": positions}
    if kind == "gpt_neo":
        over |= {"attention_types": [[["global", "local"], 2]]}
    if kind == "roberta":
        over |= {"is_decoder": False}
    config = small_config(kind, **over)
    shape = ModelShape.from_config(config)
    length = positions - 5
    assert counted(shape, length) == done(config, shape.kind, length)


@pytest.mark.parametrize("kind", ["dbrx", "deepseek_v2", "gemma3n", "cpmant"])
def test_what_transformers_cannot_run_is_one_line_with_the_name(kind: str) -> None:
    with pytest.raises(ValueError, match=f"model='{kind}\\w*': ") as error:
        program_of(ModelShape(kind, 2, 256, vocab=97))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "bamba", "blenderbot-small"])
def test_a_type_at_another_width_runs(kind: str) -> None:
    shape = ModelShape(kind, 2, 256, vocab=97)
    assert program_of(shape)["parameters"] > 0 and not program_of(shape)["faults"]


@pytest.mark.parametrize("kind", ["openai-gpt", "recurrent_gemma"])
def test_a_model_that_keeps_nothing_says_so(kind: str) -> None:
    shape = ModelShape.from_config(small_config(kind))
    assert total(point(shape, "prefill", 9), "flops") > 0
    with pytest.raises(ValueError, match="keeps nothing of the past"):
        counted(shape, 9)

"""Every kind of decoder that transformers has: its own tokens, or a refusal by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import masking_utils
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from fastlab import calls
from fastlab.cli import main
from fastlab.runtime.attention import visible
from fastlab.runtime.cache import StaticKV
from fastlab.runtime.decode import Decoder
from fastlab.runtime.prefix import Prefixes
from fastlab.tracing.caches import static_cache_reason
from tests.runtime.families import small_config, small_model
from tests.small import generated, token_rows

# What people bring, and every way to attend: these must decode.
MUST = """
llama mistral mixtral ministral3 qwen2 qwen2_moe qwen3 qwen3_moe phi phi3 phimoe gemma
gemma2 gemma3_text gemma3n_text gemma4_text cohere cohere2 gpt_oss olmo olmo2 olmo3
olmoe deepseek_v2 deepseek_v3 llama4_text bloom falcon opt gptj gpt2 gpt_neox
gpt_bigcode codegen stablelm starcoder2 smollm3 granite granitemoe glm glm4 glm4_moe
exaone4 ernie4_5 nemotron xglm biogpt persimmon helium doge diffllama vaultgemma
"""
# Products of one input in each of four layers: q, k and v, and gate and up.
JOINED = {"mistral": 2, "qwen3": 2, "gemma2": 2, "gpt2": 0, "opt": 1, "phi3": 0}
# Their forward pass shows more keys than transformers' dynamic cache keeps for it.
KEEPS_TOO_LITTLE = ("moshi", "modernbert-decoder")
# Kind -> what beside the shrunk defaults gives it layers of each sort.
HYBRID = {
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_next": {},
    "minimax": {},
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR", "transformers")


@torch.inference_mode()
def expected(
    kind: str, model: torch.nn.Module, ids: torch.Tensor, new: int
) -> torch.Tensor:
    if kind not in KEEPS_TOO_LITTLE:
        return generated(model, ids, new)
    for _ in range(new):
        last = model(ids, use_cache=False).logits[:, -1:]
        ids = torch.cat([ids, last.argmax(-1)], dim=1)
    return ids[:, 24:]


@pytest.mark.parametrize("kind", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_tokens_are_transformers_or_refused_by_name(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of three windows, and up to five more; batches of one and of three.

    Again with products of one input joined, as compiled code has them.
    """
    try:
        model = small_model(kind)
    except ValueError as error:
        assert kind not in MUST.split()
        pytest.skip(str(error)[:100])
    batch = 3 if len(kind) % 2 else 1
    if reason := static_cache_reason(model):
        assert kind not in MUST.split()
        assert reason.startswith(
            f"model_type={model.config.model_type!r} has no static"
        )
        with pytest.raises(ValueError, match="has no static cache: "):
            Decoder(model, batch, 64, runtime="eager")
        return
    ids = token_rows(batch, 24)
    new = 40 if kind in MUST.split() else 12
    tokens = expected(kind, model, ids, new)
    decoder = Decoder(model, batch, 64, runtime="eager", unroll=batch)
    assert torch.equal(decoder.generate(ids, new), tokens)
    assert kind not in MUST.split() or len(tokens[0].unique()) > 1
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    joined = Decoder(model, batch, 64, runtime="decoder")
    assert torch.equal(joined.generate(ids, 12), tokens[:, :12])
    assert kind not in JOINED or len(joined.joins.all) == JOINED[kind] * 4


@pytest.mark.parametrize("kind", ["gemma2", "bloom", "deepseek_v3", "gpt_oss"])
def test_compiled_to_one_graph(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soft caps and windows; ALiBi of its own; one key for all heads; sinks, experts.

    The first to machine code, the others traced as one graph, which is what can fail.
    """
    compile, over = torch.compile, {"num_hidden_layers": 2}
    if kind in ("gemma2", "gpt_oss"):
        over["layer_types"] = ["sliding_attention", "full_attention"]
    if kind != "gemma2":
        traced = {"fullgraph": True, "dynamic": False, "backend": "eager"}
        monkeypatch.setattr(torch, "compile", lambda f, **_: compile(f, **traced))
    model, ids = small_model(kind, **over), token_rows(3, 24)
    decoder = Decoder(model, 3, 64, runtime="decoder")
    assert torch.equal(decoder.generate(ids, 40), generated(model, ids, 40))


def test_what_does_not_compile_to_one_graph_is_refused() -> None:
    model = small_model("llama", num_hidden_layers=1)
    model.model.norm.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    words = "runtime='compile' takes a model that compiles to one graph: llama does not"
    with pytest.raises(ValueError, match=words):
        Decoder(model, 1, 40, runtime="compile")


@pytest.mark.parametrize("kind", ["mistral", "gpt_oss", "llama4_text"])
def test_the_window_is_what_makes_the_tokens(kind: str) -> None:
    ids = token_rows(1, 24)
    narrow = small_model(kind)
    size = {"attention_chunk_size" if "llama" in kind else "sliding_window": 64}
    wide = small_model(kind, **size)
    assert not torch.equal(generated(narrow, ids, 40), generated(wide, ids, 40))


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss", "deepseek_v3", "falcon"])
def test_other_caches_attention_and_prefixes(kind: str) -> None:
    model, ids = small_model(kind), token_rows(1, 24)
    tokens, other = generated(model, ids, 9), ids.clone()
    eager = Decoder(model, 1, 64, runtime="eager", attention="eager")
    assert torch.equal(eager.generate(ids, 9), tokens)
    decoder, prefixes = Decoder(model, 1, 64, runtime="eager"), Prefixes()
    other[:, 15:] = (ids[:, 15:] + 1) % 97
    decoder.prefill(other, prefixes)  # shares 15 tokens, more than the window
    found = torch.cat(list(decoder.chunks(ids, 9, prefixes=prefixes)), dim=1)
    assert torch.equal(found, tokens)
    assert prefixes.hits.reused == 15
    for cache in ("static-int8", "static-fp8"):
        if kind == "gpt_oss":
            continue  # what the cache loses may send a token to another expert
        packed = Decoder(model, 1, 64, cache=cache, runtime="eager")
        packed.prefill(ids)
        decoder.prefill(ids)
        lost, dense = packed.advance(), decoder.advance()
        assert 0 < (lost - dense).abs().max() < 0.5 * dense.std()


def test_each_layer_has_the_rows_that_it_keeps() -> None:
    """deepseek_v3: one vector of 32 for all heads, and 8 with positions; gemma4_text:
    keys and values in two layers of four, which the others read too.
    """
    held = StaticKV(small_model("deepseek_v3"), 2, 64)
    assert {tuple(x.shape) for x in held.buffers[::2]} == {(2, 1, 128, 32)}
    assert {tuple(x.shape) for x in held.buffers[1::2]} == {(2, 1, 128, 8)}
    assert held.nbytes == 4 * 2 * 128 * (32 + 8) * 4
    shared = StaticKV(small_model("gemma4_text"), 1, 64)
    assert len(shared.buffers) == 2 * 2


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mamba", "it keeps a state that is not keys and values"),
        ("qwen3_next", "it keeps a state .*"),
        ("jamba", "it keeps a state .*"),
        ("lfm2", r"some of its layers keep other things \(LinearAttentionLayer\)"),
        ("minimax", r"other things \(LinearAttentionLayer\)"),
        ("gpt_neo", "its attention is not made for one"),
        ("mpt", "its attention is not made for one"),
        ("t5", "it is an encoder-decoder"),
        ("openai-gpt", "it keeps nothing of the past"),
        ("vit", "it is no causal language model"),
    ],
)
def test_a_config_is_refused_before_anything_is_loaded(kind: str, words: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    if kind == "lfm2":
        config = small_config(kind, **HYBRID[kind])
    with pytest.raises(AssertionError, match=f"^model_type='{kind}' has .*{words}$"):
        raise AssertionError(static_cache_reason(config))
    assert static_cache_reason(small_config("llama")) is None


def test_an_encoder_is_refused() -> None:
    assert "it is an encoder" in static_cache_reason(
        small_config("bert", is_decoder=False)
    )


@pytest.mark.parametrize(
    ("kind", "attention"), [("gpt_oss", "flex"), ("bloom", "sdpa-math")]
)
def test_a_kernel_that_lacks_the_attention_is_refused(
    kind: str, attention: str
) -> None:
    with pytest.raises(ValueError, match="must be sdpa or eager: the attention of"):
        Decoder(small_model(kind), 1, 40, runtime="eager", attention=attention)


@pytest.mark.parametrize("kind", ["mistral", "gemma3n_text", "mamba", *HYBRID])
def test_a_decode_step_goes_back_to_the_prompt(kind: str) -> None:
    """Windows, shared keys, state spaces, convolutions, linear attention: all of it."""
    model, ids = small_model(kind, **HYBRID.get(kind, {})), token_rows(2, 24)
    with torch.inference_mode():
        call = calls.Decode(model, ids)
        whole = torch.cat([ids, call.token], dim=1)
        right = model(whole, use_cache=False).logits[:, -1:]
        first, second = call.run(), call.run()
        torch.testing.assert_close(first, right, atol=1e-3, rtol=1e-3)
        assert not torch.equal(first, second)
        for _ in range(2):
            call.reset()
            assert torch.equal(call.run(), first)
        call.release()
        assert torch.equal(call.run(), first)
        tokens = calls.Generate(model, ids, 9).run()
        assert torch.equal(tokens, generated(model, ids, 9))


def test_what_keeps_nothing_has_no_decode_step() -> None:
    model = small_model("openai-gpt")
    with pytest.raises(ValueError, match="'openai-gpt' gives no cache back"):
        calls.Decode(model, token_rows(1, 4))


def test_the_command_refuses_before_it_loads(tmp_path: Path) -> None:
    small_config("mamba").save_pretrained(tmp_path)
    save_file({"none": torch.zeros(1)}, tmp_path / "model.safetensors")
    args = ["generate", "hi", "--model", str(tmp_path), "--stream"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2
    assert "model_type='mamba' has no static cache: it keeps a state" in done.output


def test_a_window_that_holds_all_needs_no_mask() -> None:
    """Four new positions: a window of four hides none, one of three the first."""
    window = masking_utils.sliding_window_causal_mask_function
    assert visible(1, 4, 4, mask_function=window(4), local_size=4) is None
    seen = visible(1, 4, 4, mask_function=window(3), local_size=3)
    assert seen[0, 0].tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [False, True, True, True],
    ]
    later = visible(1, 1, 6, q_offset=torch.tensor(4), mask_function=window(3))
    assert later[0, 0].tolist() == [[False, False, True, True, True, False]]


def test_longrope_is_refused_where_it_turns() -> None:
    """Up to 32 positions the short factors, from prompts beyond them the long ones."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
    turn = {"original_max_position_embeddings": 32}
    model = small_model("phi3", head_dim=16, rope_parameters=rope | turn, **turn)
    decoder = Decoder(model, 1, 64, runtime="eager")
    for n, new in ((24, 9), (33, 20)):
        ids = token_rows(1, n)
        assert torch.equal(decoder.generate(ids, new), generated(model, ids, new))
    with pytest.raises(ValueError, match="new_tokens=10 must be at most 9 after 24"):
        decoder.generate(token_rows(1, 24), 10)

"""Folders as people have them: cut off, of other models, told to generate oddly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fastlab.checkpoints import generate_text, load
from fastlab.cli import main
from fastlab.runtime.streaming import stream
from fastlab.spec import ModelShape
from tests.small import generated, tiny, token_rows

WORDS = {f"w{n}": n for n in range(97)}
PROMPT, NEW = "w3 w14 w15", 6
WEIGHTS = "model.safetensors"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of two layers and a tokenizer that knows 97 words."""
    folder = tmp_path_factory.mktemp("whole")
    words = Tokenizer(models.WordLevel(WORDS, "w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    tiny("llama", layers=2).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def generate(folder: Path, *more: str) -> Result:
    args = ["generate", PROMPT, "--model", str(folder), "--new-tokens", str(NEW)]
    return CliRunner().invoke(main, [*args, *more])


def config(**over: Any) -> Change:
    """A change of config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **over}))

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """A change of the weights."""

    def change(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        edit(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def written(data: bytes) -> Change:
    return lambda folder: (folder / WEIGHTS).write_bytes(data)


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


UP = "model.layers.1.mlp.up_proj.weight"
ODD: list[tuple[Change, str]] = [
    (written(b"version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    (written(b""), "header too small"),
    (written(b"<html>404 not found</html>"), "header too large"),
    (cut, "not fully covered"),
    (lambda folder: (folder / WEIGHTS).unlink(), "lacks model.safetensors"),
    (tensors(lambda held: held.pop(UP)), f"lacks what LlamaForCausalLM has: {UP}"),
    (
        tensors(lambda held: held.update({UP: torch.ones(3)})),
        f"has other sizes: {UP} [3] where the config says [",
    ),
    (config(num_hidden_layers=3), "has: model.layers.2.input_layernorm.weight and"),
    (config(vocab_size=50), "[97, 48] where the config says [50, 48]"),
    (tensors(lambda held: held[UP].fill_(torch.nan)), "logits are not finite"),
    (tensors(lambda held: held[UP].fill_(torch.inf)), "logits are not finite"),
    (config(architectures=["LlamaForSequenceClassification"]), "without a head"),
    (config(architectures=["LlamaModel"]), "without a head that writes text"),
    (config(model_type="bert", architectures=None), "an encoder"),
    (config(quantization_config={"quant_method": "gptq", "bits": 4}), "optimum"),
    (config(quantization_config={"quant_method": "awq", "bits": 4}), "gptqmodel"),
    (config(quantization_config={"quant_method": "mine"}), "quant_method='mine' is"),
    (config(hidden_act="mine"), "KeyError('mine')"),
    (config(max_position_embeddings=7), "new_tokens=6 must be|max_len=8 must be"),
]


@pytest.mark.parametrize("how", [(), ("--stream",)])
@pytest.mark.parametrize(("change", "words"), ODD)
def test_generate_says_in_one_line_what_is_wrong(
    folder: Path, change: Change, words: str, how: tuple[str, ...]
) -> None:
    change(folder)
    done = generate(folder, *how)
    said = done.stderr.splitlines()[-1]
    assert done.exit_code == 2, done.output
    assert said.startswith("Error: ") and any(w in said for w in words.split("|"))


RECOMMENDED: list[dict[str, Any]] = [
    {"repetition_penalty": 5.0},
    {"num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "temperature": 9.0, "top_k": 50},
    {"suppress_tokens": [20, 52, 31, 54]},
    {"begin_suppress_tokens": [20]},
    {"forced_eos_token_id": 5, "max_length": 5},
    {"max_new_tokens": 1},
    {"stop_strings": ["w"]},
    {"bad_words_ids": [[20]], "no_repeat_ngram_size": 1},
    {"watermarking_config": {"bias": 9.0}},
    {"prompt_lookup_num_tokens": 3, "return_dict_in_generate": True},
]


@pytest.mark.parametrize("recommended", RECOMMENDED)
def test_generate_is_greedy_whatever_the_folder_recommends(
    folder: Path, recommended: dict[str, Any]
) -> None:
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    ids = torch.tensor([[3, 14, 15]])
    tokens = generated(tiny("llama", layers=2), ids, NEW)[0].tolist()
    expected = PROMPT + "".join(f" w{n}" for n in tokens)
    for how in ((), ("--stream",)):
        assert generate(folder, *how).stdout.splitlines() == [expected]


def test_both_ways_end_at_the_eos_of_the_folder(folder: Path) -> None:
    tokens = generated(tiny("llama", layers=2), torch.tensor([[3, 14, 15]]), NEW)
    for eos in ([int(tokens[0, 2])], int(tokens[0, 2])):
        (folder / "generation_config.json").write_text(
            json.dumps({"eos_token_id": eos})
        )
        texts = {generate(folder, *how).stdout.strip() for how in ((), ("--stream",))}
        assert texts == {PROMPT + "".join(f" w{n}" for n in tokens[0, :3].tolist())}


def test_what_else_a_tokenizer_returns_is_left_alone(folder: Path) -> None:
    model, tokenizer = load(folder)

    def typed(text: str, **how: Any) -> dict[str, torch.Tensor]:
        ids = tokenizer(text, **how)["input_ids"]
        return {"input_ids": ids, "token_type_ids": ids * 0, "special": ids}

    typed.decode, typed.batch_decode = tokenizer.decode, tokenizer.batch_decode  # type: ignore[attr-defined]
    typed.eos_token_id = None  # type: ignore[attr-defined]
    text = generate_text(model, tokenizer, PROMPT, NEW)
    assert generate_text(model, typed, PROMPT, NEW) == text
    assert "".join(stream(model, typed, PROMPT, NEW)) == text


CONFIGS: list[tuple[dict[str, Any] | str, str]] = [
    ({"hidden_size": "2048"}, "hidden_size='2048' must be a whole number"),
    ({"hidden_size": -1}, "hidden_size=-1 must be a whole number"),
    ({"hidden_size": None}, "'hidden_size' expected int, got NoneType"),
    ({"hidden_size": [64]}, "'hidden_size' expected int, got list"),
    ({"hidden_size": 10**30}, "hidden_size=1000000000000000000000000000000 must"),
    ({"num_attention_heads": 0}, "num_attention_heads=0 must be"),
    ({"num_hidden_layers": 2**31}, "num_hidden_layers=2147483648 must be"),
    ({"vocab_size": float("nan")}, "vocab_size=NaN must be a number"),
    ({"rms_norm_eps": "small"}, "'rms_norm_eps' expected float, got str"),
    ({"rope_theta": -1}, "rope_theta=-1 must be a finite number > 0"),
    ({"rope_scaling": "linear"}, "'rope_parameters' with value 'linear'"),
    ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' expected bool"),
    ({"text_config": {"hidden_size": "x"}, "hidden_size": None}, "expected int"),
    ({"model_type": "mine"}, "has model type `mine` but Transformers does not"),
    ({"model_type": ["llama"]}, "unhashable type: 'list'"),
    ({"dtype": "fp99"}, "has no attribute 'fp99'"),
    (
        {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}},
        r"needs code of its own \(auto_map\), which fastlab does not run",
    ),
    (
        {"architectures": ["Mine"], "auto_map": {"AutoModelForCausalLM": "a.Mine"}},
        r"architectures='Mine' needs code of its own",
    ),
    ('{"model_type": "llama"}', "num_hidden_layers is not given"),
    ('{"model_type": "gpt2", "n_layer": 2}', "n_embd is not given"),
    ('{"model_type": "bert", "hidden_size": 64}', "num_hidden_layers is not given"),
    ("[]", "AttributeError|'list'"),
    ("{", "not a valid JSON"),
    ("[" * 10_000, "RecursionError|recursion"),
]


@pytest.mark.parametrize(("said", "words"), CONFIGS)
def test_a_config_with_nonsense_is_refused_in_one_line(
    folder: Path, said: dict[str, Any] | str, words: str
) -> None:
    if isinstance(said, str):
        (folder / "config.json").write_text(said)
    else:
        config(**said)(folder)
    with pytest.raises((ValueError, OSError), match=words) as error:
        ModelShape.from_config(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    done = CliRunner().invoke(main, ["predict", "--model", str(folder), "--on", "t4"])
    assert done.exit_code == 2
    assert "trust_remote_code" not in done.output


def test_a_hub_may_spell_a_class_otherwise(folder: Path) -> None:
    """Phi-3.5-MoE's own code says PhiMoEForCausalLM, transformers PhimoeForCausalLM."""
    code = {"AutoModelForCausalLM": "modeling.LLaMAForCausalLM"}
    config(architectures=["LLaMAForCausalLM"], auto_map=code)(folder)
    assert ModelShape.from_config(folder).family == "llama"


def test_a_text_part_of_usual_sizes_leaves_them_out(folder: Path) -> None:
    """As Qwen2-Audio's, of qwen2's own 32 layers x 4096."""
    told = {"model_type": "qwen2_audio", "text_config": {"model_type": "qwen2"}}
    (folder / "config.json").write_text(json.dumps(told))
    shape = ModelShape.from_config(folder)
    assert (shape.family, shape.layers, shape.hidden) == ("qwen2", 32, 4096)


def test_compiled_generation_knows_nothing_of_the_folder_either() -> None:
    from fastlab.runtime.engines import Generate

    model, ids = tiny("llama", layers=2), token_rows(1, 7)
    expected = generated(model, ids, NEW)
    model.generation_config.eos_token_id = int(expected[0, 1])
    model.generation_config.repetition_penalty = 5.0
    call = object.__new__(Generate)  # without its compilation
    call.model, call.ids, call.mask = model, ids, torch.ones_like(ids)
    call.options = {"max_new_tokens": NEW}
    assert torch.equal(call.run(), expected)
    assert model.generation_config.repetition_penalty == 5.0

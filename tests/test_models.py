"""Models: built where they run, seeded, equal to transformers; checkpoints, safely."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from fastlab import models
from fastlab.calls import prepare
from fastlab.checkpoints import generate_text, load
from fastlab.cost.memory import parameters
from fastlab.models import build, config_of, numerics
from fastlab.spec import PRESETS, ModelShape, point_of
from fastlab.spec.grids import grid
from fastlab.spec.hub import weights_id
from tests.small import same_weights

DECODERS = ("tiny-gpt2", "tiny-llama", "tiny-qwen3")


def test_a_seed_gives_weights_and_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    point = point_of(model="tiny-llama", weights="random:7")
    first, second = build(point), build(point)
    other = build(point_of(model="tiny-llama", weights="random:8"))
    assert torch.equal(torch.rand(1), expected)
    assert same_weights(first, second)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


PART = models.PART


@pytest.mark.parametrize("size", [PART, PART + 15, PART + 16, 2 * PART + 17, PART - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["normal_", "uniform_"])
def test_parts_and_later_ones_are_drawn_as_the_whole_is(
    size: int, dtype: torch.dtype, name: str
) -> None:
    """To the last bit, and so is what is drawn next; a view gets its own at once."""
    torch.manual_seed(5)
    whole = getattr(torch.empty(size), name)(-1, 2).to(dtype)
    rest = torch.rand(3)
    for later in (False, True):
        weight = torch.nn.Parameter(torch.empty(size, dtype=dtype), False)
        view = torch.empty(size, dtype=dtype)
        for one in (weight, view):
            torch.manual_seed(5)
            with models.DrawnInFp32(later):
                getattr(one, name)(-1, 2)
            assert torch.equal(torch.rand(3), rest)
        assert hasattr(weight, "later") == (later and size > PART + 15)
        assert torch.equal(models.filled(weight), whole)
        assert torch.equal(view, whole)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_later_weights_are_those_of_now(family: str) -> None:
    """Stacks of experts, a tied table and linears beyond one part, all but norms."""
    more = {"ffn": 1040, "vocab": 2100, "hidden": 1024, "family": family}
    point = grid(layers=1, precision="int8", **more)[0]
    now, later = build(point), build(point, later=True)
    held = [models.filled(weight) for weight in later.parameters()]
    assert sum(hasattr(w, "later") for w in build(point, later=True).parameters()) > 2
    for one, other in zip(now.parameters(), held, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", [*DECODERS, "tiny-bert"])
def test_a_model_is_made_in_its_dtype_and_for_inference(name: str) -> None:
    model = build(point_of(model=name, precision="bf16"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_an_8b_model_is_made_on_the_device_itself() -> None:
    model = build(point_of(model="llama-3.1-8b", precision="bf16"), "meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_trained_weights_are_not_made_up() -> None:
    with pytest.raises(ValueError, match="only random ones can be built"):
        build(point_of(model="tiny-gpt2", weights="trained:abc"))


@pytest.mark.parametrize("name", DECODERS)
def test_a_timed_decode_step_never_grows_its_cache(name: str) -> None:
    point = point_of(model=name, phase="decode", prompt_len=9)
    call = prepare(build(point), point)
    with numerics("fp32"):
        first = call.run().clone()
        assert call.cache.get_seq_length() == 10
        for _ in range(3):
            call.reset()
            assert call.cache.get_seq_length() == 9
            assert torch.equal(call.run(), first)


def test_without_a_cache_the_step_runs_over_everything() -> None:
    point = point_of(model="tiny-llama", phase="decode", prompt_len=9, cache="none")
    with numerics("fp32"):
        call = prepare(build(point), point)
        assert call.ids.shape == (1, 10)
        assert call.run().shape == (1, 1, 512)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_config_gives_its_shape_back(name: str) -> None:
    assert ModelShape.from_config(config_of(PRESETS[name])) == PRESETS[name]


def test_options_of_its_own_are_counted_by_watching() -> None:
    """Biases of q, k, v (64 + 2 x 32) and of the output (64), in each of two layers."""
    config = config_of(PRESETS["tiny-llama"])
    config.attention_bias = True
    shape = ModelShape.from_config(config)
    assert parameters(shape) == parameters(PRESETS["tiny-llama"]) + 2 * (64 + 64 + 64)


WORDS = ["<pad>", "the", "cache", "holds", "keys", "and", "values", "."]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real checkpoint with a tokenizer of eight words, in a local folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint")
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    build(point_of(model="tiny-llama", vocab=8)).save_pretrained(folder)
    return folder


def test_text_in_text_out(checkpoint: Path) -> None:
    """The article's inference function, with a model and a tokenizer that exist."""
    model, tokenizer = load(checkpoint)
    text = generate_text(model, tokenizer, "the cache holds", new_tokens=5)
    inputs = tokenizer("the cache holds", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert "the cache holds" + text == tokenizer.decode(ids[0])
    assert set(text.split()) <= set(WORDS)
    with pytest.raises(ValueError, match="prompt='' must have at least one token"):
        generate_text(model, tokenizer, "")


def test_a_local_folder_is_a_model_by_name_in_the_wanted_precision(
    checkpoint: Path,
) -> None:
    shape = ModelShape.from_config(checkpoint)
    assert (shape.family, shape.vocab, shape.kv_heads) == ("llama", 8, 2)
    assert point_of(model=str(checkpoint)).shape == shape
    model, tokenizer = load(checkpoint, precision="bf16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="prompt='' must have at least one token"):
        generate_text(model, tokenizer, "")


def test_weights_are_known_by_their_bytes_and_pickled_ones_are_not_read(
    checkpoint: Path, tmp_path: Path
) -> None:
    data = (checkpoint / "model.safetensors").read_bytes()
    assert weights_id(checkpoint) == f"trained:{hashlib.sha256(data).hexdigest()}"
    for file in checkpoint.glob("*.json"):
        shutil.copy(file, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no \.safetensors file"):
        weights_id(tmp_path)


def test_code_in_a_checkpoint_is_never_run(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(ValueError):
        load(tmp_path)


def test_tf32_is_switched_on_only_for_its_own_points() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with numerics("tf32"):
        assert matmul.fp32_precision == "tf32"
        assert torch.is_inference_mode_enabled()
    with numerics("fp32"):
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == before


@pytest.mark.parametrize("name", [*DECODERS, "tiny-bert"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_seed_means_the_same_weights_in_every_dtype(
    name: str, precision: str
) -> None:
    wide = build(point_of(model=name))
    short = build(point_of(model=name, precision=precision))
    for a, b in zip(wide.parameters(), short.parameters(), strict=True):
        assert torch.equal(a.to(b.dtype), b)


def test_autocast_multiplies_in_16_bits_and_keeps_fp32_weights() -> None:
    point = point_of(model="tiny-llama", precision="autocast-bf16")
    model = build(point)
    call = prepare(model, point)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with numerics("fp32"):
        exact = call.run()
    with numerics("autocast-bf16"):
        assert torch.is_autocast_enabled("cpu")
        cast = call.run()
    assert not torch.is_autocast_enabled("cpu")
    difference = (exact - cast).abs().max().item()
    assert 0 < difference < 0.1 * exact.abs().max().item()


@pytest.mark.parametrize(
    ("attention", "name"),
    [("sdpa-math", "sdpa"), ("flex", "flex_attention"), ("eager", "eager")],
)
def test_attention_has_transformers_name(attention: str, name: str) -> None:
    model = build(point_of(model="tiny-llama", attention=attention))
    assert model.config._attn_implementation == name

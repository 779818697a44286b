"""Saved and loaded: equal bit for bit, on what the manifest says, or a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastlab as fl
from fastlab.models import numerics, prepare
from fastlab.shrink import parts
from fastlab.shrink.recipes import build, load
from fastlab.shrink.saved import MANIFEST, WEIGHTS, load_quantized, save_quantized
from fastlab.spec import point_of
from fastlab.spec.formats import QUANTIZED


def logits(model: nn.Module, point: Any) -> torch.Tensor:
    with numerics("bf16"):
        return prepare(model, point).run()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    point = point_of(model="tiny-llama", precision="int4-g32", prompt_len=7)
    save_quantized(build(point), tmp_path)
    return tmp_path


CASES = [("tiny-llama", p, "layers") for p in QUANTIZED]
CASES += [
    (name, precision, "all")
    for name in ("tiny-gpt2", "tiny-qwen3", "tiny-bert")
    for precision in ("int8", "int4-g32", "fp8")
]
CASES += [("tiny-gpt2", "int8-dynamic", "all"), ("tiny-gpt2", "int4-g32", "head")]


@pytest.mark.parametrize(("name", "precision", "scope"), CASES)
def test_logits_are_bit_equal_after_loading(
    tmp_path: Path, name: str, precision: str, scope: str
) -> None:
    point = point_of(
        model=name, precision=precision, scope=scope, prompt_len=7, hidden=256
    )
    model = build(point)
    manifest = save_quantized(model, tmp_path)
    again = load_quantized(tmp_path)
    assert torch.equal(logits(again, point), logits(model, point))
    assert manifest["precision"] == parts.precision_of(again) == precision
    assert parts.stored_weight_bytes(again) == parts.stored_weight_bytes(model)
    assert (tmp_path / WEIGHTS).stat().st_size == manifest["file"]["bytes"]


def test_the_attention_is_kept(tmp_path: Path) -> None:
    point = point_of(model="tiny-llama", precision="int8", attention="eager")
    save_quantized(build(point), tmp_path)
    assert load_quantized(tmp_path).config._attn_implementation == "eager"  # type: ignore


def test_a_saved_folder_is_a_source(saved: Path) -> None:
    model, tokenizer = fl.load(saved)
    assert parts.precision_of(model) == "int4-g32"
    assert tokenizer is None
    with pytest.raises(ValueError, match=r"precision=.bf16.: .* holds int4-g32"):
        load(saved, precision="bf16")


def test_a_checkpoint_is_loaded_quantized(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    point = point_of(model="tiny-llama", precision="bf16")
    build(point).save_pretrained(tmp_path)  # type: ignore[operator]
    model, tokenizer = load(tmp_path, precision="int8", scope="head")
    assert parts.precision_of(model) == "int8"
    save_quantized(model, tmp_path / "small", tokenizer)
    again, words_again = load(tmp_path / "small")
    assert torch.equal(logits(again, point), logits(model, point))
    assert words_again.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ValueError, match="precision='int3' is not one of fp32"):
        load(tmp_path, precision="int3")


def test_a_dense_model_is_not_saved_here(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not quantized: save it with save_pretrained"):
        save_quantized(build(point_of(model="tiny-llama")), tmp_path)


def changed(name: str, /, **values: Any) -> Any:
    """Damage: other values in a JSON file of a folder."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(data | values))

    return damage


def written(text: str) -> Any:
    return lambda folder: (folder / MANIFEST).write_text(text)


def flipped(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


DAMAGES = [
    (changed(MANIFEST, schema=9), "schema=9 must be 1"),
    (changed(MANIFEST, precision="int3"), "precision='int3' is not one of int8"),
    (changed(MANIFEST, model="Trainer"), "model='Trainer' .* is no language model"),
    (
        changed(MANIFEST, modules={"lm_head": {"kind": "Int2"}}),
        "kind of lm_head='Int2' is not",
    ),
    (changed(MANIFEST, tensors={}), "the tensors of .* are not those of"),
    (
        changed(MANIFEST, file={"bytes": 3, "sha256": ""}),
        "bytes; the manifest says 3",
    ),
    (written("{}"), "lacks schema, precision"),
    (written("no"), "is not JSON"),
    (flipped, "sha256 is not the one"),
    (changed("config.json", vocab_size=513), "of the config is not in"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_folder_says_what_is_wrong(
    saved: Path, damage: Any, words: str
) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=words):
        load_quantized(saved)
    (saved / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError):
        load_quantized(saved)

"""Saved and loaded: equal bit for bit, on what the manifest says, or a clear error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import fastlab as fl
from fastlab.cli import main
from fastlab.cost.memory import weight_bytes
from fastlab.models import numerics
from fastlab.shrink import parts, sparsify
from fastlab.shrink.recipes import build, load
from fastlab.shrink.saved import WEIGHTS, load_stored, recipe_of, save
from fastlab.shrink.share import share
from fastlab.shrink.sparsify import SemiSparseLinear, halves, of_halves, zero_out
from fastlab.spec import Point, Workload, point_of
from fastlab.spec.formats import QUANTIZED
from fastlab.spec.manifest import MANIFEST
from fastlab.spec.recipe import Recipe
from fastlab.spec.storage import Sharing, Sparsity, sparse_bytes
from tests.small import logits

SEMI_FIELDS = {"sparse_pattern": "2:4", "sparse_storage": "2:4"}
SEMI = Sparsity(pattern="2:4", storage="2:4")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    point = point_of(model="tiny-llama", precision="int4-g32", prompt_len=7)
    save(build(point), tmp_path)
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
    manifest = save(model, tmp_path)
    again = load_stored(tmp_path)
    assert torch.equal(logits(again, point), logits(model, point))
    assert manifest["precision"] == recipe_of(again).precision == precision
    assert parts.stored_weight_bytes(again) == parts.stored_weight_bytes(model)
    assert (tmp_path / WEIGHTS).stat().st_size == manifest["file"]["bytes"]


def test_the_attention_is_kept(tmp_path: Path) -> None:
    point = point_of(model="tiny-llama", precision="int8", attention="eager")
    save(build(point), tmp_path)
    assert load_stored(tmp_path).config._attn_implementation == "eager"  # type: ignore


def test_a_saved_folder_is_a_source(saved: Path) -> None:
    model, tokenizer = fl.load(saved)
    assert recipe_of(model).precision == "int4-g32"
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
    assert recipe_of(model).precision == "int8"
    save(model, tmp_path / "small", tokenizer)
    again, words_again = load(tmp_path / "small")
    assert torch.equal(logits(again, point), logits(model, point))
    assert words_again.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ValueError, match="precision='int3' is not one of fp32"):
        load(tmp_path, precision="int3")


TINY = {"prompt_len": 7, "hidden": 128}
OTHERS: list[dict[str, Any]] = [
    {"precision": "bf16", "sparse_ratio": 0.9, "sparse_storage": "csr"},
    {"sparse_pattern": "2:4", "sparse_storage": "csr", "model": "tiny-gpt2"},
    {"precision": "fp16", "share_bits": 3, "share_rows": 64},
    {"share_bits": 2, "model": "tiny-bert"},
    {"precision": "bf16", "sparse_ratio": 0.5},
    {"precision": "fp16", "prune_layers": 0.5, "prune_ffn": 0.5, "model": "tiny-qwen3"},
    {"prune_layers": 0.5, "attention": "eager", "model": "tiny-bert"},
    {"precision": "int8", "prune_layers": 0.5, "sparse_ratio": 0.3, "scope": "head"},
    {"precision": "bf16", "prune_heads": 0.5, "share_bits": 4},
    {"prune_ffn": 0.5, "sparse_ratio": 0.4, "sparse_storage": "csr"},
    {"distinct_layers": 2, "layers": 4, "precision": "bf16"},
    {"distinct_layers": 1, "precision": "int4-g32", "model": "tiny-gpt2"},
    {"distinct_layers": 2, "layers": 4, "prune_ffn": 0.5, "share_bits": 3},
    {"distinct_layers": 1, "precision": "int8-dynamic", "scope": "all"},
]


@pytest.mark.parametrize("made", OTHERS)
def test_every_recipe_comes_back_as_it_was(tmp_path: Path, made: Any) -> None:
    """Logits bit for bit; a point of the folder counts the bytes that are there."""
    point = point_of(**{"model": "tiny-llama"} | TINY | made)
    model = build(point)
    fl.save(model, tmp_path)
    again, tokenizer = fl.load(tmp_path)
    assert type(again) is type(model) and tokenizer is None
    assert torch.equal(logits(again, point), logits(model, point))
    kept = point_of(model=str(tmp_path), weights="trained", prompt_len=7)
    assert kept.shape == point.built_shape
    assert weight_bytes(kept) == parts.stored_weight_bytes(model)
    own = build(
        replace(kept, recipe=replace(kept.recipe, attention=point.recipe.attention)),
        trained=fl.Trained(str(tmp_path)),
    )
    assert torch.equal(logits(own, point), logits(model, point))
    if kept.recipe.storage != "dense":
        assert kept.recipe.sparsity == point.recipe.sparsity
        assert kept.recipe.sharing == point.recipe.sharing


FAMILIES = [
    ("qwen2", lambda model: fl.quantize(model, "int8")),
    ("gemma2", lambda model: sparsify.sparsify(model, Sparsity(0.5, storage="csr"))),
    ("phi3", lambda model: share(model, Sharing(2))),
    ("roberta", lambda model: model),
]


@pytest.mark.parametrize(("family", "made"), FAMILIES)
def test_models_of_any_family(tmp_path: Path, family: str, made: Any) -> None:
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = AutoConfig.for_model(
        family,
        **{"num_hidden_layers": 2, "max_position_embeddings": 64, "pad_token_id": 0},
        **sizes,
        **heads,
    )
    shape = fl.ModelShape.from_config(config)
    work = Workload(prompt_len=7)
    model = made(build(Point(shape, work, Recipe("bf16"))))
    fl.save(model, tmp_path)
    again, ids = fl.load(tmp_path)[0], torch.arange(3, 10)[None]
    with numerics("bf16"):
        assert torch.equal(again(ids).logits, model(ids).logits)
    kept = point_of(model=str(tmp_path), weights="trained", prompt_len=7)
    assert weight_bytes(kept) == parts.stored_weight_bytes(model)
    assert type(build(kept, trained=fl.Trained(str(tmp_path)))) is type(model)


def test_a_dense_folder_is_one_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    point = point_of(model="tiny-llama", precision="bf16", prune_layers=0.5)
    model = build(point)
    fl.save(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(theirs, point), logits(model, point))
    assert recipe_of(fl.load(tmp_path, precision="int8")[0]).precision == "int8"
    assert point_of(model=str(tmp_path)).recipe == Recipe("bf16", cache="dynamic")


CONTRADICTIONS = [
    ({"precision": "bf16"}, "precision='bf16': .* holds int4-g32 weights"),
    ({"scope": "all"}, "scope='all': .* holds int4-g32 weights"),
    ({"sparse_ratio": 0.5}, "sparse_ratio=0.5: .* holds int4-g32 weights"),
    ({"prune_layers": 0.5}, "prune_layers=0.5: .* holds int4-g32 weights"),
]


@pytest.mark.parametrize(("asked", "words"), CONTRADICTIONS)
def test_what_a_folder_holds_is_not_contradicted(
    saved: Path, asked: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        point_of(model=str(saved), **asked)
    same = point_of(model=str(saved), precision="int4-g32", prune_layers=0)
    assert same == point_of(model=str(saved))


def test_a_folder_on_the_command_line(tmp_path: Path) -> None:
    dense, tokenizer = fl.load("data/checkpoints/stdlib-12x192", precision="bf16")
    fl.save(fl.quantize(dense, "int8"), tmp_path, tokenizer)
    line = {"model": str(tmp_path)}
    assert "int8 prefill" in run("predict", **line, on="a100")
    assert run("generate", "def read(", **line, new_tokens="3").startswith("def read(")
    row = json.loads(run("measure", "--json", **line, **QUICK))
    assert row["status"] == "ok" and row["point"]["recipe"] == {"precision": "int8"}
    assert "holds int8 weights" in row["reason"]  # no dense ones to compare with
    for command in (("generate", "x"), ("predict",), ("devices",), ("measure",)):
        words = run(*command, **line, precision="bf16", code=2)
        assert words.endswith(f"precision='bf16': {tmp_path} holds int8 weights\n")


QUICK = {"weights": "trained", "prompt_len": "4", "budget_s": "0.05"}


def run(*words: str, code: int = 0, **options: str) -> str:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    result = CliRunner().invoke(main, [*words, *flags])
    assert result.exit_code == code, result.output
    return result.output


def test_two_kinds_of_weights_in_one_folder_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"holds quantized\.safetensors already"):
        fl.save(build(point_of(model="tiny-llama")), saved)


def test_the_halves_of_a_2_4_weight() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    zero_out(weight, SEMI)
    weight[0, :8] = torch.tensor([0, 0, 0, 0, 0, 0, 0, 3.0])  # fewer than two left
    held = halves(weight)
    assert torch.equal(of_halves(**held), weight)
    size = sum(t.numel() * t.element_size() for t in held.values())
    assert size == sparse_bytes(SEMI, 32, 64)
    assert held["places"][0].tolist()[:1] == [0b0001_0011]  # 0 and 1, then 0 and 3
    with pytest.raises(ValueError, match=r"sparse tensor cores are NVIDIA's"):
        SemiSparseLinear(SEMI, (32, 64), None, **held)


def test_a_2_4_model_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it can be stored, as CUTLASS does, but not run."""
    from torch.sparse import SparseSemiStructuredTensorCUTLASS as Cutlass
    from torch.sparse import _semi_structured_conversions as cutlass

    def packed(weight: torch.Tensor) -> torch.Tensor:
        held = cutlass.sparse_semi_structured_from_dense_cutlass(weight)
        return Cutlass(weight.shape, *held, None, None, None)  # type: ignore

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", packed)
    monkeypatch.setattr(sparsify, "storage_refusal", lambda *_: "")
    point = point_of(model="tiny-llama", precision="bf16", **SEMI_FIELDS, hidden=128)
    model = build(point)
    fl.save(model, tmp_path)
    again = dict(fl.load(tmp_path)[0].named_modules())
    stored = list(parts.stored_modules(model))
    assert len(stored) == 14
    for name, module in stored:
        assert torch.equal(again[name].dense(), module.dense())  # type: ignore
    kept = point_of(model=str(tmp_path))
    assert kept.recipe.sparsity == SEMI
    assert weight_bytes(kept) == parts.stored_weight_bytes(model)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert 0 < size - weight_bytes(kept) < 10_000  # its header, RoPE's frequencies


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
    (changed(MANIFEST, schema=9), "schema=9 is not one of 1"),
    (changed(MANIFEST, precision="int3"), "precision='int3' is not one of fp32"),
    (changed(MANIFEST, model="Trainer"), "model='Trainer' is no language model"),
    (
        changed(MANIFEST, file={"bytes": 3, "sha256": ""}),
        "bytes; the manifest says 3",
    ),
    (changed(MANIFEST, attention="kernels-community/x"), "attention='kernels-comm"),
    (changed(MANIFEST, sparsity={"ratio": 7}), "ratio=7 must be above 0"),
    (changed(MANIFEST, modules=["model.layers.7"]), "its files are not of one model"),
    (changed("config.json", num_hidden_layers=1), "its files are not of one model"),
    (written("{}"), "lacks 'schema'"),
    (written("no"), "fastlab.json: Expecting value"),
    (flipped, "sha256 is not the one"),
    (changed("config.json", vocab_size=513), "of the config is not in"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_folder_says_what_is_wrong(
    saved: Path, damage: Any, words: str
) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=words):
        load_stored(saved)
    (saved / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError):
        load_stored(saved)

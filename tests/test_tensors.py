"""Folders whose files are not the model's: one line before anything is read."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

import fastlab as fl
from fastlab.cli import main
from fastlab.models import numerics
from fastlab.spec import point_of
from fastlab.tensors import check_tensors

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tied tiny llama, as transformers writes it."""
    fl.build(point_of(model="tiny-llama", tied=True)).save_pretrained(tmp_path)  # type: ignore
    return tmp_path


def rewritten(folder: Path, change: Callable[[Tensors], Any], **config: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors = change(tensors) or tensors
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {n: t for n, t in held.items() if part not in n}


def added(name: str, *size: int) -> Callable[[Tensors], Any]:
    return lambda held: held.update({name: torch.ones(size)})


def headed(change: float) -> Callable[[Tensors], Any]:
    return lambda held: held.update({HEAD: held[TABLE] + change})


UNFIT: list[tuple[Any, dict[str, Any], str]] = [
    (without("layers.1."), {}, r"lacks what LlamaForCausalLM has: .*layers.1.input"),
    (
        without("embed"),
        {},
        "lacks what LlamaForCausalLM has: lm_head.weight and 1 more$",
    ),
    (without("nothing"), {"tie_word_embeddings": False}, "has: lm_head.weight$"),
    (added("extra.weight", 2), {}, "has what LlamaForCausalLM lacks: extra.weight$"),
    (without("x"), {"num_hidden_layers": 1}, "lacks: model.layers.1.* and 8 more$"),
    (
        without("x"),
        {"intermediate_size": 96},
        r"has other sizes: model.layers.0.mlp.down_proj.weight \[64, 128\] where",
    ),
    (headed(1.0), {}, "lm_head.weight is not model.embed_tokens.weight, which it is"),
    (
        lambda held: {n.replace("self_attn", "attn"): t for n, t in held.items()},
        {},
        "lacks what LlamaForCausalLM has: model.layers.0.self_attn",
    ),
]


@pytest.mark.parametrize(("change", "config", "words"), UNFIT)
def test_tensors_that_are_not_the_models(
    folder: Path, change: Any, config: Any, words: str
) -> None:
    rewritten(folder, change, **config)
    with pytest.raises(ValueError, match=words) as error:
        fl.load(folder)
    result = CliRunner().invoke(main, ["generate", "x", "--model", str(folder)])
    assert (result.exit_code, result.output) == (2, f"Error: {error.value}\n")


FIT = [
    headed(0.0),  # a tied head that is written twice
    lambda held: {(HEAD if n == TABLE else n): t for n, t in held.items()},
    lambda held: {n.removeprefix("model."): t for n, t in held.items()},
    added("pooler.dense.weight", 3),  # heads of other tasks, buffers of older versions
    added("model.layers.0.self_attn.rotary_emb.inv_freq", 8),
]


@pytest.mark.parametrize("change", FIT)
def test_tensors_that_are_told_otherwise(folder: Path, change: Any) -> None:
    before, ids = fl.load(folder)[0], torch.arange(6)[None]
    rewritten(folder, change)
    with numerics("fp32"):
        assert torch.equal(fl.load(folder)[0](ids).logits, before(ids).logits)


def test_weights_that_others_quantized_are_not_judged_by_name(folder: Path) -> None:
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    scale = added("model.layers.0.mlp.up_proj.weight_scale_inv", 1, 1)
    rewritten(folder, scale, quantization_config=fp8)
    check_tensors(folder)


def test_a_shard_is_missing(folder: Path) -> None:
    shutil.rmtree(folder)
    model = fl.build(point_of(model="tiny-llama"))
    model.save_pretrained(folder, max_shard_size="100KB")  # type: ignore
    check_tensors(folder)
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"model=.* lacks {lost.name}$"):
        fl.load(folder)
    words = ["--weights=trained", "--budget-s=0.01", "--prompt-len=4"]
    result = CliRunner().invoke(main, ["measure", f"--model={folder}", *words])
    assert result.exit_code == 2 and result.output.endswith(f"lacks {lost.name}\n")


KERNELS: list[dict[str, Any]] = [
    {"attn_implementation": "kernels-community/flash-attn2"},
    {"_attn_implementation": "kernels-community/flash-attn2"},
    {"attn_implementation": {"": "kernels-community/flash-attn2"}},
    {"experts_implementation": "sonicmoe"},
    {"_experts_implementation": "deepgemm"},
    {"use_kernels": True, "kernel_config": {"kernel_mapping": {"RMSNorm": "a/b:c"}}},
]


@pytest.mark.parametrize("config", KERNELS)
def test_no_config_names_the_kernels(
    folder: Path, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is looked up on a hub, and the model is what it is without the entry."""

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("the network was asked")

    expected, ids = fl.load(folder)[0], torch.arange(6)[None]
    rewritten(folder, lambda held: None, **config)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    model, _ = fl.load(folder)
    point = point_of(model=str(folder), weights="trained", attention="eager")
    eager = fl.build(point, trained=fl.Trained(str(folder)))
    assert model.config._attn_implementation == "sdpa"  # type: ignore
    assert eager.config._attn_implementation == "eager"  # type: ignore
    with numerics("fp32"):
        assert torch.equal(model(ids).logits, expected(ids).logits)


def test_nor_do_the_configs_in_it() -> None:
    from transformers import AutoConfig

    from fastlab.models import set_implementations

    kernels = {"_attn_implementation": "a/b", "_experts_implementation": "sonicmoe"}
    config: Any = AutoConfig.for_model("gemma3", text_config=dict(kernels), **kernels)
    assert config.text_config._attn_implementation == "a/b"
    set_implementations(config, "eager")
    for one in (config, config.text_config, config.vision_config):
        assert one._attn_implementation == "eager"
        assert one._experts_implementation is None

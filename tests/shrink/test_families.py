"""Pruning of families, most of which the package has no word about: cut = masked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers.models.auto import modeling_auto

from fastlab.models import stack_of
from fastlab.shrink.pruning.cutting import Kept
from fastlab.shrink.pruning.importance import choose
from fastlab.shrink.pruning.slicing import prune
from fastlab.spec.pruned import group_sizes, head_width, layer_sizes, resized, units
from fastlab.spec.pruning import Pruning
from tests.small import logits_of, token_rows

# Model type -> what can be cut; "both": heads and hidden by one share, no other.
CAN = {
    **dict.fromkeys(("mistral", "qwen2", "phi3", "smollm3"), "heads ffn hidden"),
    **dict.fromkeys(("llama", "qwen3"), "heads ffn hidden"),
    **dict.fromkeys(("granite", "glm4", "ministral3", "exaone4"), "heads ffn hidden"),
    **dict.fromkeys(("ernie4_5", "phi", "starcoder2", "cohere"), "heads ffn hidden"),
    **dict.fromkeys(("mixtral", "gpt_oss", "qwen3_moe"), "heads ffn experts hidden"),
    **dict.fromkeys(("opt", "gpt_neox", "gptj", "gpt_neo", "roberta"), "both ffn"),
    **dict.fromkeys(("distilbert", "modernbert", "stablelm"), "both ffn"),
    **dict.fromkeys(("gpt2", "bert"), "both ffn"),
    **dict.fromkeys(("gemma2", "gemma3_text"), "heads ffn"),
    **{"olmo": "heads ffn", "olmo2": "ffn hidden", "bloom": ""},
    **{"deepseek_v3": "heads ffn hidden", "persimmon": "both ffn"},
}
SHARES = {"heads": 1 / 3, "ffn": 0.4, "experts": 0.25, "hidden": 1 / 3}
OVER: dict[str, dict[str, Any]] = {
    "gptj": {"rotary_dim": 8},
    "deepseek_v3": {"head_dim": 64, "n_group": 1, "topk_group": 1},
}


def tiny(kind: str) -> Any:
    """A random model of a type, of four layers: its usual config at other sizes."""
    config = transformers.AutoConfig.for_model(kind)
    sizes = layer_sizes(config, range(4)) | group_sizes(config, 3) | {"vocab_size": 97}
    own = head_width(config) and "both" not in CAN[kind]
    sizes["hidden_size"] = (12 if own else 16) * sizes["num_attention_heads"]
    sizes |= dict.fromkeys(head_width(config), 16)
    sizes |= dict.fromkeys(units(config, "ffn"), 40)
    sizes |= dict.fromkeys(units(config, "experts"), 16)
    sizes |= {name: 1 for name in config.to_dict() if name.endswith("token_id")}
    sizes |= {n: 1e-12 for n in config.to_dict() if n.endswith("norm_eps")}
    config = resized(config, sizes | OVER.get(kind, {}))
    torch.manual_seed(0)
    names = {
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    }
    model = getattr(transformers, names[kind])(config).eval().requires_grad_(False)
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    for weight in model.parameters():
        wide = weight.ndim > 1 and not any(weight is table for table in tables)
        noise = torch.randn(weight.shape) * (weight.shape[-1] ** -0.5 if wide else 0.3)
        weight.copy_(noise if weight.ndim > 1 else weight + noise)
    return model


def masked_logits(model: Any, small: Any, kept: Kept) -> torch.Tensor:
    """The dense model's, where weights of units that go are zero.

    Norms that subtract a mean are told to take it of the others; no other norm is.
    """
    for slot in kept.slots:
        tensor, size = slot.tensor(model), slot.tensor(model).shape[slot.dim]
        stay = set(kept.places(slot, size).tolist())
        gone = [place for place in range(size) if place not in stay]
        tensor.index_fill_(slot.dim, torch.tensor(gone), 0)
        if slot.role == "norm" and "LayerNorm" in type(slot.owner(model)).__name__:
            among = narrowed(slot.owner(small), kept.units["hidden"][-1])
            slot.owner(model).register_forward_hook(among)
    return logits_of(model)


def narrowed(norm: Any, stay: torch.Tensor) -> Any:
    def among_those_that_stay(_: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(out).index_copy_(-1, stay, norm(args[0][..., stay]))

    return among_those_that_stay


@pytest.mark.parametrize("kind", CAN)
def test_a_family_is_cut_as_it_would_be_masked(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    for name in ("heads", "ffn", "hidden"):
        together = {"heads", "hidden"} if "both" in CAN[kind] else set[str]()
        axes = together if name in together else {name}
        pruning = Pruning(**{a: SHARES[a] for a in axes}, importance="random")
        if name not in CAN[kind] and not together & axes:
            with pytest.raises(
                ValueError, match=f"model_type='{kind}': its|must be eq"
            ):
                prune(copy.deepcopy(model), pruning)
            continue
        kept, small = choose(model, pruning), copy.deepcopy(model)
        prune(small, pruning)
        masked = masked_logits(copy.deepcopy(model), small, kept)
        assert not torch.allclose(masked, logits_of(model), atol=1e-2)
        assert_close(logits_of(small), masked, atol=1e-4, rtol=1e-4)
    cuts = {
        name: SHARES[name] for name in CAN[kind].replace("both", "heads hidden").split()
    }
    prune(model, Pruning(layers=0.5, **cuts, multiple=4 if "experts" in cuts else 1))
    assert len(stack_of(model)) == model.config.num_hidden_layers == 2
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert_close(logits_of(again), logits_of(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("importance", ["activation", "taylor"])
def test_importances_are_measured_in_any_family(importance: str) -> None:
    """Where q, k, v and gate, up are fused: units that add nothing go unnoticed."""
    model, ids = tiny("phi3"), token_rows()
    layers = stack_of(model)
    for layer in layers:
        layer.self_attn.o_proj.weight[:, 16 * 1 : 16 * 2] = 0
        layer.mlp.down_proj.weight[:, [3, 8, 39]] = 0
    before = logits_of(model)
    prune(model, Pruning(heads=1 / 3, ffn=3 / 40, importance=importance), ids)
    assert_close(logits_of(model), before, atol=1e-4, rtol=1e-4)


def test_experts_channels_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="'activation' is not seen of intermediate_s"):
        prune(tiny("mixtral"), Pruning(ffn=0.5, importance="activation"), token_rows())


def test_the_experts_of_the_largest_weights_stay() -> None:
    model = tiny("mixtral")
    for layer in stack_of(model):
        layer.mlp.experts.gate_up_proj[4:12] *= 3
    units = choose(model, Pruning(experts=0.5)).units["num_local_experts"]
    assert {layer: kept.tolist() for layer, kept in units.items()} == {
        layer: [*range(4, 12)] for layer in range(4)
    }


def test_models_without_a_language_head_are_cut_too() -> None:
    """A classifier keeps its 3 classes; a base model says its narrower states."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 40, "vocab_size": 97}
    half = Pruning(heads=0.5, hidden=0.5, ffn=0.5)
    config = transformers.BertConfig(**sizes, num_labels=3)
    classifier = transformers.BertForSequenceClassification(config).eval()
    assert logits_of(prune(classifier, half)).shape == (2, 3)
    base = transformers.LlamaModel(transformers.LlamaConfig(**sizes)).eval()
    assert prune(base, half)(token_rows(2))[0].shape == (2, 12, 32)

"""Pruned models: their shape, their files, what they generate, what they compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from fastlab.clock.peak import LiveBytes
from fastlab.cost.memory import parameters
from fastlab.shrink import parts
from fastlab.shrink.pruning.cutting import cut, places
from fastlab.shrink.pruning.importance import choose
from fastlab.shrink.pruning.module_map import map_of
from fastlab.shrink.pruning.slicing import prune
from fastlab.shrink.quantize import quantize
from fastlab.spec.pruning import Pruning, placed, pruned_shape
from fastlab.spec.shape import ModelShape
from tests.small import DECODERS, FAMILIES, SIZES, logits_of, small, token_rows

THIRD = 1 / 3
CUTS: dict[str, dict[str, float]] = {
    "layers": {"layers": THIRD},
    "heads": {"heads": THIRD},
    "ffn": {"ffn": 0.4},
    "hidden": {"hidden": THIRD},
    "all": {"layers": THIRD, "heads": THIRD, "ffn": 0.4, "hidden": THIRD},
}


def cut_of(name: str, family: str) -> dict[str, float]:
    """The shares of a cut; heads and hidden together where they belong together."""
    apart = family in ("llama", "qwen3") or name not in ("heads", "hidden")
    return CUTS[name] if apart else {"heads": THIRD, "hidden": THIRD}


@pytest.mark.parametrize("cut_name", CUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_what_its_config_says(
    family: str, cut_name: str, tmp_path: Path
) -> None:
    model = small(family)
    dense = sum(p.numel() for p in model.parameters())
    tied = bool(parts.tied_head(model))
    pruning = Pruning(**cut_of(cut_name, family))
    expected = pruned_shape(ModelShape.from_config(model.config), pruning)
    model = prune(model, pruning)
    assert ModelShape.from_config(model.config) == expected
    left = sum(p.numel() for p in model.parameters())
    assert left == parameters(expected) < dense
    assert bool(parts.tied_head(model)) == tied
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert_close(logits_of(again), logits_of(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cut_name", CUTS)
@pytest.mark.parametrize("family", DECODERS)
def test_pruned_models_generate(family: str, cut_name: str) -> None:
    """Both caches give the tokens that whole forward passes give."""
    model, ids = small(family), token_rows(2, 6)
    prune(model, Pruning(**cut_of(cut_name, family)))
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    options |= {"max_new_tokens": 4, "do_sample": False}
    dynamic = model.generate(ids, **options)
    static = model.generate(ids, cache_implementation="static", **options)
    grown = ids
    for _ in range(4):
        token = logits_of(model, grown)[:, -1:].argmax(-1)
        grown = torch.cat([grown, token], dim=1)
    assert dynamic.tolist() == static.tolist() == grown.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_pruning_nothing_changes_nothing(family: str) -> None:
    model = small(family)
    before = logits_of(model)
    assert torch.equal(logits_of(prune(model, Pruning())), before)


def outputs(model: Any, axis: str) -> list[Any]:
    """What reads an axis, in each layer: the weights that its units act by."""
    read = [slot for slot in map_of(model, [axis]) if slot.role == "read"]
    return [slot.owner(model) for slot in read]


def silence(module: Any, units: torch.Tensor) -> None:
    """Set to zero the weights by which a matrix reads some of its inputs."""
    parts.dense_weight(module)[:, units] = 0


SILENT = [
    (family, axis, importance)
    for family in FAMILIES
    for axis in ("heads", "ffn")
    for importance in ("magnitude", "activation", "taylor")
    if (axis == "ffn" or family in ("llama", "qwen3"))
    and (family, importance) != ("bert", "taylor")
]


@pytest.mark.parametrize(("family", "axis", "importance"), SILENT)
def test_units_whose_outputs_are_zero_go_unnoticed(
    family: str, axis: str, importance: str
) -> None:
    """Another group or other channels in each layer; wrong grouping would show."""
    model = small(family)
    for layer, reader in enumerate(outputs(model, axis)):
        width = parts.dense_weight(reader).shape[1]
        groups = torch.arange(width).view(3 if axis == "heads" else 5, -1)
        silence(reader, groups[layer])
    before = logits_of(model)
    share = THIRD if axis == "heads" else 0.2
    pruning = Pruning(**{axis: share}, importance=importance)
    prune(model, pruning, token_rows())
    assert_close(logits_of(model), before, atol=1e-4, rtol=0)


def layer_writers(model: Any, layer: int) -> list[Any]:
    made = (
        s for s in map_of(model, ["hidden"]) if (s.role, s.layer) == ("made", layer)
    )
    return [slot.owner(model) for slot in made]


def clear(modules: list[Any]) -> None:
    for module in modules:
        for weight in module.parameters():
            weight.zero_()


@pytest.mark.parametrize("choice", ["influence", "magnitude"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_layer_that_adds_nothing_goes(family: str, choice: str) -> None:
    model = small(family)
    clear(layer_writers(model, 1))
    kept = choose(model, Pruning(layers=THIRD, layer_choice=choice), token_rows())
    assert kept.layers == (0, 2)


def gone(all_of: int, kept: torch.Tensor) -> torch.Tensor:
    return torch.tensor([n for n in range(all_of) if n not in set(kept.tolist())])


def mute_hidden(model: Any, units: torch.Tensor) -> None:
    """Let nothing write some units of the residual stream."""
    for slot in map_of(model, ["hidden"]):
        if slot.role == "made":
            slot.tensor(model).index_fill_(slot.dim, units, 0)


@pytest.mark.parametrize("importance", ["magnitude", "activation", "taylor"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_hidden_units_that_are_zero_go_with_the_norms_scaled(
    family: str, importance: str
) -> None:
    model = small(family)
    width = SIZES[family]["hidden"]
    silent = torch.arange(1, width, 4)
    mute_hidden(model, silent)
    before = logits_of(model)
    pruning = Pruning(hidden=0.25, importance=importance)
    kept = choose(model, pruning, token_rows())
    assert kept.units["hidden"][-1].tolist() == gone(width, silent).tolist()
    cut(model, kept)
    assert_close(logits_of(model), before, atol=1e-3, rtol=1e-3)


def test_fused_heads_lose_queries_keys_and_values_alike() -> None:
    """gpt2: q, k and v follow each other, 48 wide each, of six heads of 8."""
    slots = {slot[:2]: slot for slot in map_of(small("gpt2"), ["heads"])}
    fused = slots[1, "attn.c_attn.weight"]
    assert (fused.dim, fused.widths, fused.role) == (1, (8, 8, 8), "made")
    read = slots[1, "attn.c_proj.weight"]
    assert (read.dim, read.widths, read.role) == (0, (8,), "read")
    stay = places(torch.tensor([0, 3]), fused.widths, 144)
    each = [*range(8), *range(24, 32)]
    assert stay.tolist() == [start + n for start in (0, 48, 96) for n in each]


def test_layers_are_chosen_by_their_place() -> None:
    expected = {"first": (2, 3), "last": (0, 1), "uniform": (0, 3)}
    for choice, layers in expected.items():
        pruning = Pruning(layers=0.5, layer_choice=choice)
        assert choose(small("gpt2", 4), pruning).layers == layers
    assert placed(12, 6, "uniform") == (0, 2, 4, 7, 9, 11)
    assert placed(12, 3, "uniform") == (0, 6, 11)
    assert placed(6, 1, "loss") == (0,)
    assert placed(5, 5, "uniform") == (0, 1, 2, 3, 4)


def test_random_choices_follow_the_seed() -> None:
    model, name = small("llama"), "intermediate_size"
    chosen = [
        choose(model, Pruning(ffn=0.5, importance="random", seed=seed)).units[name][0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_training_state_is_kept() -> None:
    """Which weights learn, and whether it is training, is as before."""
    model = small("gpt2").train().requires_grad_(True)
    prune(model, Pruning(ffn=0.4, importance="taylor"), token_rows())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


class RealBytes(LiveBytes):
    """Without tensors on the meta device, which take no memory."""

    def hold(self, values: Any) -> None:
        """Count the tensors that take memory."""
        real = [t for t in tree_leaves(values) if getattr(t, "is_meta", True) is False]
        super().hold(real)


def test_memory_stays_near_the_dense_models() -> None:
    """In place: the dense model, one new weight and the scores' blocks at the most."""
    model = small("llama", 8, hidden=96, ffn=256)
    pruning = Pruning(layers=0.5, ffn=0.5, layer_choice="magnitude")
    kept = choose(model, pruning)  # its small model is made only once
    dense = sum(p.numel() * 4 for p in model.parameters()) - 97 * 96 * 4
    with RealBytes([*model.parameters(), *model.buffers()]) as live:
        assert choose(model, pruning).layers == kept.layers
        cut(model, kept)
    held = sum(t.numel() * 4 for t in [*model.parameters(), *model.buffers()])
    assert held < 0.6 * live.peak
    assert live.peak < 1.1 * (dense + 97 * 96 * 4)


def not_finite(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan


def adapted(model: Any) -> None:
    model.model.layers[0].mlp.extra = torch.nn.Linear(2, 2)


def scaled(model: Any) -> None:
    model.config.scale_attn_by_inverse_layer_idx = True


LOSS = {"layers": 0.5, "layer_choice": "loss"}
IDS = token_rows()
REFUSED: list[tuple[str, Any, dict[str, Any], Any, str]] = [
    ("llama", None, {"ffn": 0.5, "importance": "taylor"}, None, "'taylor' needs ids"),
    ("llama", None, LOSS, None, "layer_choice='loss' needs ids"),
    ("llama", None, {"ffn": 0.5}, IDS.float(), r"ids \(4, 12\) of .*32 must be token"),
    ("llama", None, {"ffn": 0.5}, IDS[:, :1], r"ids \(4, 1\) must have rows of 2 to"),
    ("llama", None, {"ffn": 0.5}, IDS + 90, "must be from 0 to 96"),
    ("gpt2", None, {"heads": 0.5}, None, r"heads=0.5 and hidden=0.0 must be equal"),
    ("bert", None, LOSS, IDS, "layer_choice='loss' needs a next-token"),
    ("gpt2", scaled, {"layers": 0.5}, None, r"layers=0.5: scale_attn_by_inverse_layer"),
    ("llama", not_finite, {"ffn": 0.5}, None, "in layer 1 are not finite"),
    ("llama", adapted, {"ffn": 0.5}, None, r"mlp.extra \(Linear\) is not of a llama"),
]


@pytest.mark.parametrize(("family", "change", "cuts", "ids", "words"), REFUSED)
def test_what_cannot_be_pruned_is_refused_before_anything_changes(
    family: str, change: Any, cuts: dict[str, Any], ids: Any, words: str
) -> None:
    model = small(family)
    if change:
        change(model)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        prune(model, Pruning(**cuts), ids)
    for name, weight in model.state_dict().items():
        assert_close(weight, state[name], rtol=0, atol=0, equal_nan=True)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model_type=None has no one list of"):
        prune(torch.nn.Linear(2, 2), Pruning(ffn=0.5))
    with pytest.raises(ValueError, match="prune the dense model before"):
        prune(quantize(small("llama"), "int8"), Pruning(ffn=0.5))

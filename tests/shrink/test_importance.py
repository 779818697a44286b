"""Scores of units and layers, against other ways to the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fastlab.learning.tokens import block_nats
from fastlab.models import stack_of
from fastlab.shrink import parts
from fastlab.shrink.pruning.cutting import cut
from fastlab.shrink.pruning.importance import Scope, best, choose, scores, squares
from fastlab.shrink.pruning.module_map import map_of
from fastlab.shrink.pruning.probes import (
    Site,
    block_influence,
    check_ids,
    losses_without,
    mean_squares,
)
from fastlab.shrink.pruning.slicing import prune
from fastlab.spec.pruning import Pruning
from fastlab.spec.shape import ModelShape
from tests.small import DECODERS, FAMILIES, small, token_rows


def found(model: Any, importance: str, axis: str) -> dict[int, torch.Tensor]:
    shape, slots = ModelShape.from_config(model.config), map_of(model, [axis])
    scope = Scope(model, slots, tuple(range(shape.layers)))
    names = {slot.axis for slot in slots}
    pruning = Pruning(**{axis: 0.5}, importance=importance)
    return scores(scope, pruning, names.pop(), IDS)


IDS = token_rows(10, 9)  # more rows than one batch


def reader(model: Any, layer: int, name: str) -> Any:
    return stack_of(model)[layer].get_submodule(name)


def test_squares_of_weights_of_one_to_three_dimensions() -> None:
    """[[1, 2], [3, 4]], a bias, and two matrices as experts keep them."""
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert squares(weight, 0).tolist() == [1 + 4, 9 + 16]
    assert squares(weight, 1).tolist() == [1 + 9, 4 + 16]
    assert squares(weight[1], 0).tolist() == [9, 16]
    experts = torch.stack([weight, 2 * weight])
    assert squares(experts, 0).tolist() == [30, 4 * 30]
    assert squares(experts, 2).tolist() == [5 * 10, 5 * 20]


def test_magnitude_is_the_product_of_the_norms() -> None:
    model = small("llama")
    mlp, attention = model.model.layers[1].mlp, model.model.layers[1].self_attn
    made = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1)
    expected = made * mlp.down_proj.weight.norm(dim=0)
    assert_close(found(model, "magnitude", "ffn")[1], expected)
    values = attention.v_proj.weight.view(3, 8, 48).flatten(1).norm(dim=1)
    reads = attention.o_proj.weight.t().reshape(3, 16 * 48).norm(dim=1)
    assert_close(found(model, "magnitude", "heads")[1], values * reads)


def test_activation_is_what_a_channel_adds() -> None:
    """The root mean square, over tokens, of the sum of squares that it writes."""
    model = small("gpt2")
    seen: list[torch.Tensor] = []
    module = model.transformer.h[2].mlp.c_proj
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(IDS)
    hook.remove()
    channel = seen[0][..., 7:8] * module.weight[7]
    expected = channel.square().sum(-1).mean().sqrt()
    assert_close(found(model, "activation", "ffn")[2][7], expected)


@pytest.mark.parametrize(("axis", "unit"), [("ffn", 5), ("heads", 1)])
@pytest.mark.parametrize("family", DECODERS)
def test_taylor_is_the_derivative_by_the_size_of_a_unit(
    family: str, axis: str, unit: int
) -> None:
    """Central differences: what reads a unit made 1 % larger and 1 % smaller."""
    model = small(family).double()
    shape = ModelShape.from_config(model.config)
    names = {"ffn": "mlp.down_proj", "heads": "self_attn.o_proj"}
    gpt2 = {"ffn": "mlp.c_proj", "heads": "attn.c_proj"}
    module = reader(model, 1, (gpt2 if family == "gpt2" else names)[axis])
    weight = parts.dense_weight(module)
    units = shape.kv_heads if axis == "heads" else shape.ffn
    unit_view = weight.unflatten(1, (units, -1))[:, unit]
    dense = unit_view.clone()
    losses = []
    for size in (1.01, 0.99):
        unit_view.copy_(dense * size)
        losses.append(row_losses(model))
    unit_view.copy_(dense)
    slopes = (losses[0] - losses[1]) / 0.02
    got = found(model, "taylor", axis)[1][unit]
    assert_close(got, slopes.abs().mean().float(), rtol=2e-3, atol=1e-6)


@torch.no_grad()
def row_losses(model: Any) -> torch.Tensor:
    logits = model(IDS).logits[:, :-1].transpose(1, 2)
    loss = torch.nn.functional.cross_entropy(logits, IDS[:, 1:], reduction="none")
    return loss.mean(1)


def test_taylor_of_hidden_units_is_by_all_norms_together() -> None:
    model = small("llama").double()
    norms = [m for n, m in model.named_modules() if n.endswith("norm")]
    assert len(norms) == 7
    losses = []
    for size in (1.001, 0.999 / 1.001):
        for norm in norms:
            norm.weight[11] *= size
        losses.append(row_losses(model))
    for norm in norms:
        norm.weight[11] /= 0.999
    slope = ((losses[0] - losses[1]) / 0.002).abs().mean()
    got = found(model, "taylor", "hidden")[-1][11]
    assert_close(got, slope.float(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_block_influence_by_transformers_own_hidden_states(family: str) -> None:
    model = small(family)
    states = model(IDS, output_hidden_states=True).hidden_states
    cosine = torch.cosine_similarity(states[0], states[1], dim=-1).mean()
    got = block_influence(model, IDS)
    assert float(got[0]) == pytest.approx(1 - float(cosine), abs=1e-5)
    assert got.shape == (3,)


@pytest.mark.parametrize("family", DECODERS)
def test_the_loss_without_a_layer_is_the_pruned_models(family: str) -> None:
    model = small(family)
    got = losses_without(model, IDS)
    kept = choose(model, Pruning(layers=1 / 3))
    assert kept.layers == (0, 2)
    cut(model, kept)
    expected = block_nats(model, IDS).mean() / 8
    assert float(got[1]) == pytest.approx(expected, rel=1e-5)
    by_loss = choose(small(family), Pruning(layers=1 / 3, layer_choice="loss"), IDS)
    assert by_loss.layers == tuple(sorted(got.topk(2).indices.tolist()))


def test_probes_leave_no_trace() -> None:
    model = small("gpt2").train()
    site = Site((model.transformer.h[0].mlp,), True, 48)
    first = mean_squares(model, [site], IDS)
    assert torch.equal(first[0], mean_squares(model, [site], IDS)[0])  # no dropout
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_equal_scores_leave_the_first_units() -> None:
    assert best(torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0]), 2, "").tolist() == [1, 2]
    with pytest.raises(ValueError, match="not finite"):
        best(torch.tensor([1.0, torch.nan]), 1, "")


def test_one_row_of_ids_is_enough() -> None:
    model = small("llama")
    assert check_ids(model, IDS[0]).shape == (1, 9)
    prune(model, Pruning(ffn=0.5, importance="activation"), IDS[0].int())

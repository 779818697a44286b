"""Layers that use the same weights: what runs, what is counted, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

import fastlab as fl
from fastlab.cost.memory import decode_bytes, distinct_parameters, weight_bytes
from fastlab.cost.operations import operations
from fastlab.models import stack_of
from fastlab.shrink import parts
from fastlab.shrink.recipes import build
from fastlab.shrink.share import distinct_layers, share_layers
from fastlab.spec import point_of
from tests.small import DECODERS, FAMILIES, logits_of, small

SIZES: dict[str, Any] = {"layers": 4, "prompt_len": 5}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_whose_layers_are_copies(family: str) -> None:
    """0 0 2 2: each gives its weights to the next."""
    model = small(family, 4)
    copied = copy.deepcopy(model)
    stack = stack_of(copied)
    for first in (0, 2):
        stack[first + 1].load_state_dict(stack[first].state_dict())
    share_layers(model, 2)
    assert distinct_layers(model) == 2 and distinct_layers(copied) == 0
    assert torch.equal(logits_of(model), logits_of(copied))
    every, own = sum(w.numel() for w in copied.parameters()), model.parameters()
    layer = sum(w.numel() for w in stack[0].parameters())
    assert sum(w.numel() for w in own) == every - 2 * layer


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("precision", ["bf16", "int8", "int4-g32"])
def test_bytes_and_parameters_are_those_of_the_layers_that_differ(
    family: str, precision: str
) -> None:
    made = SIZES | {"hidden": 64, "vocab": 97, "precision": precision, "scope": "all"}
    made["scope"] = "layers" if precision == "bf16" else "all"
    point = point_of(family=family, distinct_layers=2, phase="decode", **made)
    two = point_of(family=family, **made | {"layers": 2, "phase": "decode"})
    four = replace(point, recipe=two.recipe)
    model = build(point)
    assert weight_bytes(point) == weight_bytes(two) == parts.stored_weight_bytes(model)
    assert distinct_parameters(point) == parts.logical_parameters(model)
    assert operations(point) == operations(four)  # the same work
    read = decode_bytes(point, weight_bytes(point))  # each as often as it is used
    assert read == decode_bytes(four, weight_bytes(four))


def test_the_decoder_keeps_a_place_for_each_use() -> None:
    model = share_layers(small("llama", 4), 1)
    ids = torch.arange(6)[None]
    decoder = fl.Decoder(model, max_len=16, runtime="eager")
    decoder.prefill(ids[:, :5])
    with torch.inference_mode():
        expected = model(ids).logits[:, -1:]
    found = decoder.forward(ids[:, 5:], 5, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_all_uses_meet() -> None:
    model = share_layers(small("gpt2", 2), 1).requires_grad_(True)
    model(torch.arange(6)[None]).logits.sum().backward()
    first, second = stack_of(model)
    assert first.mlp.c_fc.weight is second.mlp.c_fc.weight
    assert first.mlp.c_fc.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"distinct_layers": 3}, "distinct_layers=3 must divide the 4 layers"),
        ({"distinct_layers": -1}, "distinct_layers=-1"),
        (
            {"distinct_layers": 4, "prune_layers": 0.5},
            "distinct_layers=4 must divide the 2 layers",
        ),
    ],
)
def test_what_does_not_fit_is_refused(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point_of(family="llama", hidden=64, **SIZES | made)


def test_layers_of_several_sizes_are_left_alone() -> None:
    model = small("llama", 2)
    stack_of(model)[1].mlp.up_proj = torch.nn.Linear(48, 8, bias=False)
    before = model.state_dict()
    with pytest.raises(ValueError, match="distinct_layers=1: layers differ"):
        share_layers(model, 1)
    assert model.state_dict().keys() == before.keys()

"""Zeros among weights: how many and which, and the ways of storing the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fastlab.shrink import kernels, parts
from fastlab.shrink.sparsify import CsrLinear, csr_parts, sparsify, zero_out, zeros_of
from fastlab.spec.storage import Sparsity, sparse_bytes, zeros_per_row
from tests.small import FAMILIES, logits_of, normal, small, token_rows

IDS = token_rows()


@settings(max_examples=30)
@given(
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from(["2:4", "1:4", "4:8", "3:8"]),
    st.integers(0, 99),
)
def test_every_group_loses_exactly_its_number(
    n: int, groups: int, pattern: str, seed: int
) -> None:
    made = Sparsity(pattern=pattern)
    keep, of = made.group
    weight = normal(n, groups * of, seed=seed)
    zeros = zeros_of(weight, made).unflatten(1, (-1, of))
    assert zeros.sum(-1).unique().tolist() == [of - keep]
    sizes = weight.abs().unflatten(1, (-1, of))
    lost = torch.where(zeros, sizes, 0).amax(-1)
    left = torch.where(zeros, torch.inf, sizes).amin(-1)
    assert bool((lost <= left).all())


def test_a_group_by_hand() -> None:
    weight = torch.tensor([[1.0, -4.0, 2.0, -3.0, 0.0, 0.0, 5.0, 0.0]])
    zero_out(weight, Sparsity(pattern="2:4"))
    assert weight.tolist() == [[0, -4, 0, -3, 0, 0, 5, 0]]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_every_row_loses_exactly_its_share(ratio: float) -> None:
    made = Sparsity(ratio)
    zeros = zeros_of(normal(7, 40), made)
    assert zeros.sum(1).unique().tolist() == [zeros_per_row(made, 40)]


def test_wanda_by_hand() -> None:
    """|W| times the norms: 3 x 1, 2 x 4, 1 x 2 and 4 x 0.1."""
    weight, norms = torch.tensor([[3.0, -2, 1, 4]]), torch.tensor([1, 4, 2, 0.1])
    zeros = zeros_of(weight, Sparsity(pattern="2:4"), norms)
    assert zeros.tolist() == [[False, False, True, True]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(33, 24)
    whole = zeros_of(weight, Sparsity(0.5))
    monkeypatch.setattr(kernels, "BLOCK", 24 * 4)
    zero_out(weight, Sparsity(0.5))
    assert torch.equal(weight == 0, whole)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_model_keeps_its_modules(family: str, method: str) -> None:
    model = small(family)
    head = parts.name_of(model, model.get_output_embeddings())
    head_zeros = int((model.get_submodule(head).weight == 0).sum())
    kinds = [type(module) for module in model.modules()]
    sparsify(model, Sparsity(pattern="2:4", method=method), IDS)
    assert [type(module) for module in model.modules()] == kinds
    weights = [
        parts.dense_weight(model.get_submodule(name))
        for name in parts.linear_names(model, "layers")
    ]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros / sum(weight.numel() for weight in weights) == 0.5
    assert int((model.get_submodule(head).weight == 0).sum()) == head_zeros


def test_wanda_measures_the_inputs_of_each_linear() -> None:
    """The weights that go are those of |W| x the root mean square of their input."""
    model, seen = small("gpt2"), []
    module = model.transformer.h[1].mlp.c_fc
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(IDS)
    hook.remove()
    norms = seen[0].flatten(0, 1).norm(dim=0)
    expected = zeros_of(parts.dense_weight(module), Sparsity(0.5), norms)
    sparsify(model, Sparsity(0.5, method="wanda"), IDS)
    assert torch.equal(parts.dense_weight(module) == 0, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_csr_equals_masked_dense(family: str) -> None:
    masked, stored = small(family), small(family)
    sparsify(masked, Sparsity(0.7))
    sparsify(stored, Sparsity(0.7, storage="csr"))
    assert any(isinstance(m, CsrLinear) for m in stored.modules())
    assert_close(logits_of(stored), logits_of(masked), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_csr_linear(rows: int, dtype: torch.dtype) -> None:
    weight = normal(20, 30).to(dtype)
    made = Sparsity(0.8, storage="csr")
    zero_out(weight, made)
    bias = normal(1, 20)[0].to(dtype)
    module = CsrLinear(made, weight.shape, bias, **csr_parts(weight))
    x = normal(rows, 30, seed=1).to(dtype)
    exact = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    got = module(x.view(1, rows, 30))
    assert got.dtype == dtype and got.shape == (1, rows, 20)
    assert_close(got[0].float(), exact, atol=0.05, rtol=0.02)
    assert torch.equal(module.dense(), weight.float())
    assert module.weight_bytes() == sparse_bytes(made, 20, 30)


def test_what_cannot_be_is_refused_before_anything_changes() -> None:
    model: Any = small("llama", ffn=42)
    before = logits_of(model)
    for made, ids, words in (
        (Sparsity(method="wanda"), None, "method='wanda' needs ids"),
        (Sparsity(pattern="2:4"), None, "groups of 4 do not divide 42 inputs"),
        (Sparsity(pattern="2:4", storage="2:4"), None, "weights are on cpu"),
        (Sparsity(method="wanda"), IDS + 97, "must be from 0 to 96"),
    ):
        with pytest.raises(ValueError, match=words):
            sparsify(model, made, ids)
    assert torch.equal(logits_of(model), before)
    sparsify(model, Sparsity(storage="csr"))
    with pytest.raises(ValueError, match="no dense linears"):
        sparsify(model, Sparsity())

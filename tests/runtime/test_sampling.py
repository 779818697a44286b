"""Draws follow the softmax, the same seed gives the same ones."""

from __future__ import annotations

import pytest
import torch

from fastlab.runtime import sampling
from fastlab.runtime.sampling import GREEDY, Sampling, pick, uniform


def at(position: int) -> torch.Tensor:
    return torch.tensor(position)


def test_greedy_is_the_largest() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    assert pick(logits, GREEDY, at(5)).tolist() == [[1], [0]]


def test_noise_is_uniform_and_fresh_at_each_position() -> None:
    size = torch.Size((4, 20_000))
    first, again, later = (uniform(size, 7, at(n)) for n in (3, 3, 4))
    assert torch.equal(first, again)
    assert first.min() > 0 and first.max() < 1
    counts = torch.histc(first, 20, 0, 1)
    # 80,000 draws in 20 bins of 4,000: six standard deviations are 6 x 62.
    assert (counts - 4000).abs().max() < 6 * 62
    pairs = torch.stack([first.flatten(), later.flatten()])
    assert torch.corrcoef(pairs)[0, 1].abs() < 0.02
    assert torch.corrcoef(first)[0, 1:].abs().max() < 0.05  # nor between sequences


def test_noise_is_never_0_or_1_for_any_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of a token is -log(-log u): at 0 or 1 it would be infinite."""
    ends = torch.tensor([0, 1, 2**9, 2**31, 2**32 - 2**9, 2**32 - 2, 2**32 - 1])
    monkeypatch.setattr(sampling, "_mixed", lambda x: ends.expand(2, -1))
    u = uniform(torch.Size((2, len(ends))), 0, at(0))
    assert 0 < u.min() < 1e-6 and 1 - 1e-6 < u.max() < 1
    assert (-(-u.log()).log()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1e-45, 1e-3, 1.0, 100.0])
def test_top_k_of_one_is_greedy(dtype: torch.dtype, temperature: float) -> None:
    """With ties in 16 bit, too, the first of which greedy takes."""
    logits = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0)).to(dtype)
    for seed in range(20):
        one = Sampling(temperature, top_k=1, seed=seed)
        assert torch.equal(pick(logits, one, at(seed)), pick(logits, GREEDY, at(0)))


def test_any_temperature_draws_one_of_the_k_likeliest() -> None:
    """1e-45 is greedy where nothing ties; huge logits are no infinite scores."""
    for size in (1e-30, 1.0, 1e30):
        logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]]) * size
        for seed in range(50):
            cold = pick(logits, Sampling(1e-45, top_k=2, seed=seed), at(0))
            warm = pick(logits, Sampling(100.0, top_k=2, seed=seed), at(0))
            assert cold.item() == 0 or size < 1
            assert warm.item() in (0, 2)


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    many = logits.expand(20_000, 4)
    tokens = pick(many, Sampling(temperature=1.5, seed=11), at(9))
    shares = torch.bincount(tokens.flatten(), minlength=4) / 20_000
    expected = (logits / 1.5).softmax(dim=0)
    assert (shares - expected).abs().max() < 0.02


def test_top_k_draws_from_no_others() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(2000, 4)
    tokens = pick(logits, Sampling(temperature=5.0, top_k=2, seed=1), at(0))
    assert set(tokens.flatten().tolist()) == {1, 3}


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"temperature": -1}, "temperature=-1 must be a number from 0"),
        ({"temperature": "hot"}, "temperature='hot' must be"),
        ({"top_k": -1}, "top_k=-1 must be"),
        ({"seed": 1.5}, "seed=1.5 must be"),
        ({"top_k": 5}, "top_k=5 needs a temperature above 0"),
        ({"seed": 3}, "seed=3 needs a temperature above 0"),
    ],
)
def test_bad_settings(over: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**over)

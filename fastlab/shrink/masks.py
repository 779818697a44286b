"""Which weights of a matrix become zero: a score for each, the least of each row go."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlab.spec.sparsity import Sparsity, zeros_per_row

BLOCK = 2**22  # weights ranked at once: bounds the fp32 scores and their order


def zeros_of(weight: Tensor, sparsity: Sparsity, norms: Tensor | None = None) -> Tensor:
    """Which weights (n, k) become zero: bool, exactly `zeros_per_row` in each row.

    Scores are |W|, or |W| times the norm of its input where `norms` (k,) are given
    (Wanda: Sun et al. 2023, arXiv 2306.11695). Of equal scores the first goes.
    """
    zeros = zeros_per_row(sparsity, weight.shape[1])
    _, of = sparsity.group
    parts = weight.split(max(1, BLOCK // weight.shape[1]))
    return torch.cat([_block_zeros(part, norms, zeros, of) for part in parts])


def _block_zeros(weight: Tensor, norms: Tensor | None, zeros: int, of: int) -> Tensor:
    scores = weight.float().abs()
    if norms is not None:
        scores = scores * norms
    groups = scores.unflatten(1, (-1, of or weight.shape[1]))
    least = groups.sort(dim=-1, stable=True).indices[..., : zeros // groups.shape[1]]
    chosen = torch.zeros(groups.shape, dtype=torch.bool, device=weight.device)
    return chosen.scatter_(-1, least, True).flatten(1)


@torch.no_grad()
def zero_out(weight: Tensor, sparsity: Sparsity, norms: Tensor | None = None) -> None:
    """Set `zeros_of` a weight (n, k) to zero, in place, block by block."""
    for part in weight.split(max(1, BLOCK // weight.shape[1])):
        part.masked_fill_(zeros_of(part, sparsity, norms), 0)

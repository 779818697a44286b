"""Which token comes next: greedy, or drawn by temperature and top-k, on the device.

Noise is a hash of (seed, position, sequence, token), so that a draw needs no generator
state: the same seed gives the same tokens eagerly, compiled and in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastlab.spec.checks import check_count

COLDEST = 1e-30  # temperature whose inverse fp32 holds
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampling:
    """temperature 0 = greedy, which heeds nothing else; top_k: 0 = all tokens."""

    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        number = isinstance(self.temperature, int | float)
        if not number or not 0 <= self.temperature <= 100:
            raise ValueError(
                f"temperature={self.temperature!r} must be a number from 0 to 100"
            )
        check_count("top_k", self.top_k, low=0)
        check_count("seed", self.seed, low=0, high=2**31)
        for name, value in (("top_k", self.top_k), ("seed", self.seed)):
            if value and not self.temperature:
                raise ValueError(f"{name}={value} needs a temperature above 0")


GREEDY = Sampling()


def pick(logits: Tensor, sampling: Sampling, position: Tensor) -> Tensor:
    """Next token ids (batch, 1) from logits (batch, vocab) at a position ().

    Drawn by the Gumbel trick: the largest of logit / temperature - log(-log u).
    """
    if sampling.temperature == 0 or sampling.top_k == 1:
        return logits.argmax(dim=-1, keepdim=True)
    wide = logits.float()
    scores = wide - wide.amax(dim=-1, keepdim=True)  # no temperature makes it infinite
    scores = scores / max(sampling.temperature, COLDEST)
    u = uniform(scores.shape, sampling.seed, position)
    drawn = scores - (-u.log()).log()
    if 0 < sampling.top_k < scores.shape[-1]:
        kept = wide.topk(sampling.top_k, dim=-1).indices
        return kept.gather(1, drawn.gather(1, kept).argmax(dim=-1, keepdim=True))
    return drawn.argmax(dim=-1, keepdim=True)


def uniform(shape: torch.Size, seed: int, position: Tensor) -> Tensor:
    """Numbers (batch, vocab) in (0, 1), the same for the same seed and position."""
    start = _mixed(_mixed(torch.full_like(position, seed) + 1) + position)
    batch = torch.arange(shape[0], device=position.device)[:, None]
    token = torch.arange(shape[1], device=position.device)
    mixed = _mixed(_mixed(start + batch * 0x9E3779B1) + token)
    return ((mixed >> 9).float() + 0.5) * 2.0**-23  # exact in fp32: never 0 or 1


def _mixed(x: Tensor) -> Tensor:
    """A 32-bit integer hash (two rounds of xor-shift and multiply), in int64."""
    x = x & _WORD
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def after_eos(
    piece: Tensor, ended: Tensor | None, eos: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """`piece` with all that follows a sequence's first eos replaced by it.

    ended (batch, 1): that eos, -1 where there was none yet.
    """
    ends = torch.tensor(list(eos), device=piece.device)
    if ended is None:
        ended = torch.full_like(piece[:, :1], -1)
    columns = []
    for token in piece.split(1, dim=1):
        token = torch.where(ended >= 0, ended, token)
        ended = torch.where(torch.isin(token, ends), token, ended)
        columns.append(token)
    return torch.cat(columns, dim=1), ended

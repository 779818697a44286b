"""When a generation ends: by count, or by a token that says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def spans(new_tokens: int, unroll: int) -> Iterator[tuple[int, int]]:
    """[0, 1), then up to `unroll` tokens at a time: (1, 1 + k), (1 + k, 1 + 2k), ..."""
    yield 0, 1
    for start in range(1, new_tokens, unroll):
        yield start, min(start + unroll, new_tokens)


def after_eos(
    piece: torch.Tensor, ended: torch.Tensor | None, eos: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
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

"""What `Decoder` makes its steps of: tokens so far, a forward pass, a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from fastlab.runtime.cache import StaticKV
from fastlab.runtime.compiled import one_row, rows_together

Forward = Callable[..., torch.Tensor]
Call = Callable[[], torch.Tensor]


class State:
    """What a step reads and moves: the last token (batch, 1) and all tokens so far.

    tokens (batch, max_len + 2): column p holds the token at position p; what steps
    beyond the end write goes to the last column, which nobody reads.
    """

    def __init__(self, cache: StaticKV, batch: int) -> None:
        place = cache.place
        device = place.position.device
        self.token = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        size = (batch, place.positions + 2)
        self.tokens = torch.zeros(size, dtype=torch.int64, device=device)

    def put(self, token: torch.Tensor, position: torch.Tensor) -> None:
        """Note `token` (batch, 1) as the one after `position` ()."""
        self.token.copy_(token)
        column = (position + 1).clamp(max=self.tokens.shape[1] - 1)
        self.tokens.index_copy_(1, column.view(1), token)


def forward_function(model: nn.Module, cache: StaticKV, one: bool = False) -> Forward:
    """(ids, mask, positions, keep) -> the last `keep` positions' logits.

    one: it is to be compiled, and products of one row may take another way.
    """
    device = cache.place.position.device.type

    def forward(
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor,
        keep: int = 1,
    ) -> torch.Tensor:
        cut_out = device == "cpu" and keep and ids.shape[1] > 1
        together = rows_together(model) if cut_out else nullcontext()
        with one_row(device) if one else together:
            out = model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        logits: torch.Tensor = out.logits
        return logits

    return forward


def captured(step: Call, count: int) -> Call:
    """`count` calls of a step in one CUDA graph; replaying it returns its own logits.

    The step must have run before, and all that it reads and writes must stay where it
    is. Capturing runs it once more.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # so that libraries have their workspaces on a stream of their own
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            logits = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay

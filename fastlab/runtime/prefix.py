"""Prefix reuse: keys and values of prompts that came before, found by their tokens."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from fastlab.spec.checks import check_count


@dataclass
class Hits:
    """What a prefix store was asked for: prompts, those that found a prefix, tokens."""

    prompts: int = 0
    found: int = 0
    tokens: int = 0
    reused: int = 0

    @property
    def rate(self) -> float:
        """Share of all prompt tokens whose keys and values were copied."""
        return self.reused / self.tokens if self.tokens else 0.0


class Prefixes:
    """Prefilled keys and values by prompt, at most `max_bytes`; the oldest go first.

    A prompt takes the longest prefix that it shares with any that is kept, but always
    computes its last token, whose logits it needs. For caches of one model and kind.
    """

    def __init__(self, max_bytes: int = 2**30) -> None:
        check_count("max_bytes", max_bytes)
        self.max_bytes, self.hits = max_bytes, Hits()
        self._kept: OrderedDict[tuple[int, ...], list[Tensor]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(part.nbytes for rows in self._kept.values() for part in rows)

    def __len__(self) -> int:
        return len(self._kept)

    @torch.inference_mode()
    def restore(self, ids: Tensor, cache: Any) -> int:
        """Copy the longest known prefix of prompts ids (1 or more equal ones, n) in.

        Returns its length: positions that need not be computed, 0 if there is none.
        """
        prompt = _tokens(ids)
        best = max(self._kept, key=lambda kept: _shared(kept, prompt), default=())
        if length := self._counted(best, prompt):
            self._kept.move_to_end(best)
            for rows, buffer in zip(self._kept[best], cache.buffers, strict=True):
                buffer[:, :, :length].copy_(rows[:, :, :length])
        return length

    def _counted(self, held: tuple[int, ...], prompt: tuple[int, ...]) -> int:
        """How many tokens of a prompt are held, all but its last at most; noted."""
        length = min(_shared(held, prompt), len(prompt) - 1)
        self.hits.prompts += 1
        self.hits.found += length > 0
        self.hits.tokens += len(prompt)
        self.hits.reused += length
        return length

    @torch.inference_mode()
    def keep(self, ids: Tensor, cache: Any) -> None:
        """Keep the rows of prompts ids (batch, n), which the cache holds now.

        Nothing is kept of a prompt that is larger than max_bytes or begins another.
        """
        prompt = _tokens(ids)
        if any(_shared(kept, prompt) == len(prompt) for kept in self._kept):
            return
        rows = [buffer[:1, :, : len(prompt)].clone() for buffer in cache.buffers]
        if sum(part.nbytes for part in rows) > self.max_bytes:
            return
        for kept in list(self._kept):
            if _shared(kept, prompt) == len(kept):
                del self._kept[kept]  # the new one says all that it said
        self._kept[prompt] = rows
        while self.nbytes > self.max_bytes:
            self._kept.popitem(last=False)


class Held(Prefixes):
    """What one cache holds itself, answers too: nothing is copied or kept apart."""

    def restore(self, ids: Tensor, cache: Any) -> int:
        """How many first tokens of the prompt ids (1, n) the cache begins with."""
        place = cache.place
        held = place.tokens[0, : int(place.position)].tolist()
        return self._counted(tuple(held), _tokens(ids))

    def keep(self, ids: Tensor, cache: Any) -> None:
        """Nothing: the cache is what keeps."""


def _tokens(ids: Tensor) -> tuple[int, ...]:
    if not bool((ids == ids[:1]).all()):
        raise ValueError("prompts of one batch must be equal to share a prefix")
    return tuple(ids[0].tolist())


def _shared(kept: tuple[int, ...], prompt: tuple[int, ...]) -> int:
    """How many leading tokens two prompts share."""
    equal = (a == b for a, b in zip(kept, prompt, strict=False))
    return sum(takewhile(bool, equal))

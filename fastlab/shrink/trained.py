"""Trained weights: where they come from, the text that judges them, their students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fastlab.checkpoints import tokenizer_of
from fastlab.learning.loop import OnRow
from fastlab.learning.text import Corpus, corpus_of
from fastlab.learning.tokens import check_tokenizer, token_ids
from fastlab.spec.configs import read_shape
from fastlab.spec.hub import local_folder, weights_id
from fastlab.spec.point import Point

SEEN_ROWS = 16  # passages of the training text on which importances are measured
CHARACTERS = 12  # of text, for one token: more than any tokenizer needs


@dataclass(frozen=True)
class Trained:
    """A real model: a hub name or a folder, and the text that goes with it.

    text: files, split into what may be learned from and what judges; none = the
    standard library. students: the folder where distilled models are kept; none can be
    made without it. on_row sees each step's {step, loss, ...} while one learns.
    """

    source: str
    text: Sequence[str] = field(default=())
    students: str = ""
    on_row: OnRow | None = field(default=None, compare=False, repr=False)

    @cached_property
    def folder(self) -> Path:
        """Where the files are; OSError where there are none."""
        return local_folder(self.source)

    @cached_property
    def weights(self) -> str:
        """The `weights` of its points: "trained:<sha256>"."""
        return weights_id(self.folder)

    @cached_property
    def _tokenizer(self) -> Any:
        return tokenizer_of(self.folder)

    @property
    def tokenizer(self) -> Any:
        """Its own tokenizer; ValueError where it has none."""
        if self._tokenizer is None:
            raise ValueError(f"{self.source} has no tokenizer, which reads the text")
        return self._tokenizer

    @cached_property
    def corpus(self) -> Corpus:
        """The text in two parts that share nothing."""
        return corpus_of(tuple(self.text))

    def check(self, point: Point) -> None:
        """Raise ValueError unless the point is about these weights."""
        if point.weights != self.weights:
            raise ValueError(
                f"weights={point.weights!r}: {self.source} has {self.weights}"
            )
        if point.shape != (own := read_shape(str(self.folder))):
            raise ValueError(f"shape {point.shape} is not that of {self.source}: {own}")
        if self._tokenizer is not None:
            check_tokenizer(self._tokenizer, own.vocab)

    def seen(self, length: int, rows: int = SEEN_ROWS) -> torch.Tensor:
        """Ids (rows, length) of passages of the training text, evenly spread over it.

        Fewer rows where the text is short; ValueError where it has no row of that
        length.
        """
        text = self.corpus.train
        size = CHARACTERS * length
        count = max(1, min(rows, len(text) // size))
        starts = [n * (len(text) // count) for n in range(count)]
        passages = [token_ids(self.tokenizer, text[at : at + size]) for at in starts]
        whole = [ids[:length] for ids in passages if len(ids) >= length]
        if not whole:
            raise ValueError(
                f"text of {len(passages[0])} tokens is shorter than one row of {length}"
            )
        return torch.stack(whole).long()

"""Trained weights and what became of them, judged on the same held-out blocks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fastlab.checkpoints import without_bars
from fastlab.clock.quality import BLOCK, Questions, logits_of
from fastlab.learning.likelihood import block_nats
from fastlab.learning.tokens import token_ids
from fastlab.record import Quality
from fastlab.shrink.recipes import build
from fastlab.shrink.trained import CHARACTERS, Trained
from fastlab.spec.checks import check_count
from fastlab.spec.hub import read_shape
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe


def built(trained: Trained, recipe: Recipe | None = None) -> nn.Module:
    """The trained model after a recipe; dense fp32 where none is given."""
    shape = read_shape(str(trained.folder))
    point = Point(shape, Workload(prompt_len=1), recipe or Recipe(), trained.weights)
    with without_bars():
        return build(point, trained=trained)


@dataclass(frozen=True)
class Evaluator:
    """Blocks of held-out text, and what the dense fp32 model says to each token.

    logits (length, vocab) of each block.
    """

    questions: Questions
    logits: list[Tensor]

    @classmethod
    def of(cls, trained: Trained, dense: nn.Module, blocks: int = 8) -> Evaluator:
        """At most so many blocks of BLOCK tokens, evenly spread over the text.

        They are shorter where the model or the text has no more; ValueError for a text
        too short for that.
        """
        check_count("blocks", blocks)
        most: int = dense.config.max_position_embeddings  # type: ignore[assignment,union-attr]
        length, text = min(BLOCK, most), trained.corpus.held_out
        if len(text) <= CHARACTERS * length:
            tokens = len(token_ids(trained.tokenizer, text))
            length = max(1, min(length, tokens - 1))
        questions = Questions.of_text(trained, length, blocks)
        return cls(questions, [logits_of(dense, row) for row in questions.ids.split(1)])

    def quality(self, model: nn.Module) -> Quality:
        """What a model lost against the dense one; intervals from 8 blocks on."""
        return self.questions.judge(self.logits, partial(logits_of, model), sha="")

    def bits_per_byte(self, model: nn.Module) -> float:
        """Of the text under a model, in the state of training it may be in."""
        ids, targets, sizes = self._text
        nats = block_nats(model, torch.cat([ids, targets[:, -1:]], 1))
        return float(nats.sum() / math.log(2) / sizes.sum())

    @cached_property
    def dense(self) -> float:
        """Bits per byte of the dense model on these blocks."""
        _, targets, sizes = self._text
        rows = zip(self.logits, targets, strict=True)
        nats = sum(float(F.cross_entropy(*row, reduction="sum")) for row in rows)
        return float(nats / math.log(2) / sizes.sum())

    @property
    def _text(self) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        ids, targets, sizes = self.questions
        assert targets is not None and sizes is not None
        return ids, targets, sizes

    @property
    def words(self) -> str:
        """How much text judges."""
        count, length = self.questions.ids.shape
        return f"{count} held-out blocks of {length} tokens"


def same_text(trained: Trained) -> str:
    """Whether the model's run.json was judged on the text at hand, in words."""
    path = trained.folder / "run.json"
    if not path.exists():
        return "no run.json beside the weights: what they once reached is not known"
    kept = json.loads(path.read_text(encoding="utf-8"))
    sha = kept.get("text", {}).get("held_out_sha256") or kept.get("held_out_sha256")
    reached = kept["held_out"]["bits_per_byte"]
    if sha and sha != trained.corpus.held_out_sha256:
        return (
            "the held-out text is another one here (another Python, or your own text): "
            f"stored figures were judged on theirs ({reached:.3f} bits per byte), "
            "live ones on yours, with the dense model judged anew"
        )
    return f"the held-out text is that of run.json: {reached:.3f} bits per byte in all"

"""A trained model, and what becomes of it, judged on the same held-out blocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fastlab.checkpoints import without_bars
from fastlab.record import Quality
from fastlab.spec.checks import check_count
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fastlab.shrink.trained import Trained

BLOCK = 512  # tokens judged at once


def built(trained: Trained, recipe: Recipe | None = None) -> nn.Module:
    """The trained model after a recipe; dense fp32 where none is given."""
    from fastlab.shrink.recipes import build
    from fastlab.spec.hub import read_shape

    shape = read_shape(str(trained.folder))
    point = Point(shape, Workload(prompt_len=1), recipe or Recipe(), trained.weights)
    with without_bars():
        return build(point, trained=trained)


@dataclass(frozen=True)
class Evaluator:
    """Blocks of held-out text, and what the dense fp32 model says to each token.

    ids, targets (blocks, length); sizes (blocks,): UTF-8 bytes of the targets.
    """

    ids: Tensor
    targets: Tensor
    sizes: NDArray[np.int64]
    logits: tuple[Tensor, ...]

    @classmethod
    def of(cls, trained: Trained, dense: nn.Module, blocks: int = 8) -> Evaluator:
        """At most so many blocks, evenly spread; ValueError for too short a text."""
        check_count("blocks", blocks)
        most: int = dense.config.max_position_embeddings  # type: ignore[assignment,union-attr]
        rows, sizes = trained.judged(_block(trained, most), blocks)
        ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        said = tuple(_logits(dense, row) for row in ids)
        return cls(ids, targets.long(), sizes.sum(1), said)

    def quality(self, model: nn.Module) -> Quality:
        """What a model lost against the dense one; intervals from 8 blocks on."""
        from fastlab.clock.divergence import compare_logits, quality_from

        found = [
            compare_logits(self.logits[n], _logits(model, row), self.targets[n])
            for n, row in enumerate(self.ids)
        ]
        return quality_from(found, self.sizes)

    def bits_per_byte(self, model: nn.Module) -> float:
        """Of the text under a model, in the state of training it may be in."""
        import torch

        from fastlab.learning.likelihood import block_nats

        rows = torch.cat([self.ids, self.targets[:, -1:].to(self.ids.dtype)], 1)
        nats = block_nats(model, rows.long())
        return float(nats.sum() / self.sizes.sum() / 0.6931471805599453)

    @cached_property
    def dense(self) -> float:
        """Bits per byte of the dense model on these blocks."""
        from torch.nn import functional

        nats = sum(
            float(functional.cross_entropy(said, row, reduction="sum"))
            for said, row in zip(self.logits, self.targets, strict=True)
        )
        return float(nats / self.sizes.sum() / 0.6931471805599453)

    @property
    def words(self) -> str:
        """How much text judges."""
        count, length = self.ids.shape
        return f"{count} held-out blocks of {length} tokens"


def _block(trained: Trained, most: int) -> int:
    """Tokens of a block: BLOCK, or fewer where the model or the text has no more."""
    from fastlab.learning.tokens import token_ids
    from fastlab.shrink.trained import CHARACTERS

    text, block = trained.corpus.held_out, min(BLOCK, most)
    if len(text) > CHARACTERS * block:
        return block
    return max(1, min(block, len(token_ids(trained.tokenizer, text)) - 1))


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    import torch

    with torch.inference_mode():
        found: Tensor = model(ids[None].long(), use_cache=False).logits[0].float()
    return found.clone()


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

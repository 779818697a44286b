"""What a model lost: its logits against those of the same weights in dense fp32.

Both see the same token ids: blocks of the held-out text for trained weights, else one
sequence of at most 256, random by the seed of the weights. They do not depend on the
workload, so that one reference serves every row on the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fastlab import machine
from fastlab.calls import prompt_ids
from fastlab.clock.divergence import compare_logits, quality_from
from fastlab.cost.memory import parameters
from fastlab.learning.tokens import block_nats, blocks_and_bytes, token_ids
from fastlab.models import numerics
from fastlab.record import Quality
from fastlab.runtime.cache import StaticKV
from fastlab.shrink.recipes import build
from fastlab.shrink.trained import CHARACTERS, Trained
from fastlab.spec.checks import check_count
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import PLAIN
from fastlab.tracing.caches import cache_name
from fastlab.words import si

POSITIONS = 256
BLOCK, BLOCKS = 512, 64  # of held-out text, at most
KEPT_BYTES = 2**28  # of reference logits
FLOPS = {"cuda": 2e15, "cpu": 2e12}  # what the reference may take
PACKED = ("static-int8", "static-fp8")  # caches that lose something
SPARE = 1.1  # the reference's activations, as a share of its weights


class Questions(NamedTuple):
    """What models are asked: ids (rows, length), and of a text what comes next.

    targets (rows, length): the ids that follow, sizes their bytes in UTF-8; None where
    the ids are no text.
    """

    ids: Tensor
    targets: Tensor | None = None
    sizes: NDArray[np.int64] | None = None

    @classmethod
    def of_text(cls, trained: Trained, length: int, most: int) -> Questions:
        """At most so many blocks of held-out text, evenly spread over it."""
        text = trained.tokenizer, trained.corpus.held_out
        rows, sizes = blocks_and_bytes(*text, length, most)
        return cls(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), sizes)

    @property
    def sha(self) -> str:
        """sha256 of all ids as int64, in hex."""
        sha = hashlib.sha256(self.ids.numpy().tobytes())
        if self.targets is not None:
            sha.update(self.targets[:, -1].contiguous().numpy().tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class Evaluator:
    """What models are asked, and what the dense fp32 model says: logits of each row."""

    questions: Questions
    logits: list[Tensor]  # (length, vocab) each

    @classmethod
    def asked(
        cls, questions: Questions, dense: nn.Module, device: str = "cpu"
    ) -> Evaluator:
        """The dense model's logits are kept on the CPU; the model is not."""
        rows = questions.ids.split(1)
        return cls(questions, [logits_of(dense, row, device).cpu() for row in rows])

    @classmethod
    def of(cls, trained: Trained, dense: nn.Module, blocks: int = 8) -> Evaluator:
        """At most so many blocks of BLOCK tokens, evenly spread over the held-out text.

        They are shorter where the model or the text has no more; ValueError for a text
        too short for that.
        """
        check_count("blocks", blocks)
        most: int = dense.config.max_position_embeddings  # type: ignore[assignment,union-attr]
        length, text = min(BLOCK, most), trained.corpus.held_out
        if len(text) <= CHARACTERS * length:
            tokens = len(token_ids(trained.tokenizer, text))
            length = max(1, min(length, tokens - 1))
        return cls.asked(Questions.of_text(trained, length, blocks), dense)

    def quality(
        self,
        model: nn.Module,
        device: str = "cpu",
        precision: str = "fp32",
        cache: str = "none",
    ) -> Quality:
        """What a model lost against the dense one; intervals from 8 blocks on.

        With a cache in int8 or fp8 only the second half of each row is compared.
        """
        ids, targets, sizes = self.questions
        blocks = []
        for n, wanted in enumerate(self.logits):
            got = logits_of(model, ids[n : n + 1], device, precision, cache)
            last = slice(-len(got), None)
            text = None if targets is None else targets[n][last]
            blocks.append(compare_logits(wanted[last].to(got.device), got, text))
        compared = None if sizes is None else sizes[:, last].sum(1)
        return quality_from(blocks, compared, self.questions.sha)

    def bits_per_byte(self, model: nn.Module) -> float:
        """Of the text under a model, in the state of training it may be in."""
        ids, targets, _ = self.questions
        assert targets is not None
        rows = torch.cat([ids, targets[:, -1:]], 1)
        return self._bits_per_byte(float(block_nats(model, rows).sum()))

    @cached_property
    def dense(self) -> float:
        """Bits per byte of the dense model on these blocks."""
        targets = self.questions.targets
        assert targets is not None
        nats = [
            functional.cross_entropy(logits.double(), text, reduction="sum")
            for logits, text in zip(self.logits, targets, strict=True)
        ]
        return self._bits_per_byte(float(sum(nats)))

    def _bits_per_byte(self, nats: float) -> float:
        assert self.questions.sizes is not None
        return nats / math.log(2) / float(self.questions.sizes.sum())

    @property
    def words(self) -> str:
        """How much text judges."""
        count, length = self.questions.ids.shape
        return f"{count} held-out blocks of {length} tokens"


@dataclass
class Reference:
    """The evaluator of the weights that were asked for last.

    trained: where weights that are not random come from.
    """

    kind: str = "cpu"
    trained: Trained | None = None
    _key: tuple[Any, ...] = field(default=(), repr=False)
    _evaluator: Evaluator | None = field(default=None, repr=False)

    def quality(self, point: Point, model: nn.Module) -> tuple[Quality | None, str]:
        """(quality of the point's model, ""), or (None, why it cannot be had).

        The model runs eager prefills under the point's precision.
        """
        if reason := self.unsupported_reason(point):
            return None, reason
        precision, cache = point.recipe.precision, point.recipe.cache
        return self.evaluator(point).quality(model, self.kind, precision, cache), ""

    def evaluator(self, point: Point) -> Evaluator:
        """Of the point's weights, from one build or load where it is not kept."""
        if self._evaluator is None or self._key != (point.shape, point.weights):
            questions = questions_of(point, self.trained, self.kind)
            dense = Point(point.shape, Workload(prompt_len=1), PLAIN, point.weights)
            model = build(dense, self.kind, self.trained)
            self._evaluator = Evaluator.asked(questions, model, self.kind)
            self._key = (point.shape, point.weights)
        return self._evaluator

    def unsupported_reason(self, point: Point) -> str:
        """Why the reference cannot be had here, "" where it can or is kept."""
        if self._key == (point.shape, point.weights):
            return ""
        if point.seed is None and self.trained is None:
            return f"no source of the fp32 weights {point.weights}"
        need = int(4 * parameters(point.shape) * SPARE)
        room = machine.free_bytes(self.kind)
        if need <= room:
            return ""
        return f"the fp32 reference needs {si(need, 'B')}, {si(room, 'B')} free"


def questions_of(
    point: Point, trained: Trained | None = None, kind: str = "cpu"
) -> Questions:
    """Blocks of held-out text for trained weights, random ids by the seed for others.

    As many blocks as the reference's time and memory allow, at least one.
    """
    length = min(BLOCK, point.shape.max_positions)
    if trained is None or point.seed is not None:
        work = Workload(prompt_len=min(POSITIONS, length))
        plain = replace(point, workload=work, recipe=PLAIN)
        return Questions(prompt_ids(plain, "cpu"))
    by_bytes = KEPT_BYTES // (4 * length * point.shape.vocab)
    by_flops = int(FLOPS[kind] / (2 * parameters(point.shape) * length))
    most = max(1, min(BLOCKS, by_bytes, by_flops))
    return Questions.of_text(trained, length, most)


def logits_of(
    model: nn.Module,
    ids: Tensor,
    device: str = "cpu",
    precision: str = "fp32",
    cache: str = "none",
) -> Tensor:
    """(length, vocab) fp32 logits of one eager prefill of ids (1, length).

    With a cache in int8 or fp8: those of the second half, whose attention reads keys
    and values of the first as the cache keeps them.
    """
    ids = ids.to(device)
    options: dict[str, Any] = {}
    with numerics(precision):
        if cache in PACKED:
            held = StaticKV(model, 1, ids.shape[1], cache)
            options = {cache_name(model): held, "use_cache": True}
            first, ids = ids.tensor_split(2, dim=1)
            model(first, **options)
            held.place.past = first.shape[1]
        elif getattr(model.config, "model_type", "") != "bert":
            options = {"use_cache": False}
        logits: Tensor = model(ids, **options).logits[0]
        return logits.to(torch.float32)


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

"""What a model lost: its logits against those of the same weights in dense fp32.

Both see the same token ids: blocks of the held-out text for trained weights, else one
sequence of at most 256, random by the seed of the weights. They do not depend on the
workload, so that one reference serves every row on the same weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastlab import machine
from fastlab.clock.divergence import Divergence, compare_logits, quality_from
from fastlab.cost.memory import parameters
from fastlab.models import numerics, prompt_ids
from fastlab.record import Quality
from fastlab.runtime.cache import static_cache
from fastlab.shrink.recipes import build
from fastlab.shrink.trained import Trained
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import PLAIN
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

    @property
    def sha(self) -> str:
        """sha256 of all ids as int64, in hex."""
        sha = hashlib.sha256(self.ids.numpy().tobytes())
        if self.targets is not None:
            sha.update(self.targets[:, -1].contiguous().numpy().tobytes())
        return sha.hexdigest()


@dataclass
class Reference:
    """fp32 logits of the weights that were asked for last, kept on the CPU.

    trained: where weights that are not random come from. Only the logits stay; the
    model that gave them is let go.
    """

    kind: str = "cpu"
    trained: Trained | None = None
    _key: tuple[Any, ...] = field(default=(), repr=False)
    _logits: list[Tensor] = field(default_factory=list, repr=False)
    _questions: Questions | None = field(default=None, repr=False)

    def logits(self, point: Point) -> list[Tensor]:
        """(length, vocab) in fp32 of each row, from one build or load where not kept.

        Raises ValueError for trained weights without a source.
        """
        self.questions(point)
        if not self._logits:
            model, questions = self._model(point), self.questions(point)
            rows = [row[None] for row in questions.ids]
            self._logits = [
                logits_of(model, row, self.kind, "fp32").cpu() for row in rows
            ]
        return self._logits

    def questions(self, point: Point) -> Questions:
        """What models on the point's weights are asked."""
        key = point.shape, point.weights
        if self._questions is None or key != self._key:
            self._logits = []
            self._questions = questions_of(point, self.trained, self.kind)
            self._key = key
        return self._questions

    def unsupported_reason(self, point: Point) -> str:
        """Why the reference cannot be had here, "" where it can or is kept."""
        if self._logits and self._key == (point.shape, point.weights):
            return ""
        if point.seed is None and self.trained is None:
            return f"no source of the fp32 weights {point.weights}"
        need = int(4 * parameters(point.shape) * SPARE)
        room = machine.free_bytes(self.kind)
        if need <= room:
            return ""
        return f"the fp32 reference needs {si(need, 'B')}, {si(room, 'B')} free"

    def _model(self, point: Point) -> nn.Module:
        dense = Point(point.shape, Workload(prompt_len=1), PLAIN, point.weights)
        return build(dense, self.kind, self.trained)


def quality_of(
    point: Point,
    model: nn.Module,
    device: str = "cpu",
    reference: Reference | None = None,
) -> tuple[Quality | None, str]:
    """(quality of the point's model, ""), or (None, why it cannot be had).

    The model runs eager prefills under the point's precision. `reference` is kept by
    the caller, so that rows on the same weights build it once.
    """
    reference = reference or Reference(device)
    if reason := reference.unsupported_reason(point):
        return None, reason
    expected, recipe = reference.logits(point), point.recipe
    questions = reference.questions(point)
    found: list[Divergence] = []
    for n, wanted in enumerate(expected):
        row = questions.ids[n : n + 1]
        got = logits_of(model, row, device, recipe.precision, recipe.cache)
        last = slice(-len(got), None)
        text = None if questions.targets is None else questions.targets[n][last]
        found.append(compare_logits(wanted[last].to(got.device), got, text))
    return quality_from(found, _bytes(questions, len(got)), questions.sha), ""


def _bytes(questions: Questions, judged: int) -> NDArray[np.int64] | None:
    """UTF-8 bytes of each row's last `judged` targets."""
    return None if questions.sizes is None else questions.sizes[:, -judged:].sum(1)


def questions_of(
    point: Point, trained: Trained | None = None, kind: str = "cpu"
) -> Questions:
    """Blocks of held-out text for trained weights, random ids by the seed for others.

    As many blocks as the reference's time and memory allow, at least one.
    """
    length = min(BLOCK, point.shape.max_positions)
    if trained is None or point.seed is not None:
        return Questions(_random_ids(point, min(POSITIONS, length)))
    by_bytes = KEPT_BYTES // (4 * length * point.shape.vocab)
    by_flops = int(FLOPS[kind] / (2 * parameters(point.shape) * length))
    rows, sizes = trained.judged(length, max(1, min(BLOCKS, by_bytes, by_flops)))
    return Questions(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), sizes)


def _random_ids(point: Point, length: int) -> Tensor:
    work = Workload(prompt_len=length)
    return prompt_ids(replace(point, workload=work, recipe=PLAIN), "cpu")


@torch.no_grad()
def logits_of(
    model: nn.Module, ids: Tensor, device: str, precision: str, cache: str = "none"
) -> Tensor:
    """(length, vocab) fp32 logits of one eager prefill of ids (1, length).

    With a cache in int8 or fp8: those of the second half, whose attention reads keys
    and values of the first as the cache keeps them.
    """
    ids = ids.to(device)
    options: dict[str, Any] = {}
    with numerics(precision):
        if cache in PACKED:
            held = static_cache(model, 1, ids.shape[1], cache)
            options = {"past_key_values": held, "use_cache": True}
            first, ids = ids.tensor_split(2, dim=1)
            model(first, **options)
            held.place.past = first.shape[1]
        elif getattr(model.config, "model_type", "") != "bert":
            options = {"use_cache": False}
        logits: Tensor = model(ids, **options).logits[0]
        return logits.to(torch.float32)

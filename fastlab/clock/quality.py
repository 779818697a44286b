"""What a model lost: its logits against those of the same weights in dense fp32.

Both see the same token ids: one sequence of at most 256, random by the seed of the
weights for made-up models. They do not depend on the workload, so that one reference
serves every row on the same weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastlab import machine
from fastlab.cost.memory import parameters
from fastlab.models import numerics, prompt_ids
from fastlab.record import Quality
from fastlab.runtime.cache import static_cache
from fastlab.shrink.recipes import build, load
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import PLAIN

POSITIONS = 256
CHUNK = 32  # positions compared at once: few enough for a vocabulary of 152k in fp32
PACKED = ("static-int8", "static-fp8")  # caches that lose something
SPARE = 1.1  # the reference's activations, as a share of its weights


@dataclass
class Reference:
    """fp32 logits of the weights that were asked for last, kept on the CPU.

    source: where trained weights come from (a hub name or a folder). Only the logits
    stay (156 MB at a vocabulary of 152k); the model that gave them is let go.
    """

    kind: str = "cpu"
    source: str = ""
    _key: tuple[Any, ...] = field(default=(), repr=False)
    _logits: Tensor | None = field(default=None, repr=False)

    def logits(self, point: Point) -> Tensor:
        """(positions, vocab) in fp32, from one build or load where not kept.

        Raises ValueError for trained weights without a source.
        """
        key = point.shape, point.weights, self.source
        if self._logits is None or key != self._key:
            self._key, self._logits = (), None
            self._logits = logits_of(self._model(point), point, self.kind, "fp32")
            self._key = key
        return self._logits

    def refusal(self, point: Point) -> str:
        """Why the reference cannot be had here, "" where it can or is kept."""
        if self._logits is not None and self._key == (
            point.shape,
            point.weights,
            self.source,
        ):
            return ""
        if point.seed is None and not self.source:
            return f"no source of the fp32 weights {point.weights}"
        need = int(4 * parameters(point.shape) * SPARE)
        room = machine.free_bytes(self.kind)
        if need <= room:
            return ""
        return (
            f"the fp32 reference needs {need / 2**30:.1f} GiB, "
            f"{room / 2**30:.1f} GiB free"
        )

    def _model(self, point: Point) -> nn.Module:
        if point.seed is None:
            return load(self.source, self.kind)[0]
        dense = Point(point.shape, Workload(prompt_len=1), PLAIN, point.weights)
        return build(dense, self.kind)


def quality_of(
    point: Point,
    model: nn.Module,
    device: str = "cpu",
    reference: Reference | None = None,
) -> tuple[Quality | None, str]:
    """(quality of the point's model, ""), or (None, why it cannot be had).

    The model runs one eager prefill under the point's precision. `reference` is kept by
    the caller, so that rows on the same weights build it once.
    """
    reference = reference or Reference(device)
    reason = reference.refusal(point)
    if reason:
        return None, reason
    expected = reference.logits(point)
    recipe = point.recipe
    got = logits_of(model, point, device, recipe.precision, recipe.cache)
    return compared(expected[-len(got) :], got, text_sha(point)), ""


def token_ids(point: Point, device: str = "cpu") -> Tensor:
    """(1, positions) ids on which quality is asked: random by the weights' seed."""
    length = min(POSITIONS, point.shape.max_positions)
    work = Workload(prompt_len=length)
    return prompt_ids(replace(point, workload=work, recipe=PLAIN), device)


def text_sha(point: Point) -> str:
    """sha256 of the token ids as int64, in hex."""
    return hashlib.sha256(token_ids(point).numpy().tobytes()).hexdigest()


def logits_of(
    model: nn.Module, point: Point, device: str, precision: str, cache: str = "none"
) -> Tensor:
    """(positions, vocab) fp32 logits on the CPU, of one eager prefill of token_ids.

    With a cache in int8 or fp8: those of the second half, whose attention reads keys
    and values of the first as the cache keeps them.
    """
    ids = token_ids(point, device)
    options: dict[str, Any] = {}
    with numerics(precision):
        if cache in PACKED:
            held = static_cache(model, 1, ids.shape[1], cache)
            options = {"past_key_values": held, "use_cache": True}
            first, ids = ids.tensor_split(2, dim=1)
            model(first, **options)
            held.place.past = first.shape[1]
        elif point.shape.family != "bert":
            options = {"use_cache": False}
        logits: Tensor = model(ids, **options).logits[0]
        return logits.to("cpu", torch.float32)


def compared(reference: Tensor, logits: Tensor, sha: str = "") -> Quality:
    """Quality of logits (positions, vocab) against a reference of the same size.

    KL(reference || model) = sum p (log p - log q), in nats, averaged over positions.
    Logits that are not finite have no quality: ValueError.
    """
    if reference.shape != logits.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} must have the size of the reference, "
            f"{tuple(reference.shape)}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the logits have values that are not finite")
    pairs = zip(reference.split(CHUNK), logits.split(CHUNK), strict=True)
    kl, same, largest = zip(*(_compared(p, q) for p, q in pairs), strict=True)
    n = len(reference)
    nats = max(sum(kl) / n, 0.0)  # rounding can leave it just below
    return Quality("dense fp32", sha, nats, sum(same) / n, max(largest))


def _compared(reference: Tensor, logits: Tensor) -> tuple[float, int, float]:
    """Sum of KL in nats, positions with the same argmax, largest difference."""
    # A small KL is a difference of large sums: fp32 leaves nothing of it.
    log_p, log_q = (x.double().log_softmax(-1) for x in (reference, logits))
    kl = (log_p.exp() * (log_p - log_q)).sum()
    same = (reference.argmax(-1) == logits.argmax(-1)).sum()
    return float(kl), int(same), float((reference - logits).abs().max())

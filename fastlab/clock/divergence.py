"""Logits against a reference's: what one block of ids lost, and all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fastlab.learning.tokens import bootstrap_ratio
from fastlab.record import Quality

CHUNK = 2**22  # logits compared at once: 32 MB in fp64
FEWEST = 8  # blocks from which an interval can be drawn


class Divergence(NamedTuple):
    """Of one block: positions, sum of KL, same likeliest token, largest difference.

    nats: the text's own tokens, summed; dense_nats: the same under the reference.
    """

    positions: int
    kl: float
    same: int
    largest: float
    nats: float = 0.0
    dense_nats: float = 0.0


def compare_logits(
    reference: Tensor, logits: Tensor, targets: Tensor | None = None
) -> Divergence:
    """What logits (positions, vocab) lost against a reference of the same size.

    KL(reference || model) = sum p (log p - log q), in nats. targets (positions,): the
    ids that really follow. Logits that are not finite have no quality: ValueError.
    """
    if reference.shape != logits.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} must have the size of the reference, "
            f"{tuple(reference.shape)}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the logits have values that are not finite")
    parts, step = [], max(1, CHUNK // logits.shape[-1])
    for at in range(0, len(logits), step):
        part = slice(at, at + step)
        text = None if targets is None else targets[part].to(logits.device)
        parts.append(_sums(reference[part], logits[part], text))
    kl, same, largest, nats, dense = zip(*parts, strict=True)
    sums = sum(kl), sum(same), max(largest), sum(nats), sum(dense)
    return Divergence(len(logits), *sums)


def _sums(p: Tensor, q: Tensor, text: Tensor | None) -> tuple[float, ...]:
    """All but the count of a Divergence of some positions."""
    # A small KL is a difference of large sums: fp32 leaves nothing of it.
    logs = log_p, log_q = [logits.double().log_softmax(-1) for logits in (p, q)]
    dense, nats = 0.0, 0.0
    if text is not None:
        dense, nats = (float(F.nll_loss(log, text, reduction="sum")) for log in logs)
    same = int((p.argmax(-1) == q.argmax(-1)).sum())
    kl = float((log_p.exp() * (log_p - log_q)).sum())
    return kl, same, float((p - q).abs().max()), nats, dense


def quality_from(
    blocks: Sequence[Divergence], sizes: NDArray[np.int64] | None = None, sha: str = ""
) -> Quality:
    """Quality over all blocks; sizes (blocks,): UTF-8 bytes of their targets.

    Intervals hold 95 %, by a bootstrap over blocks; None where those are too few.
    """
    counts, kl, same, largest, nats, dense = np.array(blocks, dtype=float).T
    whole = {
        "kl_nats": max(float(kl.sum() / counts.sum()), 0.0),  # rounding: just below
        "top1": float(same.sum() / counts.sum()),
        "max_abs": float(largest.max()),
    }
    if len(blocks) >= FEWEST:
        whole["kl_low"], whole["kl_high"] = bootstrap_ratio(kl, counts)
        whole["top1_low"], whole["top1_high"] = bootstrap_ratio(same, counts)
    if sizes is not None:
        bits = nats / math.log(2)
        whole["bits_per_byte"] = float(bits.sum() / sizes.sum())
        whole["dense_bits_per_byte"] = float(dense.sum() / math.log(2) / sizes.sum())
        if len(blocks) >= FEWEST:
            whole["low"], whole["high"] = bootstrap_ratio(bits, sizes)
    return Quality("dense fp32", sha, **whole)

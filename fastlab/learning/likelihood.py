"""How well a model predicts a text: bits per byte, with an interval over its blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fastlab.learning.text import text_sha256
from fastlab.learning.tokens import (
    block_bytes,
    check_tokenizer,
    encode,
    whole_blocks,
)

RESAMPLES = 2000


@dataclass(frozen=True)
class TextLoss:
    """What a text costs under a model: low..high holds bits_per_byte at 95 %.

    The interval is a bootstrap over the blocks: it says how much another text of the
    same kind would move the number, not what another training run would.
    """

    bits_per_byte: float
    low: float
    high: float
    perplexity: float
    tokens: int
    bytes: int
    blocks: int
    block: int
    text_sha256: str


def text_loss(
    model: Any, tokenizer: Any, text: str, block: int = 512, batch: int = 8
) -> TextLoss:
    """Bits per UTF-8 byte and perplexity per token of the text, in blocks of tokens.

    Every token but the first is predicted once, from those before it in its block; what
    is left over at the end is cut. Raises ValueError for a text shorter than one block
    or a tokenizer that does not fit the model.
    """
    check_tokenizer(tokenizer, model.config.vocab_size)
    ids, starts = encode(tokenizer, text)
    rows = whole_blocks(ids, block)
    nats = block_nats(model, rows, batch)
    sizes = block_bytes(np.append(starts, len(text.encode())), len(rows), block)
    low, high = bootstrap_ratio(nats / math.log(2), sizes)
    tokens = len(rows) * block
    return TextLoss(
        bits_per_byte=float(nats.sum() / math.log(2) / sizes.sum()),
        low=low,
        high=high,
        perplexity=math.exp(nats.sum() / tokens),
        tokens=tokens,
        bytes=int(sizes.sum()),
        blocks=len(rows),
        block=block,
        text_sha256=text_sha256(text),
    )


@torch.inference_mode()
def block_nats(
    model: nn.Module, rows: torch.Tensor, batch: int = 8
) -> NDArray[np.float64]:
    """The loss in nats (blocks,) of each row of ids (blocks, block + 1)."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        found = [_nats(model, part.to(device)) for part in rows.split(batch)]
    finally:
        model.train(training)
    return torch.cat(found).double().cpu().numpy()


def _nats(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids[:, :-1], use_cache=False).logits.float()
    losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return losses.sum(1)


def bootstrap_ratio(
    above: NDArray[Any], below: NDArray[Any], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of sum(above) / sum(below) where pairs are drawn anew, together."""
    drawn = np.random.default_rng(seed).integers(
        len(above), size=(RESAMPLES, len(above))
    )
    ratios = above[drawn].sum(1) / below[drawn].sum(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)

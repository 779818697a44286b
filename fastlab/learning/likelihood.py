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
from fastlab.learning.tokens import blocks_and_bytes, check_tokenizer

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
    rows, sizes = blocks_and_bytes(tokenizer, text, block)
    nats = block_nats(model, rows, batch)
    low, high = bootstrap_ratio(nats / math.log(2), sizes.sum(1))
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
    device, training = next(model.parameters()).device, model.training
    nats = []
    model.eval()
    try:
        for part in rows.split(batch):
            ids = part.to(device)
            logits = model(ids[:, :-1], use_cache=False).logits.float().mT
            losses = F.cross_entropy(logits, ids[:, 1:], reduction="none")
            nats.append(losses.sum(1))
    finally:
        model.train(training)
    return torch.cat(nats).double().cpu().numpy()


def bootstrap_ratio(
    above: NDArray[Any], below: NDArray[Any], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of sum(above) / sum(below) where pairs are drawn anew, together."""
    n, generator = len(above), np.random.default_rng(seed)
    drawn = generator.integers(n, size=(RESAMPLES, n))
    ratios = above[drawn].sum(1) / below[drawn].sum(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)

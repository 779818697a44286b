"""Text as token ids with the bytes that each stands for, and what a model makes of it.

How well it predicts a text: bits per byte, with an interval over the text's blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fastlab.learning.text import passages, text_sha256
from fastlab.spec.checks import check_count

END = "<|endoftext|>"  # id 0: padding and end of sequence, for tools that ask for one
BYTES = 256
PIECE_CHARACTERS = 2**18  # long texts are tokenized in pieces of about this length
RESAMPLES = 2000  # of a bootstrap
BARE = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}


def make_tokenizer(text: str, vocab: int = 2048) -> Any:
    """A byte-level BPE tokenizer trained on the text: ids below `vocab`.

    Every text can be written in it and comes back unchanged. Raises ValueError where
    vocab leaves no room for 256 bytes and the end token.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    check_count("vocab", vocab, low=BYTES + 1, high=2**20)
    bpe, options = ByteLevelBPETokenizer(), {"min_frequency": 0, "show_progress": False}
    bpe.train_from_iterator(passages(text), vocab, special_tokens=[END], **options)
    ends = {"eos_token": END, "pad_token": END, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **ends)


def check_tokenizer(tokenizer: Any, vocab: int) -> None:
    """Raise ValueError where a model of that vocabulary cannot read the tokenizer."""
    if len(tokenizer) > vocab:
        raise ValueError(
            f"tokenizer of {len(tokenizer)} tokens does not fit a model with "
            f"vocab={vocab}: it needs as many or more"
        )
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer {type(tokenizer).__name__} must be a fast one: "
            "the others do not say which characters a token stands for"
        )


def token_ids(tokenizer: Any, text: str) -> Tensor:
    """The text as ids (tokens,) int32, without tokens that are not in the text."""
    return encode(tokenizer, text)[0]


def encode(tokenizer: Any, text: str) -> tuple[Tensor, NDArray[np.int64]]:
    """Ids (tokens,) int32, and where each token starts: its byte in the UTF-8 text."""
    ids: list[int] = []
    starts = [np.zeros(0, np.int64)]
    done = 0
    for piece in passages(text, PIECE_CHARACTERS):
        encoding = tokenizer(piece, return_offsets_mapping=True, **BARE)
        ids += encoding["input_ids"]
        offsets = byte_offsets(piece)
        places = [start for start, _ in encoding["offset_mapping"]]
        starts.append(done + offsets[places])
        done += int(offsets[-1])
    return torch.tensor(ids, dtype=torch.int32), np.concatenate(starts)


def byte_offsets(text: str) -> NDArray[np.int64]:
    """The byte in UTF-8 at which each character starts, then the end: (n + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + sum((points >= low).astype(np.int64) for low in (0x80, 0x800, 0x10000))
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def check_length(tokens: int, block: int) -> None:
    """Raise ValueError where a text has no whole block and the token after it."""
    if tokens < block + 1:
        raise ValueError(
            f"text of {tokens} tokens is shorter than one block: "
            f"allowed: {block + 1} or more for block={block}"
        )


class Blocks:
    """A text's ids in shuffled blocks: which ones a step reads depends on nothing else.

    Each epoch has its own order and its own offset of the blocks' edges, both made from
    the seed, so that a run which goes on after a stop reads what it would have read.
    """

    def __init__(self, ids: Tensor, block: int, batch: int, seed: int = 0):
        check_length(len(ids), block)
        self.ids, self.block, self.batch, self.seed = ids, block, batch, seed
        # One block is given up where there are several, so that the edges can move.
        self.count = max(1, (len(ids) - 1) // block - 1)

    def at(self, step: int) -> Tensor:
        """The ids (batch, block + 1) int64 of a step; neighbours overlap by one."""
        rows = []
        room = len(self.ids) - self.count * self.block
        for n in range(step * self.batch, (step + 1) * self.batch):
            epoch, place = divmod(n, self.count)
            order, offset = _shuffled(self.seed * 1_000_003 + epoch, self.count, room)
            start = offset + int(order[place]) * self.block
            rows.append(self.ids[start : start + self.block + 1])
        return torch.stack(rows).long()


@lru_cache(maxsize=2)
def _shuffled(seed: int, count: int, room: int) -> tuple[Tensor, int]:
    """An epoch's order of its blocks, and the offset of their edges."""
    source = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=source)
    return order, int(torch.randint(room, (1,), generator=source))


def blocks_and_bytes(
    tokenizer: Any, text: str, block: int, most: int = 0
) -> tuple[Tensor, NDArray[np.int64]]:
    """A text's ids (blocks, block + 1), and bytes (blocks, block) of what they predict.

    What is left at the end is cut. A block's first id is only read, so that its bytes
    run from its second token to the next block's second one. most: at most so many,
    evenly spread over the text.
    """
    ids, starts = encode(tokenizer, text)
    check_length(len(ids), block)
    rows = ids.unfold(0, block + 1, block).long()
    sizes = np.diff(np.append(starts, len(text.encode())))
    sizes = sizes[1 : len(rows) * block + 1].reshape(-1, block)
    every = -(-len(rows) // (most or len(rows)))
    return rows[::every], sizes[::every]


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
    bits, tokens = nats / math.log(2), len(rows) * block
    return TextLoss(
        float(bits.sum() / sizes.sum()),
        *bootstrap_ratio(bits, sizes.sum(1)),
        perplexity=math.exp(nats.sum() / tokens),
        tokens=tokens,
        bytes=int(sizes.sum()),
        blocks=len(rows),
        block=block,
        text_sha256=text_sha256(text),
    )


@torch.inference_mode()
def block_nats(model: nn.Module, rows: Tensor, batch: int = 8) -> NDArray[np.float64]:
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


def bootstrap_ratio(above: NDArray[Any], below: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of sum(above) / sum(below) where pairs are drawn anew, together."""
    n = len(above)
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    ratios = above[drawn].sum(1) / below[drawn].sum(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)

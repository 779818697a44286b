"""Tokenizers of our own, and text as token ids with the bytes that each stands for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlab.learning.text import passages
from fastlab.spec.checks import check_count

END = "<|endoftext|>"  # id 0: padding and end of sequence, for tools that ask for one
BYTES = 256
PIECE_CHARACTERS = 2**18  # long texts are tokenized in pieces of about this length


def make_tokenizer(text: str, vocab: int = 2048) -> Any:
    """A byte-level BPE tokenizer trained on the text: ids below `vocab`.

    Every text can be written in it and comes back unchanged. Raises ValueError where
    vocab leaves no room for 256 bytes and the end token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    check_count("vocab", vocab, low=BYTES + 1, high=2**20)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(passages(text), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


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


def token_ids(tokenizer: Any, text: str) -> torch.Tensor:
    """The text as ids (tokens,) int32, without tokens that are not in the text."""
    ids, _ = encode(tokenizer, text)
    return ids


def encode(tokenizer: Any, text: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Ids (tokens,) int32, and where each token starts: its byte in the UTF-8 text."""
    ids: list[int] = []
    starts: list[NDArray[np.int64]] = []
    done = 0
    for piece in passages(text, PIECE_CHARACTERS):
        found = tokenizer(
            piece,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        ids += found["input_ids"]
        at = byte_offsets(piece)
        starts.append(done + at[[start for start, _ in found["offset_mapping"]]])
        done += int(at[-1])
    joined = np.concatenate(starts) if starts else np.zeros(0, np.int64)
    return torch.tensor(ids, dtype=torch.int32), joined


def byte_offsets(text: str) -> NDArray[np.int64]:
    """The byte in UTF-8 at which each character starts, then the end: (n + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + sum((points >= low).astype(np.int64) for low in (0x80, 0x800, 0x10000))
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def save_ids(path: Path, ids: torch.Tensor) -> None:
    """Keep ids (tokens,) in a .npy file of int32."""
    np.save(path, ids.numpy().astype(np.int32))


def load_ids(path: Path) -> torch.Tensor:
    """The ids (tokens,) int32 that `save_ids` kept."""
    return torch.from_numpy(np.load(path, allow_pickle=False))


def check_length(name: str, tokens: int, block: int) -> None:
    """Raise ValueError where a text has no whole block and the token after it."""
    if tokens < block + 1:
        raise ValueError(
            f"{name} of {tokens} tokens is shorter than one block: "
            f"allowed: {block + 1} or more for block={block}"
        )


class Blocks:
    """A text's ids in shuffled blocks: which ones a step reads depends on nothing else.

    Each epoch has its own order and its own offset of the blocks' edges, both made from
    the seed, so that a run which goes on after a stop reads what it would have read.
    """

    def __init__(self, ids: torch.Tensor, block: int, batch: int, seed: int = 0):
        check_length("text", len(ids), block)
        self.ids, self.block, self.batch, self.seed = ids, block, batch, seed
        # One block is given up where there are several, so that the edges can move.
        self.count = max(1, (len(ids) - 1) // block - 1)
        self._epoch: tuple[int, torch.Tensor, int] | None = None

    def at(self, step: int) -> torch.Tensor:
        """The ids (batch, block + 1) int64 of a step; neighbours overlap by one."""
        first = step * self.batch
        rows = [self._block(n) for n in range(first, first + self.batch)]
        return torch.stack(rows).long()

    def _block(self, n: int) -> torch.Tensor:
        epoch, place = divmod(n, self.count)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._shuffled(epoch))
        _, order, offset = self._epoch
        start = offset + int(order[place]) * self.block
        return self.ids[start : start + self.block + 1]

    def _shuffled(self, epoch: int) -> tuple[torch.Tensor, int]:
        source = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.count, generator=source)
        room = len(self.ids) - self.count * self.block
        return order, int(torch.randint(room, (1,), generator=source))


def whole_blocks(ids: torch.Tensor, block: int) -> torch.Tensor:
    """The ids in order as (blocks, block + 1) int64; what is left at the end is cut."""
    check_length("text", len(ids), block)
    edges = range(0, len(ids) - 1 - block + 1, block)
    return torch.stack([ids[start : start + block + 1] for start in edges]).long()


def block_bytes(
    starts: Sequence[int] | NDArray[np.int64], blocks: int, block: int
) -> NDArray[np.int64]:
    """Bytes (blocks,) of the tokens that each of `whole_blocks` predicts.

    A block's first id is only read, so that its bytes run from its second token to the
    next block's second one. starts (tokens + 1,): as `encode` gives them, then the end.
    """
    edges = [1 + n * block for n in range(blocks)]
    edges.append(min(edges[-1] + block, len(starts) - 1))
    return np.array([starts[b] - starts[a] for a, b in pairwise(edges)], np.int64)

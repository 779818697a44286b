"""Text as it is made, and how fast it came: TTFT, TPOT, tokens per second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastlab.checkpoints import check_logits, eos_ids, ids_of
from fastlab.runtime.decode import Decoder
from fastlab.runtime.prefix import Prefixes
from fastlab.runtime.sampling import GREEDY, Sampling

UNFINISHED = "\ufffd"  # what a tokenizer makes of half a character


@dataclass(frozen=True)
class Speed:
    """How a generation went. ttft_s: to the first token, from the prompt's ids.

    tpot_s: seconds for each later token. ended: "eos", "stop" (a stop string), "halt"
    (whoever reads it) or "length". compile_s: before the prompt, None where nothing was
    compiled.
    """

    tokens: int
    ttft_s: float
    tpot_s: float | None
    ended: str
    compile_s: float | None

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second, the prompt's prefill included."""
        later = (self.tpot_s or 0.0) * (self.tokens - 1)
        return self.tokens / (self.ttft_s + later)


@dataclass
class Stream:
    """Pieces of text, made as they are asked for; `speed` is there at their end.

    halted: set while they come, the piece that is being made is the last one.
    """

    decoder: Decoder
    tokenizer: Any
    ids: Tensor
    new_tokens: int
    eos: Sequence[int]
    stop: Sequence[str]
    prefixes: Prefixes | None = None
    speed: Speed | None = None
    halted: bool = False

    def __iter__(self) -> Iterator[str]:
        text = Text(self.tokenizer, self.ids[0].tolist(), self.stop)
        start, first_s, ended = time.perf_counter(), 0.0, ""
        asked = self.ids, self.new_tokens, self.eos, self.prefixes
        for chunk in self.decoder.chunks(*asked):
            tokens = chunk[0].tolist()  # waits for the device
            now_s = time.perf_counter() - start
            check_logits(self.decoder.logits)
            first_s = first_s or now_s
            ended = text.add(tokens, self.eos) or "halt" * self.halted
            if piece := text.piece():
                yield piece
            if ended:
                break
        if rest := text.piece(last=True):
            yield rest
        n, compile_s = text.tokens, self.decoder.compile_s
        tpot_s = (now_s - first_s) / (n - 1) if n > 1 else None
        self.speed = Speed(n, first_s, tpot_s, ended or "length", compile_s)


def stream(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    new_tokens: int = 32,
    sampling: Sampling = GREEDY,
    stop: Sequence[str] = (),
    runtime: str = "eager",
    unroll: int = 1,
    cache: str = "static",
) -> Stream:
    """The continuation of a prompt, piece by piece, by a `Decoder` made for it.

    Ends at an eos token of the model or tokenizer, before a stop string, or after
    new_tokens tokens. Raises ValueError for an empty prompt or stop string, or more
    positions than the model has, and while it runs for logits that are not finite.
    """
    if any(not words for words in stop):
        raise ValueError("stop='' must have at least one character")
    ids = ids_of(model, tokenizer, prompt)
    decoder = Decoder(
        model,
        max_len=ids.shape[1] + new_tokens - 1,
        cache=cache,
        runtime=runtime,
        unroll=unroll,
        sampling=sampling,
    )
    ids, eos = ids.to(decoder.place.token.device), eos_ids(model, tokenizer)
    return Stream(decoder, tokenizer, ids, new_tokens, eos, stop)


class Text:
    """Turns tokens into text; holds back half characters and what may be a stop."""

    def __init__(self, tokenizer: Any, prompt: list[int], stop: Sequence[str]) -> None:
        self._tokenizer, self._ids, self._stop = tokenizer, list(prompt), stop
        self._start, self._n = len(self._decoded()), len(prompt)
        self._shown, self._end = self._start, None  # type: tuple[int, int | None]

    @property
    def tokens(self) -> int:
        """New tokens so far."""
        return len(self._ids) - self._n

    def add(self, tokens: list[int], eos: Sequence[int]) -> str:
        """Take new tokens; "eos" or "stop" at the one that ends the text, else ""."""
        for token in tokens:
            self._ids.append(token)
            new = self._decoded()[self._start :] if self._stop else ""
            found = [new.find(words) for words in self._stop if words in new]
            if found:
                self._end = self._start + min(found)
                return "stop"
            if token in eos:
                return "eos"
        return ""

    def piece(self, last: bool = False) -> str:
        """The text that was not given yet and is sure to stay."""
        whole = self._decoded()[: self._end]
        sure = len(whole) if last or self._end is not None else self._sure(whole)
        piece, self._shown = whole[self._shown : sure], max(sure, self._shown)
        return piece

    def _sure(self, whole: str) -> int:
        kept = len(whole.rstrip(UNFINISHED))
        longest = max((len(words) for words in self._stop), default=1)
        for n in range(longest - 1, 0, -1):  # the end may be how a stop begins
            if any(words.startswith(whole[kept - n : kept]) for words in self._stop):
                return kept - n
        return kept

    def _decoded(self) -> str:
        # With the prompt: alone, some tokenizers drop the first space.
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

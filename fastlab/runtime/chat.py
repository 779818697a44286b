"""A conversation on one cache: of each turn only what is new goes through the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fastlab.checkpoints import eos_ids, ids_of
from fastlab.runtime.decode import Decoder
from fastlab.runtime.prefix import Held
from fastlab.runtime.sampling import GREEDY, Sampling
from fastlab.runtime.streaming import Stream
from fastlab.spec.recipe import bucket
from fastlab.words import one_line


class Chat:
    """Answers turn after turn; the oldest turns are forgotten where there is no room.

    A tokenizer's chat template says how turns are written; transformers renders it in
    its sandbox. Without one the model goes on with all the text so far. `stream` is
    that of the last answer, `forgotten` counts turns. ValueError for a broken template.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        runtime: str = "eager",
    ) -> None:
        self.model, self.tokenizer, self.new_tokens = model, tokenizer, new_tokens
        self.how: dict[str, Any] = {"sampling": sampling, "runtime": runtime}
        self.turns: list[dict[str, str]] = []
        self.stream: Stream | None = None
        self.held, self.forgotten = Held(), 0
        self._decoder: Decoder | None = None
        config: Any = model.config
        text = config.get_text_config(decoder=True)
        self.most = getattr(text, "max_position_embeddings", 2**31)
        self._text([{"role": "user", "content": "Hello"}])

    def answer(self, words: str) -> Iterator[str]:
        """The answer piece by piece; ValueError where the words alone have no room."""
        before = "\n" if self.turns and not self._template else ""
        asked = [*self.turns, {"role": "user", "content": before + words}]
        ids, first = self._ids(asked), len(asked)
        while (need := ids.shape[1] + self.new_tokens - 1) > self.most:
            if len(asked) == 1:
                raise ValueError(
                    f"{ids.shape[1]} tokens and {self.new_tokens} new ones are more "
                    f"than the model's {self.most} positions"
                )
            asked = asked[2:]
            ids = self._ids(asked)
        self.forgotten += (first - len(asked)) // 2
        eos, said = eos_ids(self.model, self.tokenizer), list[str]()
        made = self._decoder_of(need), self.tokenizer, ids, self.new_tokens, eos, ()
        self.stream = Stream(*made, self.held)
        try:
            for piece in self.stream:
                said.append(piece)
                yield piece
        finally:
            self.turns = [*asked, {"role": "assistant", "content": "".join(said)}]

    @property
    def _template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _text(self, turns: list[dict[str, str]]) -> str:
        """Turns as the model is to go on with them."""
        if not self._template:
            return "".join(turn["content"] for turn in turns)
        how: Any = {"tokenize": False, "add_generation_prompt": True}
        try:
            return str(self.tokenizer.apply_chat_template(turns, **how))
        except Exception as error:  # whatever a stranger's template raises
            why = one_line(f"{type(error).__name__}: {error}", 300)
            raise ValueError(f"the chat template cannot be rendered: {why}") from error

    def _ids(self, turns: list[dict[str, str]]) -> Tensor:
        """The tokens (1, n) of that; a template has written special ones already."""
        how = {"add_special_tokens": False} if self._template else {}
        return ids_of(self.model, self.tokenizer, self._text(turns), **how)

    def _decoder_of(self, positions: int) -> Decoder:
        """The decoder, made anew where its cache is too short; a cache costs time."""
        if self._decoder is None or self._decoder.max_len < positions:
            most = min(bucket(positions), self.most)
            self._decoder = Decoder(self.model, max_len=most, **self.how)
        else:
            self._decoder.compile_s = None  # of an answer before
        return self._decoder

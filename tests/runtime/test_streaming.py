"""Streamed pieces join to what generate() gives; stops, eos, half characters, speed."""

from __future__ import annotations

import pytest
import torch

from fastlab.runtime.streaming import Text, stream
from tests.small import generated, tiny

WORDS = [f"w{n}" for n in range(97)]


class Tokenizer:
    """A word for each token, with a space before all but the first."""

    eos_token_id = None

    def __call__(self, text: str, return_tensors: str = "pt") -> dict:
        ids = [WORDS.index(word) for word in text.split()]
        return {"input_ids": torch.tensor([ids], dtype=torch.int64)}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(WORDS[n] for n in ids)


PROMPT = "w3 w14 w15 w9 w26"


def whole(model: torch.nn.Module, new: int) -> list[int]:
    return generated(model, Tokenizer()(PROMPT)["input_ids"], new)[0].tolist()


@pytest.mark.parametrize("unroll", [1, 4])
def test_pieces_join_to_the_text(unroll: int) -> None:
    model = tiny("llama", layers=2)
    text = stream(model, Tokenizer(), PROMPT, 10, unroll=unroll)
    pieces = list(text)
    expected = "".join(f" {WORDS[n]}" for n in whole(model, 10))
    assert "".join(pieces) == expected
    assert len(pieces) > 10 / (unroll + 1)
    speed = text.speed
    assert (speed.tokens, speed.ended, speed.compile_s) == (10, "length", None)
    assert speed.ttft_s > 0 and speed.tpot_s > 0
    assert speed.tokens_per_s == pytest.approx(10 / (speed.ttft_s + 9 * speed.tpot_s))


@pytest.mark.parametrize("unroll", [1, 3])
def test_it_ends_before_a_stop_string(unroll: int) -> None:
    model = tiny("llama", layers=2)
    words = [f" {WORDS[n]}" for n in whole(model, 10)]
    stop = words[4] + words[5]
    text = stream(model, Tokenizer(), PROMPT, 10, stop=[stop], unroll=unroll)
    expected = "".join(words)
    assert "".join(text) == expected[: expected.index(stop)]
    assert text.speed.ended == "stop"


@pytest.mark.parametrize("unroll", [1, 2, 3, 5, 8, 16])
def test_a_stop_and_an_eos_in_one_chunk_end_it_at_the_first(unroll: int) -> None:
    model = tiny("llama", layers=2)
    tokens = whole(model, 12)
    words = [f" {WORDS[n]}" for n in tokens]
    tokenizer = Tokenizer()
    for stop, eos in ((4, 6), (6, 4), (5, 5)):  # places; at one the stop string wins
        tokenizer.eos_token_id = tokens[eos]
        text = stream(model, tokenizer, PROMPT, 12, stop=[words[stop]], unroll=unroll)
        given = "".join(text)
        n = next(n for n in range(12) if tokens[n] == tokens[eos])
        whole_text = "".join(words[: n + 1])
        assert given == whole_text.partition(words[stop])[0]
        assert text.speed.ended == ("stop" if words[stop] in whole_text else "eos")
        assert text.speed.tokens == next(
            n
            for n in range(1, 13)
            if words[stop] in "".join(words[:n]) or tokens[n - 1] == tokens[eos]
        )


def test_it_ends_at_eos() -> None:
    model = tiny("llama", layers=2)
    tokens = whole(model, 10)
    tokenizer = Tokenizer()
    tokenizer.eos_token_id = tokens[5]
    text = stream(model, tokenizer, PROMPT, 10)
    list(text)
    assert text.speed.ended == "eos"
    assert text.speed.tokens == tokens.index(tokens[5]) + 1


def test_one_token_has_no_tpot() -> None:
    text = stream(tiny("gpt2"), Tokenizer(), PROMPT, 1)
    assert len(list(text)) == 1
    assert text.speed.tpot_s is None


class Bytes:
    """UTF-8 bytes as tokens: a character can take several."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode(errors="replace")


def test_half_a_character_waits_for_the_rest() -> None:
    text = Text(Bytes(), list(b"a"), [])
    pieces = []
    for byte in "é€x".encode():
        text.add([byte], [])
        pieces.append(text.piece())
    assert pieces == ["", "é", "", "", "€", "x"]


def test_what_may_begin_a_stop_waits() -> None:
    text = Text(Bytes(), list(b"a"), ["END"])
    pieces = []
    for byte in b"oENoENDx":
        ended = text.add([byte], [])
        pieces.append(text.piece())
        if ended:
            break
    assert pieces == ["o", "", "", "ENo", "", "", ""]
    assert ended == "stop"


@pytest.mark.parametrize(
    ("prompt", "over", "words"),
    [
        ("", {}, "prompt='' must have at least one token"),
        (PROMPT, {"stop": [""]}, "stop='' must have"),
        (PROMPT, {"new_tokens": 100}, "max_len=104 must be .* to 64"),
        (PROMPT, {"runtime": "jit"}, "runtime='jit' is not one of"),
    ],
)
def test_bad_input(prompt: str, over: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stream(tiny("gpt2"), Tokenizer(), prompt, **over)

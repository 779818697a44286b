"""A talk: as if each turn were a prompt of its own, on one cache; Ctrl-C, templates."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from fastlab.cli import main
from fastlab.cli import winner as module
from fastlab.runtime.chat import Chat
from tests.runtime.test_streaming import WORDS, Tokenizer
from tests.small import generated, tiny

STDLIB = "data/checkpoints/stdlib-12x192"


class Templated(Tokenizer):
    """Turns between w1 and w2; the answer begins after w3."""

    chat_template = "here"

    def __call__(
        self, text: str, return_tensors: str, add_special_tokens: bool
    ) -> dict:
        assert not add_special_tokens
        return super().__call__(text)

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        roles = {"user": "w1", "assistant": "w3"}
        said = [f"{roles[turn['role']]} {turn['content']} w2" for turn in turns]
        return " ".join([*said, "w3"])


class Broken(Templated):
    def apply_chat_template(self, *turns, **how):
        raise RuntimeError("roles must\nalternate")


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny("llama", layers=2)


def alone(model, tokens: str, new: int) -> str:
    """What transformers' greedy generation gives for such a prompt."""
    ids = Tokenizer()(tokens)["input_ids"]
    return "".join(f" {WORDS[n]}" for n in generated(model, ids, new)[0].tolist())


def test_each_turn_is_answered_as_its_whole_history_alone(model) -> None:
    talk = Chat(model, Tokenizer(), 5)
    history = "w5 w6 w7"
    for n, words in enumerate(("w5 w6 w7", "w8", "w9 w10")):
        history += f"\n{words}" if n else ""
        expected = alone(model, history, 5)
        assert "".join(talk.answer(words)) == expected
        history += expected
    # Of 3, then 3 + 5 + 1, then 9 + 5 + 2 tokens; the last of 5 was never fed back.
    assert (talk.held.hits.tokens, talk.held.hits.reused) == (3 + 9 + 16, 7 + 13)
    assert talk.stream.speed.tokens == 5 and talk.forgotten == 0


def test_a_talk_that_outgrows_its_cache_gets_a_longer_one(model) -> None:
    talk = Chat(model, Tokenizer(), 3)
    first, long = "".join(talk.answer("w5 w6")), " ".join(["w7", "w8", "w9"] * 50)
    short = talk.stream.decoder
    assert "".join(talk.answer(long)) == alone(model, f"w5 w6{first}\n{long}", 3)
    assert talk.stream.decoder is not short and talk.held.hits.reused == 0
    list(talk.answer("w4"))
    assert talk.held.hits.reused == 2 + 3 + 150 + 2


def test_a_template_says_how_turns_are_written(model) -> None:
    talk = Chat(model, Templated(), 4)
    first = "".join(talk.answer("w9"))
    assert first == alone(model, "w1 w9 w2 w3", 4)
    second = "".join(talk.answer("w8 w7"))
    assert second == alone(model, f"w1 w9 w2 w3{first} w2 w1 w8 w7 w2 w3", 4)
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2


def test_a_broken_template_is_one_line_before_any_answer(model) -> None:
    with pytest.raises(
        ValueError, match="cannot be rendered: RuntimeError: roles must a"
    ):
        Chat(model, Broken(), 4)


def test_the_oldest_turns_are_forgotten_where_there_is_no_room() -> None:
    model = tiny("gpt2", layers=1)  # 64 positions
    talk = Chat(model, Tokenizer(), 20)
    for n in range(4):
        last = "".join(talk.answer(f"w{n} w5 w6"))
    assert talk.forgotten == 2  # 3 turns of 3 + 20 tokens have no room, two have
    assert last == alone(model, "".join(t["content"] for t in talk.turns[:-1]), 20)
    with pytest.raises(ValueError, match="60 tokens and 20 new ones are more than"):
        list(talk.answer("w1 " * 60))
    assert len(talk.turns) == 4


def test_a_stream_that_is_halted_ends_and_is_remembered(model) -> None:
    talk = Chat(model, Tokenizer(), 20)
    pieces = []
    for piece in talk.answer("w5 w6"):
        pieces.append(piece)
        talk.stream.halted = len(pieces) == 3
    assert len(pieces) == 4 and talk.stream.speed.ended == "halt"
    assert talk.turns[-1]["content"] == "".join(pieces)
    assert alone(model, "w5 w6", 20).startswith("".join(pieces))


def chat(*args: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["chat", *args], input=typed)


def test_a_pipe_is_answered_line_by_line() -> None:
    """On the committed checkpoint, with its tokenizer."""
    lines = "def read(path):\n\nclass Store:\n/quit\nnever asked\n"
    done = chat("stdlib-12x192", "--max-new-tokens", "3", typed=lines)
    assert done.exit_code == 0, done.output
    stats = done.stderr.splitlines()
    assert len(stats) == 2 and all("3 tokens, first after" in line for line in stats)
    assert all(word in stats[0] for word in ("(TTFT)", "(TPOT)", "tokens/s"))
    assert stats[0].endswith("; 0 tokens were cached") and "; 0 tok" not in stats[1]
    alone = chat(STDLIB, "--max-new-tokens", "3", "--prompt", "def read(path):")
    assert alone.stdout.rstrip("\n") and done.stdout.startswith(
        alone.stdout.rstrip("\n")
    )
    asked = ["generate", "def read(path):", "--model", STDLIB, "--new-tokens", "3"]
    same = CliRunner().invoke(main, asked).stdout
    assert same == "def read(path):" + alone.stdout


def test_ctrl_c_ends_an_answer_and_not_the_program(
    model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(model, Tokenizer(), 30)
    own, before = talk.answer, signal.getsignal(signal.SIGINT)

    def interrupted(words: str):
        for n, piece in enumerate(own(words)):
            yield piece
            if n == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(talk, "answer", interrupted)
    module._answer(talk, "w5 w6")
    assert signal.getsignal(signal.SIGINT) is before
    assert "(ended by halt)" in capsys.readouterr().err
    monkeypatch.setattr(talk, "answer", own)
    module._answer(talk, "w7")
    assert "30 tokens" in capsys.readouterr().err


def test_no_terminal_obeys_what_a_model_writes(
    model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(model, Tokenizer(), 3)
    monkeypatch.setattr(talk, "answer", lambda words: iter(["a\tb\x1b[2J"]))
    module._answer(talk, "w5")
    assert capsys.readouterr().out == "a\tb\\x1b[2J\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("stdlib-12x19 --prompt a", "did you mean stdlib-12x192?"),
        (f"{STDLIB} --max-new-tokens 0", "max_new_tokens=0 must be"),
        (f"{STDLIB} --runtime jit", "runtime='jit' is not one of eager"),
        (f"{STDLIB} --precision int3", "precision='int3' is not one of"),
        (f"{STDLIB} --temperature -1", "temperature=-1.0 must be a number"),
        (f"{STDLIB} --prompt=", "must have at least one token"),
    ],
)
def test_what_users_get_wrong_is_said_in_a_line(args: str, words: str) -> None:
    done = chat(*args.split())
    assert done.exit_code == 2 and words in done.output


def test_a_model_without_a_tokenizer_cannot_talk(tmp_path: Path) -> None:
    import fastlab as fl
    from fastlab.spec import point_of

    fl.save(fl.build(point_of(model="tiny-llama", precision="int8")), tmp_path)
    done = chat(str(tmp_path), "--prompt", "hi")
    assert (
        done.exit_code == 2
        and "has no tokenizer, which reads the prompt" in done.output
    )


TURN = "{{ m.role }}: {{ m.content }}\n"
TEMPLATE = "{% for m in messages %}" + TURN + "{% endfor %}assistant:"


def test_a_real_tokenizers_template_is_rendered_in_a_sandbox() -> None:
    import fastlab as fl

    model, tokenizer = fl.load(STDLIB)
    tokenizer.chat_template = TEMPLATE
    talk = Chat(model, tokenizer, 3)
    said = "".join(talk.answer("hello"))
    ids = talk.stream.ids[0].tolist()
    assert tokenizer.decode(ids) == "user: hello\nassistant:"
    list(talk.answer("again"))
    whole = f"user: hello\nassistant: {said}\nuser: again\nassistant:"
    assert tokenizer.decode(talk.stream.ids[0].tolist()) == whole
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ValueError, match="cannot be rendered: SecurityError: "):
        Chat(model, tokenizer, 3)

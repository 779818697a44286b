"""fastlab generate --stream, and a name that leads nowhere."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlab.cli import main
from fastlab.cli import run as module
from tests.runtime.test_streaming import PROMPT, Tokenizer, whole
from tests.small import tiny


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny("llama", layers=2), Tokenizer()
    monkeypatch.setattr(module, "load_writer", lambda *names: made)


def test_streamed_text_and_its_speed(loaded: None) -> None:
    args = ["generate", PROMPT, "--model", "here", "--new-tokens", "5", "--stream"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    expected = PROMPT + "".join(f" w{n}" for n in whole(tiny("llama", layers=2), 5))
    assert done.stdout.splitlines()[0] == expected
    assert "5 tokens, first after" in done.stderr
    assert "tokens/s (ended by length)" in done.stderr


def test_sampling_and_stops_reach_the_decoder(loaded: None) -> None:
    args = ["generate", PROMPT, "--model", "here", "--new-tokens", "8"]
    hot = ["--temperature", "2", "--top-k", "50", "--seed", "4"]
    outputs = {
        CliRunner().invoke(main, [*args, *over]).stdout
        for over in (["--stream"], hot, hot, [*hot, "--seed", "5"])
    }
    assert len(outputs) == 3
    bad = CliRunner().invoke(main, [*args, "--temperature", "-1"])
    assert "temperature=-1.0 must be a number" in bad.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--top-k 5", "top_k=5 needs a temperature"),
        ("--seed 3 --stream", "seed=3 needs a temperature"),
        ("--runtime jit", "runtime='jit' is not one of eager, compile"),
        ("--runtime graph --device cpu", "runtime graph needs an NVIDIA GPU"),
        ("--stop a --stop=", "stop='' must have at least one character"),
        ("--temperature nan", "temperature=nan must be a number"),
    ],
)
def test_no_option_is_ignored_and_bad_ones_load_nothing(
    monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    monkeypatch.setattr(module, "load_writer", None)
    done = CliRunner().invoke(
        main, ["generate", "hi", "--model", "here", *options.split()]
    )
    assert done.exit_code == 2 and words in done.output


def test_a_runtime_is_used_without_stream_too(
    loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(module, "_stream", lambda *how: used.append(how[-1]))
    args = ["generate", PROMPT, "--model", "here", "--runtime", "decoder"]
    assert CliRunner().invoke(main, args).exit_code == 0
    assert used == ["decoder"]


def test_a_name_that_leads_nowhere_asks_no_network_and_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There were 49 s of retries before."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"tried or waited: {args}")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(time, "sleep", refuse)
    done = CliRunner().invoke(main, ["generate", "hi", "--model", "nobody/nothing"])
    assert done.exit_code == 2
    assert "model='nobody/nothing' is no folder here" in done.output


def test_a_precision_that_this_device_lacks() -> None:
    args = ["generate", "hi", "--model", "nobody/nothing", "--device", "cpu"]
    done = CliRunner().invoke(main, [*args, "--precision", "fp8"])
    assert "precision='fp8': fp8 needs an NVIDIA GPU" in done.output

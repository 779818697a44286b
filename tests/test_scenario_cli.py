"""fastlab scenario: the list, a verdict, and errors in one line."""

import pytest
from click.testing import CliRunner

import fastlab as fl
from fastlab.cli import main


def scenario(*args: str):
    return CliRunner().invoke(main, ["scenario", *args])


def test_without_a_name_they_are_listed():
    shown = scenario().output
    assert all(name in shown for name in fl.scenarios())
    assert "TTFT 200 ms, TPOT 50.0 ms at p99" in shown


def test_a_verdict_says_met_or_missed_by_how_much_and_the_sources():
    model = "--model", "llama-3.2-1b,llama-3.1-8b", "--precision", "bf16"
    done = scenario("customer-service", *model, "--on", "h100", "--requests", "150")
    assert done.exit_code == 0, done.output
    small, large = done.output.split("\nllama ")[1:]
    assert "met: TTFT" in small and "÷" in small and "attainment 100 %" in small
    assert "missed: TTFT" in large and "of 200 ms" in large and "goodput" in large
    assert "bound by" in large and "load 0." in large
    assert "estimated, not calibrated: by a prior" in large
    assert "targets: guidellm" in large and "floor: assumption" in large


def test_an_encoder_reads_and_a_small_model_has_its_lengths_cut():
    bert = "--family", "bert", "--layers", "2", "--hidden", "128"
    done = scenario("financial-sentiment", *bert, "--on", "t4")
    assert done.exit_code == 0 and "met: all" in done.output, done.output
    done = scenario("customer-service", "--model", "gpt2", "--on", "t4")
    assert "cut to the model's 1024 positions" in done.output


def test_more_than_can_be_served_is_saturated():
    heavy = "--model", "llama-3.1-8b", "--precision", "fp16", "--on", "t4"
    done = scenario("live-translation", *heavy)
    assert "needs" in done.output and done.exit_code == 2
    both = "--model", "llama-3.1-8b,gpt2", *heavy[2:]
    done = scenario("live-translation", *both)
    assert "cannot: llama 32x4096" in done.output and "met: all" in done.output
    done = scenario("customer-service", *heavy[:-1], "l4", "--slots", "4")
    assert "saturated: load" in done.output and done.exit_code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("chat",), "did you mean customer-service"),
        (("assistant", "--slots", "0"), "slots=0 must be a whole number"),
        (("re-ranking", "--model", "gpt2", "--requests", "9"), "requests=9 must be"),
        (("assistant",), "or a --model"),
        (("assistant", "--model", "gpt3"), "did you mean gpt2"),
        (
            ("assistant", "--family", "bert", "--layers", "2", "--hidden", "64"),
            "no text",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(args, words):
    done = scenario(*args, *(() if "--on" in args else ("--on", "h100")))
    assert done.exit_code == 2 and words in done.output, done.output

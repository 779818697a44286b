"""The list of families is whole, its command shows it, its faults stay mended."""

import csv
import json

import pytest
import torch
import transformers
from click.testing import CliRunner

import fastlab as fl
from benchmarks import families
from fastlab.cli import main, models
from fastlab.runtime.decode import Decoder
from fastlab.spec import PRESETS, ModelShape, point_of

FILE = models.DATA / "families.csv"
LINES = list(csv.DictReader(FILE.open(newline="", encoding="utf-8")))


def said(*args: str) -> str:
    done = CliRunner().invoke(main, ["models", *args])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_type_has_been_tried_once() -> None:
    tried = sorted(line["model_type"] for line in LINES)
    assert tried == sorted(families.TYPES.split())
    assert all(all(line.values()) for line in LINES)
    assert {shape.family for shape in PRESETS.values()} <= set(families.TYPES.split())


def test_no_family_fails_without_a_word() -> None:
    """But Mamba's layers, which read their linears' weights by themselves."""
    failing = {x["model_type"] for x in LINES if "fails: " in "".join(x.values())}
    assert failing <= {"mamba", "jamba"}


def test_the_command_lists_presets_and_families() -> None:
    rows = [line.split() for line in said().splitlines()]
    assert {*PRESETS, *families.TYPES.split()} <= {row[0] for row in rows if row}
    assert ["gpt2", "gpt2", "124", "M"] in [row[:4] for row in rows]
    assert ["llama", "decoder", *["yes"] * 5] in rows
    assert ["bert", "encoder", "yes", "yes", "yes", "no", "yes"] in rows


@pytest.mark.parametrize("name", ["bert", "tiny-bert"])
def test_the_command_says_why_not(name: str) -> None:
    assert "decoded      model_type='bert' has no static cache: it is no" in said(name)


@pytest.mark.parametrize(
    ("name", "published"),
    [("mixtral-8x7b", 46_702_792_704), ("xlm-roberta-base", 278_295_186)],
)
def test_parameters_in_the_list_are_counted(name: str, published: int) -> None:
    about = json.loads((models.DATA / "models.json").read_text(encoding="utf-8"))
    assert about[name]["parameters"] == published == fl.parameters(PRESETS[name])
    for other, shape in PRESETS.items():
        known = about[other].get("parameters")
        if known and not shape.config and shape.family == "llama":
            assert known == fl.parameters(shape)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    done = CliRunner().invoke(main, ["models", "mixtrl"])
    assert done.exit_code == 2
    assert done.output.rstrip().endswith("did you mean mixtral?")


def test_a_line_is_what_trying_the_family_gives() -> None:
    (stored,) = (line for line in LINES if line["model_type"] == "mixtral")
    tried = families.family("mixtral")
    assert {n: tried[n] for n in families.TRIED} == {
        n: stored[n] for n in families.TRIED
    }


def test_pythia_is_a_decoder() -> None:
    """Its config says is_decoder=False, which nothing heeds; sizes of pythia-70m."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 2048}
    config = transformers.GPTNeoXConfig(
        **sizes, num_attention_heads=8, vocab_size=50304
    )
    shape = ModelShape.from_config(config)
    assert (shape.kind, fl.parameters(shape)) == ("decoder", 70_426_624)
    model = fl.build(point_of(family="gpt_neox", layers=1, hidden=64, vocab=97))
    ids = torch.arange(9)[None]
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
    )
    found = Decoder(model, 1, 32, runtime="eager").generate(ids, 4)
    assert torch.equal(found, expected[:, 9:])


def test_ids_of_a_type_fit_a_smaller_vocabulary() -> None:
    """ModernBERT pads with 50283, of 50368."""
    model = fl.build(point_of(family="modernbert", layers=1, hidden=64, vocab=97))
    assert model.config.pad_token_id == 96

"""A notebook's parameters: what papermill lets through, these checks do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastlab.notebook import batch
from fastlab.notebook.parameters import check_parameters, notebook_parameters

CELL = '''layers = [2, 4]  # layer counts
hidden = [256]
precisions = ["fp32"]  # formats
budget_s = 0.5  # seconds # each
prompt_len = 128
fused = True
device = None  # a name
family = "llama"'''


def notebook(folder, source=CELL, tags=("parameters",)):
    cell = {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source}
    path = folder / "nb.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    return path


@pytest.fixture
def path(tmp_path):
    return notebook(tmp_path)


def test_defaults_and_help_are_read_from_the_cell(path):
    found = notebook_parameters(path)
    assert {n: p.default for n, p in found.items()} == {
        "layers": [2, 4],
        "hidden": [256],
        "precisions": ["fp32"],
        "budget_s": 0.5,
        "prompt_len": 128,
        "fused": True,
        "device": None,
        "family": "llama",
    }
    assert found["layers"].help == "layer counts"
    assert found["hidden"].help == ""
    assert found["budget_s"].help == "seconds # each"


def test_a_misspelt_name_is_corrected(path):
    with pytest.raises(ValueError, match="'hiden'; did you mean hidden"):
        check_parameters(path, {"hiden": [512]})


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("layers", "2,4", [2, 4]),
        ("layers", "[2, 4]", [2, 4]),
        ("layers", "3", [3]),
        ("layers", 3, [3]),
        ("precisions", "fp32,bf16", ["fp32", "bf16"]),
        ("precisions", "bf16", ["bf16"]),
        ("precisions", "[fp32]", ["fp32"]),
        ("precisions", "[fp32, 'bf16']", ["fp32", "bf16"]),
        ("precisions", "(fp32,bf16)", ["fp32", "bf16"]),
        ("budget_s", "2", 2.0),
        ("budget_s", 2, 2.0),
        ("prompt_len", "64", 64),
        ("fused", "false", False),
        ("device", "none", None),
        ("family", "gpt2", "gpt2"),
        ("family", "7", "7"),
    ],
)
def test_text_is_read_as_the_type_of_the_default(path, name, given, read):
    found = check_parameters(path, {name: given})[name]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("layers", "2,x", "must be a list of whole numbers, like .2, 4. .layer counts"),
        ("layers", [], "must be a list"),
        ("layers", [2.5], "must be a list of whole numbers"),
        ("precisions", [1], "must be a list of text"),
        ("budget_s", "soon", "must be a number, like 0.5"),
        ("prompt_len", 1.5, "must be a whole number"),
        ("prompt_len", True, "must be a whole number"),
        ("fused", 1, "must be true or false"),
        ("family", 3, "must be text"),
        ("layers", "1,024", "must be a list of whole numbers"),
        ("layers", "010", "must be a list of whole numbers"),
        ("layers", "2,-1", "-1 must be 0 or more"),
        ("prompt_len", -1, "-1 must be 0 or more"),
        ("budget_s", float("nan"), "nan must be 0 or more"),
    ],
)
def test_a_wrong_type_is_refused_with_an_example(path, name, given, words):
    with pytest.raises(ValueError, match=f"{name}=.*{words}"):
        check_parameters(path, {name: given})


def test_a_notebook_without_the_cell_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no cell tagged 'parameters'"):
        notebook_parameters(notebook(tmp_path, tags=()))


@pytest.mark.parametrize("line", ["print(1)", "a, b = 1, 2", "x: int"])
def test_lines_that_are_no_literals_are_refused(tmp_path, line):
    with pytest.raises(ValueError, match=r"line 2 .* is not name = literal"):
        notebook_parameters(notebook(tmp_path, f"a = 1\n{line}"))


@pytest.mark.parametrize("text", ["# words", "[1]", "{}", "7"])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match=r"README.md is no notebook \(.ipynb\)"):
        notebook_parameters(tmp_path / "README.md")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("source", "messure", "source='messure' .* did you mean measure?"),
        ("precisions", "bf-16", "precisions='bf-16' .* did you mean bf16?"),
        ("phases", "['decod']", "phases='decod' .* did you mean decode?"),
        ("family", "gtp2", "family='gtp2' .* did you mean gpt2?"),
        ("hidden", "[64, 100000000]", "hidden=100000000 must be a whole number from 2"),
        ("layers", "0", "layers=0 must be a whole number from 1"),
    ],
)
def test_values_are_checked_before_a_kernel_starts(
    tmp_path, monkeypatch, name, given, words
):
    """notebook 05 has all of these parameters."""
    path = Path(__file__).parents[2] / "notebooks" / "05_layers_by_hidden.ipynb"
    monkeypatch.setattr(batch, "_execute", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        batch.run_notebook(path, {name: given})
    assert not list(tmp_path.iterdir())

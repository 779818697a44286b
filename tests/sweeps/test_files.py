"""Sweep files: read whole, or refused naming file, grid and field."""

from pathlib import Path

import pytest

from fastlab.sweeps.files import read_sweep

SWEEPS = Path(__file__).parents[2] / "data" / "sweeps"


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_grids_are_joined_and_doubles_dropped(tmp_path):
    text = """
about: two grids that share a point
settings: {budget_s: 0.5}
grids:
  - {layers: [2, 4], hidden: 64}
  - {layers: [4, 8], hidden: 64}
"""
    read = read_sweep(written(tmp_path, text))
    assert [p.shape.layers for p in read.points] == [2, 4, 8]
    assert read.settings == {"budget_s": 0.5}
    assert read.about == "two grids that share a point"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grids: [{layers: 2, hiden: 64}]", "grid 1: .*'hiden'; did you mean hidden"),
        ("grids: [{layers: 2, hidden: 64}, 3]", "grid 2 must be a mapping"),
        ("grids: [{layers: two, hidden: 64}]", "grid 1: layers='two' must be a whole"),
        ("text: 3\ngrids: [{layers: 1, hidden: 64}]", "text=3 must be a file or a"),
        ("grids: []", "grids must be a list with at least one grid"),
        ("grid: []", "'grid'; did you mean grids"),
        ("- 1", "must be a mapping with about, settings, text, grids"),
        (
            "settings: {budget: 1}\ngrids: [{layers: 1, hidden: 64}]",
            "'budget'; did you mean budget_s",
        ),
        ("grids: [", "expected"),
        ("grids: [{layers: 010, hidden: 64}]", "010 must be in decimal"),
        ("grids: [{layers: 2, hidden: 0x40}]", "0x40 must be in decimal"),
        ("grids: [{layers: 2, hidden: 1:04}]", "1:04 must be in decimal"),
        ("grids: [{model: bert, phase: decode}]", "bert reads both ways"),
        ("grids: [{model: [gpt2, gpt3]}]", "did you mean gpt2"),
        ("grids: [{model: gpt2, precision: [fp32, fp33]}]", "precision='fp33' is"),
        ("grids: [{model: gpt2, logits: last, phase: decode}]", "decides nothing"),
    ],
)
def test_refused_with_file_grid_and_field(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as error:
        read_sweep(path)
    assert str(path) in str(error.value)


def test_an_impossible_row_does_not_refuse_the_others(tmp_path: Path) -> None:
    text = "grids: [{model: [bert, gpt2], phase: [prefill, decode]}]"
    read = read_sweep(written(tmp_path, text))
    kinds = [(p.shape.family, p.workload.phase) for p in read.points]
    assert kinds == [("bert", "prefill"), ("gpt2", "prefill"), ("gpt2", "decode")]
    assert len(read.left_out) == 1 and "bert reads both ways" in read.left_out[0]


def test_one_text_needs_no_list(tmp_path: Path) -> None:
    for text in ("notes.txt", "[notes.txt]"):
        grids = "grids: [{layers: 1, hidden: 64}]"
        read = read_sweep(written(tmp_path, f"text: {text}\n{grids}"))
        assert read.text == ("notes.txt",)


def test_the_committed_sweeps_are_valid():
    sizes = {p.stem: len(read_sweep(p).points) for p in SWEEPS.glob("*.yaml")}
    assert sizes["smoke"] == 13
    assert sizes["reference"] >= 300

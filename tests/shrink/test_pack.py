"""fastlab pack: a folder that loads as what was asked, and says all that it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import fastlab as fl
from fastlab.cli import main
from fastlab.spec import Point, point_of
from tests.report.test_winner import ROWS, timed
from tests.small import logits
from tests.sweeps.made import ENV, fill

STDLIB = "data/checkpoints/stdlib-12x192"
RECIPES: list[dict[str, Any]] = [
    {"precision": "int8"},
    {"precision": "int4-g32", "scope": "head"},
    {"prune_layers": 0.5, "precision": "bf16"},
    {"prune_ffn": 0.5, "prune_heads": 0.5},
    {"sparse_ratio": 0.9, "sparse_storage": "csr"},
    {"share_bits": 3, "precision": "fp16"},
    {"weights": "random:4"},
]


def pack(*args: object) -> Result:
    return CliRunner().invoke(main, ["pack", *map(str, args)])


def flags(fields: dict[str, Any]) -> list[str]:
    pairs = [(f"--{name.replace('_', '-')}", str(v)) for name, v in fields.items()]
    return [word for pair in pairs for word in pair]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_packed_model_is_the_one_that_was_asked_for(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    asked = {"model": "tiny-llama", "prompt_len": 7, "hidden": 128} | recipe
    done = pack(*flags(asked), "--to", tmp_path / "deep" / "m", "--device", "cpu")
    assert done.exit_code == 0, done.output
    point, (model, tokenizer) = point_of(**asked), fl.load(tmp_path / "deep" / "m")
    assert torch.equal(logits(model, point), logits(fl.build(point), point))
    assert tokenizer is None
    held = json.loads((tmp_path / "deep" / "m" / "fastlab.json").read_text())
    assert Point.from_dict(held["point"]) == point
    assert (held["fastlab"], held["rows"]) == (fl.__version__, [])
    there = {p.name for p in (tmp_path / "deep" / "m").iterdir()} - {"fastlab.json"}
    assert held["files"].keys() == there and len(there) >= 2
    for name, sha in held["files"].items():
        data = (tmp_path / "deep" / "m" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha


def test_trained_weights_come_with_their_tokenizer(tmp_path: Path) -> None:
    asked = {"model": STDLIB, "weights": "trained", "precision": "int8"}
    assert pack(*flags(asked), "--to", tmp_path / "m").exit_code == 0
    model, tokenizer = fl.load(tmp_path / "m")
    own, point = fl.load(STDLIB, precision="int8")[0], point_of(model=STDLIB)
    assert torch.equal(logits(model, point), logits(own, point))
    assert tokenizer("def").input_ids == fl.load(STDLIB)[1]("def").input_ids


def test_a_row_of_a_store_and_what_is_known_of_its_model(tmp_path: Path) -> None:
    twice = timed(6, 0.01, precision="int8", phase="decode")
    store = fill(tmp_path / "s", [*ROWS, twice])
    done = pack("--from", store.folder, "--best", "--to", tmp_path / "best")
    assert done.exit_code == 0, done.output
    held = json.loads((tmp_path / "best" / "fastlab.json").read_text())
    assert held["precision"] == "int8"
    assert [row["measured"]["seconds"] for row in held["rows"]] == [0.005, 0.006]
    assert {row["quality"]["kl_nats"] for row in held["rows"]} == {0.01}
    assert all(row["environment"] == ENV for row in held["rows"])
    key = ROWS[3].key
    args = "--from", store.folder, "--key", key[:12], "--to", tmp_path / "keyed"
    assert pack(*args).exit_code == 0
    held = json.loads((tmp_path / "keyed" / "fastlab.json").read_text())
    assert held["precision"] == "int4-g32" and held["rows"][0]["key"] == key
    same = {"model": "tiny-llama", "precision": "int8"}
    args = *flags(same), "--from", store.folder, "--to", tmp_path / "named"
    assert pack(*args).exit_code == 0
    held = json.loads((tmp_path / "named" / "fastlab.json").read_text())
    assert len(held["rows"]) == 2


WRONG = """--model tiny-llama --to {full}: is not empty: name a folder that is
--model tiny-llama --to {file}: is not empty
--model tiny-llama --precision fp32,int8 --to {new}: 2 points, and a folder holds one
--model tiny-lama --to {new}: did you mean tiny-llama?
--best --to {new}: needs --from STORE, and no other recipe
--from {store} --best --key a --to {new}: needs --from STORE, and no other recipe
--from {store} --best --layers 2 --to {new}: needs --from STORE, and no other recipe
--from {store} --key zz --to {new}: key='zz' begins the keys of 0 rows, not 1
--from {store} --key= --to {new}: name a model: --model gpt2
--from {lossy} --best --to {new}: no row of the store is known to lose at most 0.02
--from {trained} --key {key} --to {new}: say where they are, --model
--model tiny-llama --precision fp8 --device cpu --to {new}: fp8 needs an NVIDIA GPU"""


@pytest.mark.parametrize("case", WRONG.splitlines())
def test_what_users_get_wrong_leaves_no_folder(case: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("1")
    (tmp_path / "file").write_text("1")
    fill(tmp_path / "store", ROWS)
    fill(tmp_path / "lossy", ROWS[3:4])
    far = timed(1)
    point = Point(far.point.shape, far.point.workload, weights="trained:0")
    far = type(far)(point, "cpu", {}, "ok", measured=far.measured)
    fill(tmp_path / "trained", [far])
    names = ("full", "file", "store", "lossy", "trained", "new")
    args, _, words = case.partition(": ")
    args = args.format(key=far.key, **{name: tmp_path / name for name in names})
    done = pack(*args.split())
    assert done.exit_code == 2 and words in " ".join(done.output.split())
    assert not (tmp_path / "new").exists()

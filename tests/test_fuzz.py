"""What strangers send: stores, sweep files, notebooks, models, command lines.

Whatever they hold, the command line ends in words: no traceback, nothing that a
terminal would obey. FASTLAB_FUZZ=20 does 20 times as many (`make torture`).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from fastlab.cli import main, points
from fastlab.clock.measure import Bench
from fastlab.latency.devices import Device
from fastlab.sweeps.lines import seal
from fastlab.sweeps.reference import references
from fastlab.sweeps.store import Store

TIMES = int(os.environ.get("FASTLAB_FUZZ", "1"))
LONE = "\udcff"  # half of a surrogate pair
WORDS = [
    *("", " ", "0", "-1", "1e999", "nan", "010", "9" * 400, "1,2", "[1", "x" * 3000),
    *("\x1b[31mred\x1b]0;t\x07", "\u202egpj", "<script>x</script>", '=cmd|"/c"!A0'),
    *("$\\frac{x$", "../../etc/passwd", "/dev/null", "\n\r\t", "é😀", "a/b", "cpu"),
    *("gpt2", "tiny-llama", "fp32", "decode", "trained", "true", "0.5", "16"),
]
USUAL = ["tiny-gpt2", "8", "64", "t4", "0.5", "int8", "decode", "2:4", "trained"]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 0.0, -5e-324, 10**30, 10**400, 1e308, float("nan")),
    *([], {}, [1], ["a"], {"a": 1}, [[[[]]]], {"": None}, LONE, *WORDS),
]


def said(*args: str) -> Result:
    """The command's result; fails where it is a traceback, or raw control codes."""
    done = CliRunner().invoke(main, list(args))
    if not (done.exception is None or isinstance(done.exception, SystemExit)):
        raise AssertionError(args) from done.exception
    text = done.output.replace("\n", "").replace("\r", "")
    assert "\x1b" not in text and "\u202e" not in text, args
    return done


def mutated(chance: random.Random, data: Any, times: int = 1) -> Any:
    """A copy of JSON data in which a few values anywhere are others, or are missing."""
    data = json.loads(json.dumps(data))
    for _ in range(times):
        at = data
        while at:
            key = chance.choice([*(at if isinstance(at, dict) else range(len(at)))])
            if not isinstance(at[key], (dict, list)) or chance.random() < 0.2:
                break
            at = at[key]
        if not at:
            continue
        if chance.random() < 0.15:
            del at[key]
        elif chance.random() < 0.1 and isinstance(at, dict):
            at[chance.choice(WORDS)] = at.pop(key)
        else:
            at[key] = chance.choice(VALUES)
    return data


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, profile: Device) -> None:
    """No device is timed, calibrated, and no model built."""

    def refused(*_: Any, **__: Any) -> None:
        raise ValueError("nothing runs here")

    monkeypatch.setattr(points, "bench_of", refused)
    monkeypatch.setattr(Bench, "for_device", refused)
    for name in ("clock.calibrate.this_device", "clock.fitting.calibrate_fully"):
        monkeypatch.setattr(f"fastlab.{name}", lambda *_, **__: profile)


def rows() -> Iterator[dict[str, Any]]:
    """Lines of real rows, with and without quality."""
    for reference in references():
        for record in reference.records[::50]:
            yield record.to_dict()


def test_rows_of_a_stranger(tmp_path: Path) -> None:
    chance, real, counted = random.Random(1), [*rows()], 0
    for _ in range(8 * TIMES):
        lines = []
        for _ in range(30):
            data = mutated(chance, chance.choice(real), chance.randint(1, 3))
            try:
                lines.append(seal(data))
            except (ValueError, UnicodeEncodeError):
                lines.append(json.dumps(data | {"crc32": 1}))
        text = "\n".join([*lines, seal(real[0])]) + "\n"
        path = tmp_path / "a.jsonl"
        path.write_text(text, errors="surrogatepass")
        (tmp_path / ".index.json").unlink(missing_ok=True)
        assert said("table", str(tmp_path), "--csv", str(tmp_path / "t.csv"))
        assert said("check", str(tmp_path)).exit_code in (0, 1)
        assert said("export", str(tmp_path)).exit_code == 0
        said("score", str(tmp_path))
        counted += len(Store(tmp_path).records())
    assert counted > 8 * TIMES  # some of them were rows all the same


def test_an_index_of_a_stranger(tmp_path: Path) -> None:
    from fastlab.sweeps import lines

    chance = random.Random(2)
    (tmp_path / "a.jsonl").write_text("".join(seal(row) + "\n" for row in rows()))
    honest = Store(tmp_path).records()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "WORTH", 0)
        Store(tmp_path).records()
    index = json.loads((tmp_path / ".index.json").read_text())
    for _ in range(40 * TIMES):
        (tmp_path / ".index.json").write_text(json.dumps(mutated(chance, index, 2)))
        found = Store(tmp_path).records()
        assert all(record in honest for record in found)
        said("check", str(tmp_path))


def test_sweep_files_of_a_stranger(tmp_path: Path) -> None:
    chance, path = random.Random(3), tmp_path / "sweep.yaml"
    small = {"family": ["gpt2", "llama"], "layers": [1, 2], "hidden": 64}
    real = {
        **{"about": "x", "settings": {"budget_s": 0.5}, "text": ["a"]},
        "grids": [small | {"precision": ["fp32"], "prune_layers": 0.5}, small],
    }
    for n in range(120 * TIMES):
        text = yaml.safe_dump(mutated(chance, real, chance.randint(1, 3)))
        if n % 3 == 0:
            place = chance.randrange(len(text))
            text = text[:place] + chance.choice([*"[]{}&*!|>'\"%@`:-#?,\n\t"]) * 30
        path.write_text(text, errors="surrogatepass")
        said("sweep", str(path), "--store", str(tmp_path / "s"), "--dry-run")


def test_notebooks_of_a_stranger(tmp_path: Path) -> None:
    chance, path = random.Random(4), tmp_path / "book.ipynb"
    cell = {
        **{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": []},
        **{
            "execution_count": None,
            "source": ["layers = [1, 2]  # how many\n", "x = 1"],
        },
    }
    for _ in range(60 * TIMES):
        book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        path.write_text(json.dumps(mutated(chance, book, 2)))
        words = chance.choice(["((" * 200, "[1, 2", "{[1]: 2}", "-" * 9999, "1e999"])
        assert said("run", str(path), "-p", "layers", words).exit_code != 0


def test_models_of_a_stranger(tmp_path: Path) -> None:
    chance = random.Random(5)
    config = json.loads(Path("data/checkpoints/stdlib-12x192/config.json").read_text())
    for _ in range(10 * TIMES):
        data = mutated(chance, config, chance.randint(1, 2))
        (tmp_path / "config.json").write_text(json.dumps(data))
        said("predict", "--model", str(tmp_path), "--on", "t4")
        said("generate", "hello", "--model", str(tmp_path))


def lines(chance: random.Random, hostile: list[str]) -> Iterator[list[str]]:
    """Command lines without end: any command, any of its options, any words."""
    slow = ("doctor", "lab", "train", "calibrate")  # what no bad word stops
    commands = [name for name in main.commands if name not in slow]
    while True:
        name = chance.choice(commands)
        words = [name, *["--model", "tiny-llama"] * (name == "predict")]
        parameters = main.commands[name].params
        for parameter in parameters:
            option = isinstance(parameter, click.Option)
            if chance.random() > (1.2 / len(parameters) if option else 0.9):
                continue
            if option:
                words.append(chance.choice(parameter.opts))
            if not (option and parameter.is_flag):
                pool = chance.choice([hostile, WORDS, USUAL])
                words += [chance.choice(pool) for _ in range(parameter.nargs % 9)]
        yield words + [chance.choice(WORDS)] * (chance.random() < 0.1)


def test_command_lines_of_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.jsonl").write_text("\n".join([*map(seal, rows()), ""]))
    for name, text in (("a.json", "[]"), ("a.ipynb", "{}"), ("a.yaml", "grids: [1]")):
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("/nowhere")
    hostile = [
        *["store"] * 5,
        "a.json",
        "a.ipynb",
        "a.yaml",
        "link",
        ".",
        "none",
        "8",
        "64",
    ]
    endless = lines(random.Random(6), hostile)
    for _, words in zip(range(250 * TIMES), endless, strict=False):
        said(*words)

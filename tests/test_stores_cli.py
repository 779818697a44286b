"""fastlab check, export, merge and table, as a user has them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from fastlab.cli import main
from fastlab.sweeps.lines import store_files
from fastlab.sweeps.reference import FOLDER
from fastlab.sweeps.store import Store
from tests.sweeps.made import ENV, fill, row

SMALLER = FOLDER / "xeon-2-threads-smaller"


def fastlab(*args: object) -> Result:
    return CliRunner().invoke(main, [*map(str, args)])


def test_check_counts_and_says_where_a_row_was_lost(tmp_path: Path) -> None:
    store = fill(tmp_path, [1, 2, row(3, "poison"), 2])
    done = fastlab("check", tmp_path)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "4 rows and 1 runs in 1 files",
        "       1 rows that are there once more",
        "       1 points left alone, as workers died of them",
    ]
    (path,) = store_files(tmp_path)
    text = path.read_bytes().replace(b"random:1", b"random:7")
    path.write_bytes(text + b'{"schema":1}\n{"torn')
    with Store(tmp_path / "b").begin(ENV) as begun:
        begun.start(key="k", settings_key="s", device="cpu", round=1)
    shutil.copy(store_files(tmp_path / "b")[0], tmp_path / "zz.jsonl")
    done = fastlab("check", store.folder)
    assert done.exit_code == 1
    assert "2 damaged lines: what they held is lost" in done.stdout
    assert "1 torn tails" in done.stdout
    assert "1 attempts that began and left no row" in done.stdout
    assert f"damaged {path.name} line 2: crc32 does not fit the line" in done.stderr


def test_export_and_table_write_the_same_csv(tmp_path: Path) -> None:
    shutil.copytree(SMALLER, tmp_path / "store")
    done = fastlab("export", tmp_path / "store")
    assert done.exit_code == 0 and done.output.startswith("211 rows: ")
    fastlab("table", tmp_path / "store", "--csv", tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert (tmp_path / "store" / "rows.csv").read_text() == text
    rows = pd.read_csv(tmp_path / "t.csv")
    assert len(rows) == 211 and {*rows["host"]} == {"vm"}


def test_merge_keeps_who_measured(tmp_path: Path) -> None:
    done = fastlab("merge", SMALLER, "--into", tmp_path / "c")
    assert done.exit_code == 0 and done.output.startswith("211 new rows in ")
    assert Store(tmp_path / "c").envs() == Store(SMALLER).envs()
    done = fastlab("merge", SMALLER, "--into", tmp_path / "c")
    assert done.output.startswith("0 new rows in ")


WRONG = """check {empty}: is no store: it has no .jsonl file
export {empty}: is no store
export {store} --to xml: to='xml' is not one of csv, parquet
merge {store} {empty} --into {new}: is no store
merge {store}: Missing option '--into'
merge --into {new}: Missing argument
sweep data/sweeps/smoke.yaml --store {new} --shard 3/2: shard='3/2' must be i/n
sweep data/sweeps/smoke.yaml --store {other}: --mix-hosts"""


@pytest.mark.parametrize("case", WRONG.splitlines())
def test_what_users_get_wrong_is_said_in_words(case: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with Store(tmp_path / "other").begin(ENV | {"host": "elsewhere"}) as other:
        other.append(row(1))
    named = {name: tmp_path / name for name in ("empty", "new", "other")}
    args, _, words = case.format(store=SMALLER, **named).partition(": ")
    done = fastlab(*args.split())
    assert done.exit_code == 2 and words in done.output
    assert not (tmp_path / "new").exists()

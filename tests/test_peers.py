"""benchmarks/peers.py: a tiny run of all that is installed; its table by hand."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.peers import NAMES, absent, table, weights_bytes

ROOT = Path(__file__).parents[1]
SMALL = "--layers 2 --hidden 128 --heads 2 --kv-heads 1 --ffn 256 --vocab 512"
SMALL += " --prompts 16 32 --steps 3 --minutes 0 --memory-mb 16 --threads 1"
HERE = Namespace(llama_bench="", vocab=100, hidden=10, prompts=[16])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tiny_run_of_what_is_here(tmp_path: Path) -> None:
    """Every engine but those that compile for long, and the widest of our own."""
    slow = [f"fastlab {form}" for name, form in NAMES if name == "fastlab"][1:]
    chosen = {f"{name} {form}": (name, form) for name, form in NAMES}
    chosen = {n: who for n, who in chosen.items() if n not in slow and "+" not in n}
    command = [sys.executable, "-m", "benchmarks.peers", *SMALL.split()]
    command += ["--out", str(tmp_path / "out"), "--models", str(tmp_path)]
    run = subprocess.run(
        [*command, "--only", *chosen],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    here = [name for name, who in chosen.items() if not absent(*who, HERE)]
    for name in chosen.keys() - set(here):
        assert f"{name}: " in run.stdout
    about = json.loads((tmp_path / "out/run.json").read_text())
    lines = {line["engine"]: line for line in about["table"]}
    ended = [name for name in here if f"{name} ended" in run.stdout]
    assert {"fastlab bf16", "transformers eager bf16"} <= lines.keys()
    assert lines.keys() == set(here) - set(ended)
    assert {line["n"] for line in lines.values()} == {9}  # 3 rounds of 3 steps
    wide = [line for name, line in lines.items() if "4" not in name.split()[-1]]
    assert all(line["same"] == 1 for line in wide)  # each has its own scales at 4 bits
    dense = lines["fastlab bf16"]
    layer = 128 * (2 * 128 + 2 * 64 + 3 * 256) + 2 * 128
    weights = 2 * (2 * layer + 2 * 512 * 128 + 128)  # bytes; the file has a header
    assert dense["weights MB"] == pytest.approx(weights / 1e6, rel=0.01)
    assert about["environment"]["versions"]["torch"]
    rows = pd.read_csv(tmp_path / "out/rows.csv")
    assert {"read", "copy", "decode_s", "prefill_32_s", "VmRSS"} <= {*rows.figure}


def test_the_table_by_hand() -> None:
    """5,000 bytes less a table of 1,000 int8 values in 2 ms: 2 MB/s, of 4 a half."""
    values = {"decode_s": [0.001, 0.002, 0.003], "prefill_16_s": [0.5], "same": [1, 0]}
    values |= {"VmRSS": [2e9], "VmHWM": [3e9], "start_s": [7.0]}
    rows = [("CTranslate2", "int8", n, v) for n, of in values.items() for v in of]
    rows += [("memory", "", "read", rate) for rate in (1e6, 4e6, 9e6)]
    frame = pd.DataFrame(rows, columns=["engine", "format", "figure", "value"])
    [line] = table(
        frame.assign(group=8), {("CTranslate2", "int8"): 5000}, HERE
    ).to_dict("records")
    assert line == {
        **{"engine": "CTranslate2 int8", "decode ms": 2.0, "IQR ms": 1.0, "n": 3},
        **{"tok/s": 500.0, "prefill 16 ms": 500.0, "weights MB": 0.005, "RSS GB": 2.0},
        **{"peak GB": 3.0, "start s": 7.0, "of read": 0.5, "same": 0.5},
    }


def test_what_is_absent_says_why() -> None:
    assert "there is no precision int3" in absent("fastlab", "int3", HERE)
    assert absent("fastlab", "bf16", HERE) == ""


def test_weights_are_the_files_without_json(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"12345")
    (tmp_path / "config.json").write_text("{}")
    assert weights_bytes(tmp_path) == 5

"""fastlab score on the reference rows, and on rows that cannot or should not score."""

import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlab.cli import main
from fastlab.record import Record
from fastlab.sweeps.reference import FOLDER
from fastlab.sweeps.store import Store

REFERENCE = FOLDER / "xeon-2-threads"
Made = Callable[[list[Record]], Path]
LAST = (
    r"median=\d+\.\d mean=\d+\.\d p90=\d+\.\d bias=-?\d+\.\d n=(\d+) points=397 "
    r'seconds=153 device="Intel\(R\) Xeon\(R\) Processor \(2 threads, cpu\)"'
)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return Store(REFERENCE).records(samples=False)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Puts records into a store, the reference's profile beside them."""

    def make(rows: list[Record]) -> Path:
        with Store(tmp_path).begin({}) as store:
            for row in rows:
                store.append(replace(row, env=""))
        shutil.copy(REFERENCE / "profile.json", tmp_path)
        return tmp_path

    return make


def score(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, args)])


def refused(*args: str | Path) -> str:
    """What is said on one line where nothing can be scored; no traceback."""
    done = score(*args)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.output.split("Error: ")[1]


def rows_scored(done: Result) -> int:
    """n of the last line, whose shape is checked."""
    assert done.exit_code == 0, done.output
    found = re.fullmatch(LAST, done.stdout.splitlines()[-1])
    assert found, done.stdout
    return int(found[1])


def test_the_reference_scores_within_the_target_of_its_issue():
    """A CPU's is 10 % in the median. Recomputed from stored rows: no clock is in it."""
    done = score(REFERENCE)
    assert rows_scored(done) == 418
    last = done.stdout.splitlines()[-1]
    median, p90 = re.search(r"median=([\d.]+) .*p90=([\d.]+)", last).groups()
    assert float(median) <= 10 and float(p90) <= 25
    for words in ("repeat noise", "datasheet roofline", "regime memory", "spearman"):
        assert words in done.stdout
    assert done.stderr == ""


def test_other_fields_can_be_held_out_and_random_rows_flatter():
    """Rows of the same width tell nearly the time of the one left out."""
    medians = []
    for name in ("rows", "hidden", "family", "batch", "seq", "layers"):
        done = score(REFERENCE, "--holdout", name)
        assert rows_scored(done) == 418
        assert f"{name} held out" in done.stdout
        medians.append(float(re.search(r"median=([\d.]+)", done.stdout)[1]))
    assert medians[:4] == sorted(medians[:4])


def test_unknown_names_are_told_what_there_is():
    assert "did you mean hidden" in refused(REFERENCE, "--holdout", "hiden")
    assert "did you mean roofline" in refused(REFERENCE, "--model", "rofline")


def test_rows_that_did_not_run_are_listed(made, records):
    """The first ten of them one by one."""
    oom = {"status": "oom", "reason": "6 GiB too many", "measured": None}
    lost = [replace(r, **oom) for r in records[:25]]
    done = score(made([*lost, *records[25:80]]))
    assert rows_scored(done) == 55
    assert f"skipped {lost[0].point.label}: status oom 6 GiB too many" in done.stderr
    assert done.stderr.count("skipped llama") == 10
    assert "skipped 15 more" in done.stderr


def test_a_time_that_is_nan_is_listed(made, records):
    """Once with a checksum that no longer fits, once with one that does."""
    folder = made(records[:60])
    (file,) = folder.glob("*.jsonl")
    lines = file.read_text().splitlines()
    lines[1], lines[2] = broken(lines[1]), sealed(broken(lines[2]))
    file.write_text("\n".join(lines) + "\n")
    done = score(folder)
    assert rows_scored(done) == 58
    assert len(re.findall("^skipped ", done.stderr, re.MULTILINE)) == 2
    assert f"skipped {file.name} line 2: " in done.stderr


def broken(line: str) -> str:
    """The row with NaN for its measured seconds."""
    found, count = re.subn(r'("measured":\{.*?"seconds":)[\d.e-]+', r"\1NaN", line)
    assert count == 1
    return found


def sealed(line: str) -> str:
    """The line with the checksum of what it holds now."""
    body = re.sub(r',"crc32":\d+', "", line)
    return f'{body[:-1]},"crc32":{zlib.crc32(body.encode())}}}'


def test_a_folder_without_rows_says_so(tmp_path):
    assert "holds no rows" in refused(tmp_path)


def test_rows_of_an_unknown_machine_need_a_profile(made, records):
    folder = made([replace(r, device="box", key="") for r in records[:30]])
    assert "a row of box cannot be scored against" in refused(folder)
    (folder / "profile.json").unlink()
    assert "write it there with `fastlab calibrate --out`" in refused(folder)


@pytest.mark.parametrize("text", ["not json", "[]", json.dumps({"name": "box"})])
def test_a_broken_profile_is_named(made, records, text):
    folder = made(records[:30])
    (folder / "profile.json").write_text(text)
    assert "profile.json is no profile of a device" in refused(folder)


def test_scores_of_the_prior_are_those_stored_or_of_a_folder(tmp_path):
    run = CliRunner().invoke
    kept = run(main, ["score", "--published"])
    assert kept.output.startswith("stored scores, made when the prior was fitted")
    assert "prior, GPU left out" in kept.output and "decode 16-bit" in kept.output
    none = run(main, ["score", "--published", str(tmp_path)])
    assert none.exit_code == 2 and "has none of these tables" in none.output
    line = "gpu,dtype,m,n,k,ms_sglang,ms_trtllm,ms_vllm\nNVIDIA H200,bf16,1,64,64,,,1\n"
    (tmp_path / "aic_gemm.csv").write_text(line)
    made = run(main, ["score", "--published", str(tmp_path)])
    assert "stored" not in made.output and "launch bound" in made.output
    line += "NVIDIA X1,bf16,1,64,64,,,1\n"
    (tmp_path / "aic_gemm.csv").write_text(line)
    made = run(main, ["score", "--published", str(tmp_path)])
    assert "left out: NVIDIA X1 is not in data/devices.csv" in made.output
    bare = run(main, ["score"])
    assert bare.exit_code == 2 and "must be a folder of rows" in bare.output

"""The command line as a user has it: output, errors in words, kill -9 and resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlab.cli import main
from fastlab.clock.calibrate import profile_path
from fastlab.latency.devices import Device
from fastlab.sweeps.store import Store
from tests.sweeps.made import fill

ROOT = Path(__file__).parents[1]
FAST = "{budget_s: 0.05, n_min: 3, warmup_s: 0.0}"


@pytest.fixture(autouse=True)
def calibrated(profile: Device) -> Iterator[None]:
    """This machine's profile is on file: nothing calibrates."""
    path = profile_path("cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profile.to_dict()))
    yield
    path.unlink(missing_ok=True)


def fastlab(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_predict_prints_what_was_worked_out() -> None:
    done = fastlab("predict", "--model", "article", "--prompt-len", "1024")
    assert done.exit_code == 0
    assert "124.4 M" in done.output
    assert "291.65" in done.output  # GFLOPs
    assert "round numbers (datasheet:round)" in done.output


def test_measure_as_json_gives_records() -> None:
    done = fastlab(
        *("measure", "--model", "tiny-gpt2", "--prompt-len", "8,9", "--json"),
        *("--budget-s", "0.05"),
    )
    lines = [line for line in done.output.splitlines() if line.startswith("{")]
    rows = [json.loads(line) for line in lines]
    assert [r["point"]["workload"]["prompt_len"] for r in rows] == [8, 9]
    assert {r["status"] for r in rows} == {"ok"}
    assert all(r["estimate"]["seconds"] and r["measured"]["seconds"] for r in rows)


WRONG = """predict: name a model: --model gpt2
predict --layers 2: give --hidden too
predict --layers two --hidden 64: layers='two' must be a
predict --model gpt3: did you mean gpt2?
predict --model gpt2 --on h20: did you mean NVIDIA H200
predict --model gpt2 --on h200,a100: must be one device
predict --model ./nope: no such folder; presets are article, gpt2
predict --model nobody/nothing: cannot be reached: give the
predict --model gpt2 --weights pretrained: mean trained?
predict --model gpt2 --prune-layers 2: prune_layers=2.0 must
predict --model gpt2 --share-bits 5: share_bits=5 is not one
predict --model gpt2 --sparse-pattern 2-4: sparse_pattern='2-4' must be N:M
predict --model gpt2 --precision bf61: did you mean bf16
predict --model gpt2 --on t4 --precision bf16: no bf16
devices --batch 8: --batch 8 is of a request to a model
devices --model bert: model='bert' writes no text
measure --model gpt2 --weights trained: 'gpt2' is a preset, which has no weights
measure --model tiny-gpt2 --device gpu: did you mean cuda?
measure --model tiny-gpt2 --text /nope.txt: judges trained weights, and none are asked
measure --model tiny-gpt2 --device cuda:9: device='cuda:9'
measure --model tiny-gpt2 --target 2: target=2
measure --hiden 3: No such option
measure --model tiny-gpt2 --students here: students='here' is of trained weights
predict --model gpt2 --prompt-len 1,024: prompt_len='024' must be a whole number
predict --model gpt2 --batch 010: batch='010' must be a whole number
predict --model gpt2 --prune-importance taylor: prune_importance='taylor' decides
predict --model gpt2 --phase decode --logits last: logits='last' decides nothing
predict --model bert --phase decode: bert reads both ways
train nowhere --steps 3 --minutes 1: minutes=1.0 goes with neither steps nor
train nowhere --minutes 0: minutes=0.0 must be a finite number > 0
train nowhere --steps 0: steps=0 must be a whole number from 1
calibrate --show --quick: leave --quick away
sweep data/sweeps/smoke.yaml --store x --for-s 0: --for-s 0 must be above 0
sweep data/sweeps/smoke.yaml --store x --for-s 5 --dry-run: without --dry-run
sweep data/sweeps/smoke.yaml --store x --executor rai: did you mean ray
sweep data/sweeps/smoke.yaml --store x --executor ray --isolation inline: needs iso
sweep data/sweeps/smoke.yaml --store x --timeout-s -1: --timeout-s -1 must be above 0
sweep data/sweeps/smoke.yaml --store x --isolation thread: is not one of worker, process
sweep data/sweeps/smoke.yaml --store x --rerun precision=int3: precision: bf16, fp32
run notebooks/03_roofline.ipynb -p hidden 1 -p hidden 2: hidden is given twice
run notebooks/03_roofline.ipynb -p batches -1: batches=-1 must be 0 or more
run notebooks/03_roofline.ipynb -p batches 0: batches=0 must be a whole number
run README.md: README.md is no notebook
score data/reference: do: data/reference/xeon-2-threads,
sweep none.yaml --store x: does not exist
generate hello --model no/such/folder/at/all: no/such
table nowhere: does not exist"""


@pytest.mark.parametrize("case", WRONG.splitlines())
def test_what_users_get_wrong_is_said_in_words(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    args, _, words = case.partition(": ")
    done = fastlab(*args.split())
    assert done.exit_code != 0
    assert words in done.output
    assert "Traceback" not in done.output


def test_impossible_rows_are_left_out_with_a_word() -> None:
    """Of the model, and of the device: a T4 does not compute in bf16."""
    done = fastlab("predict", "--model", "tiny-bert", "--phase", "prefill,decode")
    assert done.exit_code == 0 and done.stdout.count("bert 2x64") == 1
    assert "left out: phase='decode'" in done.stderr
    t4 = ("predict", "--model", "gpt2", "--on", "t4", "--precision", "bf16,fp32")
    done = fastlab(*t4)
    assert done.exit_code == 0 and "fp32 prefill" in done.stdout
    assert "left out: gpt2 12x768 bf16 prefill 128: Tesla T4 has no bf16" in done.stderr


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a, b"
    folder.mkdir()
    shutil.copy(ROOT / TRAINED / "config.json", folder)
    done = fastlab("predict", "--model", str(folder), "--on", "t4")
    assert done.exit_code == 0 and "llama 12x192" in done.output


def test_rows_that_are_errors_are_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlab.clock import measure

    monkeypatch.setattr(measure, "prepare", None)
    one = ("measure", "--model", "tiny-gpt2", "--budget-s", "0.05")
    for more in ((), ("--json",), ("--store", str(tmp_path / "store"))):
        done = fastlab(*one, *more)
        assert done.exit_code == 1 and "TypeError" in done.output
    file = tmp_path / "sweep.yaml"
    file.write_text("grids: [{model: tiny-gpt2}]")
    here = ("--store", str(tmp_path / "s"), "--isolation", "inline")
    done = fastlab("sweep", str(file), *here)
    assert done.exit_code == 1
    assert "without a measurement" in done.output and "TypeError" in done.output


TRAINED = "data/checkpoints/stdlib-12x192"


def test_a_text_that_is_missing_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlab.clock.measure import Bench

    monkeypatch.setattr(Bench, "for_device", None)
    model = str(ROOT / TRAINED)
    words = "text='/nope.txt' cannot be read: No such file"
    done = fastlab(
        *("measure", "--model", model, "--weights", "trained", "--text", "/nope.txt")
    )
    assert done.exit_code == 2 and words in done.output
    file, store = tmp_path / "sweep.yaml", str(tmp_path / "store")
    for weights, said in (("trained", words), ("random:0", "judges trained weights")):
        grid = f"{{model: {model}, weights: {weights}}}"
        file.write_text(f"text: /nope.txt\ngrids: [{grid}]\n")
        here = ("--store", store, "--isolation", "inline")
        done = fastlab("sweep", str(file), *here)
        assert done.exit_code == 2 and said in done.output


def written(folder: Path, lengths: int) -> Path:
    path = folder / "sweep.yaml"
    grid = f"model: [tiny-gpt2, tiny-llama], prompt_len: {list(range(1, lengths + 1))}"
    path.write_text(f"about: a test\nsettings: {FAST}\ngrids: [{{{grid}}}]\n")
    return path


def sweeping(file: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fastlab", "sweep", str(file), "--store"]
    command.append(str(store))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes)


def wait_for_rows(store: Path, n: int) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if store.exists() and Store(store).health().records >= n:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {n} rows in time")


def own_profile(profile: Device) -> None:
    """OMP_NUM_THREADS=1 makes the sweeping process another device: one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    profile_path("cpu").write_text(json.dumps(profile.to_dict()))
    torch.set_num_threads(threads)


def test_held_then_killed_with_minus_nine_and_run_again(
    tmp_path: Path, profile: Device
) -> None:
    """A second sweep is told who holds the store; nothing is lost or measured twice."""
    own_profile(profile)
    file, store = written(tmp_path, 20), tmp_path / "store"
    first = sweeping(file, store)
    wait_for_rows(store, 5)
    first.send_signal(signal.SIGSTOP)  # or it ends before the second has begun
    second = sweeping(file, store)
    _, err = second.communicate(timeout=6000)
    assert second.returncode not in (0, None)
    assert str(first.pid) in err
    assert "Traceback" not in err
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {r.key for r in Store(store).records()}
    again = sweeping(file, store)
    out, err = again.communicate(timeout=6000)
    assert again.returncode == 0, err
    attempts = list(Store(store).attempts())
    assert len(kept) >= 5
    assert len(attempts) == len({r.key for r in attempts}) == 40
    assert kept <= {r.key for r in attempts}
    assert f"{len(kept)} of 40 points are in" in err
    assert f"measured now: {40 - len(kept)} ok; in all: 40 ok" in out
    assert (store / "table.csv").read_text().count("\n") == 41
    run = json.loads((store / "run.json").read_text())["environments"]
    copied = [env.pop("copy_bytes_per_s") for env in run.values()]
    assert len({json.dumps(env, sort_keys=True) for env in run.values()}) == 1
    assert min(copied) > 0  # each run times a copy of its own


def test_dry_run_says_what_is_left(tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = fastlab(
        "sweep", str(written(tmp_path, 3)), "--store", str(store), "--dry-run"
    )
    assert done.exit_code == 0
    assert "0 of 6 points are in" in done.output
    assert "gpt2 2x64 fp32 prefill 3\n" in done.output
    assert "at most 0:00:0" in done.output  # six times 1 s and a little
    assert not store.exists()


def test_a_sweep_for_some_seconds_stops_and_goes_on(tmp_path: Path) -> None:
    file, store = str(written(tmp_path, 2)), str(tmp_path / "store")
    sweep = ("sweep", file, "--store", store, "--isolation", "inline")
    first = fastlab(*sweep, "--for-s", "0.000001")
    assert first.exit_code == 0
    assert "measured now: 1 ok; in all: 1 ok" in first.output
    assert "Go on: fastlab" in first.output
    again = fastlab(*sweep)
    assert "measured now: 3 ok; in all: 4 ok" in again.output


def test_table_shows_rows_and_what_could_not_be_read(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", [1, 2]).folder
    rows = next(store.glob("*.jsonl"))
    rows.write_text(rows.read_text() + "not a line\n")
    done = fastlab("table", str(store), "--csv", str(tmp_path / "all.csv"))
    assert done.exit_code == 0
    assert "skipped" in done.output
    assert (tmp_path / "all.csv").read_text().count("\n") == 3


def test_devices_and_calibrate_are_listed(profile: Device) -> None:
    assert "NVIDIA H200" in fastlab("devices").output
    shown = fastlab("calibrate", "--show").output
    assert '"launch_s": 1e-05' in shown

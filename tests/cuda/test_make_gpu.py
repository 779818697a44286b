"""`make gpu`, dry: each step at tiny sizes on the stand-in, killed, and gone on."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest

from fastlab.latency.devices import Device
from fastlab.sweeps.store import Store

ROOT = Path(__file__).parents[2]
# So slow that few calls fill the time to warm up in.
SLOW = {"flops_per_s": 1e11, "bytes_per_s": 1e10, "launch_ns": 10**6}
SLOW |= {"least_ns": 10**5, "real_up_to": 2**16}
FLAGS = (
    "--models tiny-llama --only int8 --sweep tests/cuda/tiny.yaml --tests clock decode "
    "--pytest '-kevents_are_used or wait_for_nothing'"
)
STEPS = ["calibrate", "tests clock", "tests decode", "ladder tiny-llama"]
STEPS += ["unroll", "sweep"]  # no GPU is there for triton: that one says so


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def make(folder: Path, seconds: int = 800) -> "subprocess.Popen[str]":
    """The README's command on a machine that has nothing for notebooks."""
    (folder / "lent").mkdir(exist_ok=True)
    env = os.environ | {
        "PRETEND_GPU": json.dumps(SLOW),
        "PYTHONPATH": str(ROOT / "tests/cuda/site"),
        "OUT": str(folder / "lent"),
    }
    flags = f"--out {folder / 'gpu'} {FLAGS}"
    command = ["make", "--no-print-directory", "gpu", f"PYTHON={sys.executable}"]
    command += [f"GPU_SECONDS={seconds}", f"GPU_FLAGS={flags}"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipe)  # type: ignore[call-overload,no-any-return]


def started(folder: Path) -> Counter[str]:
    """How often each command was begun, by what it is."""
    lines = (folder / "gpu/log.txt").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith("$ ")]
    marks = {"calibrate": "calibrate", "test_clock_gpu": "tests clock"}
    marks |= {"test_decode_gpu": "tests decode", "decode_ladder": "ladder"}
    marks |= {"unroll": "unroll", "sweep": "sweep"}
    return Counter(
        next(name for mark, name in marks.items() if mark in " ".join(line))
        for line in words
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_the_middle_and_called_again(folder: Path) -> None:
    """Killed once the ladder has two rows; the second call finishes, nothing twice."""
    first = make(folder)
    store = Store(folder / "gpu")
    while first.poll() is None and len(list(store.attempts(False))) < 2:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    said = first.communicate()[0]
    kept = [row.key for row in store.attempts(False)]
    assert len(kept) >= 2, said + (folder / "gpu/log.txt").read_text()[-3000:]
    done = json.loads((folder / "gpu/steps.json").read_text())
    assert [*done] == STEPS[:3]

    second = make(folder)
    said = second.communicate()[0]
    log = (folder / "gpu/log.txt").read_text()
    assert second.returncode == 0, said + log[-3000:]
    assert said.splitlines() == [
        *(f"{name}: done before" for name in STEPS[:3]),
        *(f"{name}: ok" for name in STEPS[3:]),
    ]
    once = dict.fromkeys([name for name in STEPS if "ladder" not in name], 1)
    assert started(folder) == once | {"ladder": 2}
    rows = list(store.attempts(False))
    assert [row.key for row in rows][: len(kept)] == kept
    assert max(Counter(row.key for row in rows).values()) == 1  # no point twice
    assert {row.status for row in rows} == {"ok"}, [row.reason for row in rows]
    assert len(rows) == 5 + 4  # of the sweep, and rungs in int8


@pytest.mark.slow
def test_what_it_leaves(folder: Path) -> None:
    gpu = folder / "gpu"
    profile = json.loads((gpu / "profile.json").read_text())
    device = Device.from_dict(profile)
    assert device.name == "NVIDIA H200"
    assert device.bandwidth == pytest.approx(1e10, rel=0.01)  # what the stand-in has
    assert device.launch_s == pytest.approx(1e-3, rel=0.05)
    assert device.fits is not None and device.fits.provenance["versions"]["torch"]
    [kept] = (gpu / "cache/fastlab").glob("device-*.json")
    assert json.loads(kept.read_text()) == profile
    assert {"table.csv", "run.json", "samples.json"} <= {p.name for p in gpu.iterdir()}
    [row, *_] = Store(gpu).records(samples=False)
    assert row.estimate.model == "calibrated"
    with tarfile.open(folder / "lent/gpu.tar.gz") as tar:
        names = set(tar.getnames())
    assert {"gpu/profile.json", "gpu/steps.json", "gpu/log.txt"} <= names
    assert [p.name for p in (folder / "lent").iterdir()] == ["gpu.tar.gz"]


@pytest.mark.slow
def test_called_once_more_it_does_nothing_and_without_time_says_so(
    folder: Path,
) -> None:
    third = make(folder)
    said = third.communicate()[0]
    assert said.splitlines() == [f"{name}: done before" for name in STEPS]
    assert third.returncode == 0
    (folder / "gpu/steps.json").unlink()
    hurried = make(folder, seconds=2)
    said = hurried.communicate()[0]
    words = [f"{name}: no time left, call again" for name in STEPS]
    assert said.splitlines()[:-1] == words  # and make's own word on the exit status
    assert hurried.returncode != 0

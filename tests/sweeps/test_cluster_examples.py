"""The example scripts for Slurm and SkyPilot: run with a fastlab that only listens."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from fastlab.cli import main

FOLDER = Path(__file__).parents[2] / "data" / "cluster"
SLURM, SKY = FOLDER / "slurm_array.sh", FOLDER / "skypilot.yaml"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="bash")


def ran(folder: Path, *command: str, **variables: str) -> list[list[str]]:
    """The command lines of fastlab that a command runs, each taken by its parser."""
    listening = folder / "fastlab"
    listening.write_text('#!/bin/sh\nfor a; do echo "$a"; done >> said; echo >> said\n')
    listening.chmod(0o755)
    env = os.environ | variables | {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(command, cwd=folder, env=env, check=True)
    found = [one.split("\n") for one in (folder / "said").read_text().split("\n\n")]
    return [parsed(one) for one in found if one[0]]


def parsed(args: list[str]) -> list[str]:
    command = main.commands[args[0]]
    with command.make_context(args[0], args[1:]):
        return args


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "sweeps").symlink_to(FOLDER.parent / "sweeps")
    return tmp_path


def test_each_task_of_an_array_has_its_share(folder, monkeypatch):
    monkeypatch.chdir(folder)
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    file = "data/sweeps/reference.yaml"
    [one] = ran(folder, "bash", str(SLURM), file, "results/a b", **task)
    shared = ["--store", "results/a b/3", "--shard", "3/8", "--mix-hosts"]
    assert one == ["sweep", file, *shared, "--for-s", "13500"]
    limit = re.search(r"--time=(\d+):(\d+):00", SLURM.read_text())
    hours, minutes = map(int, limit.groups())
    assert 3600 * hours + 60 * minutes > 13500  # fastlab ends before it is ended


def test_shares_become_one_store(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for n in ("1", "2", "all"):
        (folder / "results" / n).mkdir()
    [one] = ran(folder, "bash", str(SLURM), "merge", "results")
    into = ["--into", "results/all", "--mix-hosts"]
    assert one == ["merge", "results/1", "results/2", *into]


def test_each_rented_machine_has_its_share(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = SKY.read_text()
    task = yaml.safe_load(text)
    assert task["num_nodes"] == 4 and "worker{1..3}" in text
    node = {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "4"}
    first, second = ran(folder, "bash", "-ec", task["run"], **node)
    assert first == ["calibrate"]
    assert second[2:] == ["--store", "results/shares/1", "--shard", "1/4"]
    subprocess.run(["bash", "-n", "-c", task["setup"]], check=True)
    [merge] = re.findall(r"fastlab (merge .*)", text)
    (folder / "results" / "shares").mkdir()
    parsed(shlex.split(merge.replace("/*", "")))

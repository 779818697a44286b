"""Planner and worker killed at random moments: no row is lost, none is doubled.

FASTLAB_KILLS and FASTLAB_REAL_KILLS say how often; `make torture` sets 1,000 and 20.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastlab.sweeps.store import Store
from tests.sweeps.test_isolation import gone, lines, planner, swept

KILLS = int(os.environ.get("FASTLAB_KILLS", "50"))
REAL_KILLS = int(os.environ.get("FASTLAB_REAL_KILLS", "2"))
POINTS = 100  # of a sweep, which takes 0.3 s: it dies about 30 times on the way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill -9, /proc")


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def killed(folder: Path, kills: int, chance: random.Random) -> tuple[int, list[int]]:
    """Kill until a sweep is through, or so often; how often, and the rows it told.

    Three of four times while a point is in hand or its row on the way, else at any
    time from the start of a planner; three of four times the worker, if there is one.
    """
    measured, hits, told = folder / "measured", 0, ""
    while hits < kills:
        process = planner(folder, POINTS, dict.fromkeys(range(POINTS), "slow"))
        while process.poll() is None and hits < kills:
            before = size(measured)
            busy = chance.random() < 0.75
            while busy and process.poll() is None and size(measured) == before:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.02 if busy else 0.6))
            if process.poll() is not None:
                break
            workers = [pid for pid in lines(folder, "workers")[-1:] if not gone(pid)]
            kill(workers[0] if workers and chance.random() < 0.75 else process.pid)
            hits += 1
        whole = process.poll() == 0
        process.kill()
        told += process.communicate()[0]
        if whole:
            break
    said = [line.split() for line in told.split("\n") if line.count(" ") == 1]
    return hits, [int(seed) for seed, status in said if status == "ok"]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def table_of(store: Store) -> list[tuple[object, ...]]:
    rows = store.records()
    return sorted((r.key, r.status, r.measured and r.measured.seconds) for r in rows)


def test_no_kill_loses_or_doubles_a_row(tmp_path: Path) -> None:
    """And the table is that of a sweep that nobody stopped."""
    chance, done, sweeps, died = random.Random(KILLS), 0, 0, 0
    (whole := tmp_path / "whole").mkdir()
    swept(whole, POINTS, {})
    while done < KILLS:
        sweeps += 1
        (folder := tmp_path / str(sweeps)).mkdir()
        hits, told = killed(folder, KILLS - done, chance)
        done += hits
        swept(folder, POINTS, {})
        swept(folder, POINTS, {}, again="failed")  # those whose worker died twice
        store = Store(folder / "store")
        rows = list(store.attempts())
        good = [row.point.seed for row in rows if row.status == "ok"]
        assert len(told) == len(set(told)) and set(told) <= set(good)
        assert sorted(good) == list(range(POINTS))
        assert {row.status for row in rows} <= {"ok", "crash", "poison"}
        assert table_of(store) == table_of(Store(whole / "store"))
        health = store.health()
        assert health.bad == [] and health.starts >= health.records == len(rows)
        died += health.records - POINTS
        assert all(map(gone, lines(folder, "workers")))
    print(f"{done} kills in {sweeps} sweeps; {died} attempts died with their worker")


SWEEP = "settings: {budget_s: 0.05, n_min: 3, warmup_s: 0.0}\ngrids: [{%s}]\n"
REAL = SWEEP % "model: [tiny-gpt2, tiny-llama], prompt_len: [1, 2, 3, 4, 5, 6]"


def fastlab(args: Sequence[str]) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fastlab", *args]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=root, env=env, **nowhere)  # type: ignore


def test_real_workers_are_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    """The worker at every second time, as soon as there is one more row."""
    file, folder = tmp_path / "sweep.yaml", tmp_path / "store"
    file.write_text(REAL)
    args, kept, at = ["sweep", str(file), "--store", str(folder)], set(), -1
    for n in range(REAL_KILLS):
        process = fastlab(args)
        at = min(at + 1, 11)
        while process.poll() is None and len(Store(folder).records()) <= at:
            time.sleep(0.02)
        kept |= {r.key for r in Store(folder).records() if r.status == "ok"}
        names = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        family = [int(pid) for pid in names.read_text().split()] if n % 2 else []
        kill((family or [process.pid])[0])
        if family:
            process.wait()
        process.kill()
        process.wait()
    assert fastlab([*args, "--rerun", "failed"]).wait() == 0
    rows = [row for row in Store(folder).attempts() if row.status == "ok"]
    assert len(rows) == len({row.key for row in rows}) == 12
    assert kept <= {row.key for row in rows}

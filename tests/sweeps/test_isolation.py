"""Workers that hang, crash, fail and grow: a row each, and the sweep goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlab.latency.devices import device
from fastlab.record import Record
from fastlab.spec import Point, point_of
from fastlab.sweeps.isolation import OutOfTime, WorkerFailed, bench_in
from fastlab.sweeps.plan import Target, left, rerun
from fastlab.sweeps.run import measured
from fastlab.sweeps.store import Seen, Store
from tests.sweeps.standin import SETTINGS, StandIn, points

POSIX = pytest.mark.skipif(os.name != "posix", reason="groups of processes")


def swept(
    folder: Path,
    count: int,
    faults: Mapping[int, str],
    isolation: str = "worker",
    again: str = "",
    rounds: int = 1,
    **how: Any,
) -> list[Record]:
    """The rows of a sweep over so many points, in the order they were stored."""
    todo, store = points(count), Store(folder / "store")
    with bench_in(isolation, StandIn, folder, faults, **how) as bench:
        more = rounds, rerun(again, todo)
        return list(measured(todo, store, bench, list, *more))


def said(rows: list[Record]) -> list[tuple[int, str]]:
    return [(int(row.point.seed or 0), row.status) for row in rows]


def lines(folder: Path, name: str) -> list[int]:
    path = folder / name
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for has as well."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def wait_until(true: Any) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_warm_worker_measures_all(tmp_path):
    assert said(swept(tmp_path, 5, {})) == [(n, "ok") for n in range(5)]
    assert len(lines(tmp_path, "workers")) == 1
    assert swept(tmp_path, 5, {}) == []
    assert lines(tmp_path, "measured") == [0, 1, 2, 3, 4]
    health = Store(tmp_path / "store").health()
    assert (health.records, health.starts, health.envs, health.bad) == (5, 5, 1, [])


def test_a_process_each_and_none_at_all(tmp_path):
    assert len(swept(tmp_path, 3, {}, "process")) == 3
    assert len(set(lines(tmp_path, "workers"))) == 3
    with bench_in("inline", StandIn, tmp_path, {}) as bench:
        assert isinstance(bench, StandIn)
    with pytest.raises(ValueError, match="isolation='thread' is not one of worker"):
        swept(tmp_path, 1, {}, "thread")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", "the worker died: SIGSEGV"),
        ("leaves", "the worker died: exit status 3"),
        ("hang", "no row within 0.5 s; killed"),
    ],
)
def test_a_point_that_ends_its_worker_twice_is_poison(tmp_path, fault, words):
    """The others come first; a third start never comes."""
    first = "timeout" if fault == "hang" else "crash"
    rows = swept(tmp_path, 3, {1: fault}, timeout_s=0.5)
    assert said(rows) == [(0, "ok"), (1, first), (2, "ok"), (1, "poison")]
    assert rows[1].reason == words
    assert rows[3].reason == f"left alone after 2 attempts that died; {words}"
    assert [row.attempt for row in rows] == [1, 1, 1, 2]
    assert swept(tmp_path, 3, {1: fault}) == []
    assert all(map(gone, lines(tmp_path, "workers")))
    again = swept(tmp_path, 3, {}, again="failed")  # mended meanwhile
    assert said(again) == [(1, "ok")]
    assert again[0].attempt == 3


def test_a_death_counts_in_the_next_run_and_its_planners_does_not(tmp_path):
    store, todo = Store(tmp_path / "store"), points(2)
    with bench_in("worker", StandIn, tmp_path, {0: "crash"}) as bench:
        going = measured(todo, store, bench, list)
        assert next(going).status == "crash"
        going.close()
    for _ in range(3):  # begun, and never ended
        with store.begin(ENV):
            store.start(**about(todo[1], bench), round=1, attempt=1)
    assert said(swept(tmp_path, 2, {0: "crash", 1: "crash_once"})) == [
        (0, "poison"),
        (1, "crash"),
        (1, "ok"),
    ]


ENV = {"device": "a stand-in"}


def about(point: Point, bench: Any) -> dict[str, str]:
    row = Record(point, bench.name, bench.settings.to_dict(), "ok")
    return {"key": row.key, "settings_key": row.settings_key, "device": row.device}


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("cuda", "error", "AcceleratorError: CUDA error: device-side assert triggered"),
        ("unsayable", "error", "Unsayable"),
        (
            "fail",
            "error",
            r"RuntimeError: half a pair: \ud800, CUDA error: an illegal memory access",
        ),
    ],
)
def test_a_worker_that_is_not_to_be_trusted_is_replaced(
    tmp_path, fault, status, reason
):
    rows = swept(tmp_path, 3, {1: fault})
    assert said(rows) == [(0, "ok"), (1, status), (2, "ok")]
    assert rows[1].reason == reason
    assert len(set(lines(tmp_path, "workers"))) == 2
    [stored] = [r for r in Store(tmp_path / "store").records() if r.status == "error"]
    assert stored.reason == reason.encode("utf-8", "backslashreplace").decode()
    assert said(swept(tmp_path, 3, {})) == [(1, "ok")]  # errors are tried again


@pytest.mark.parametrize(
    ("fault", "status"),
    [("no_memory", "oom"), ("nan", "ok"), ("nan_time", "nonfinite"), ("prints", "ok")],
)
def test_a_worker_that_is_well_is_kept(tmp_path, fault, status):
    assert said(swept(tmp_path, 3, {1: fault})) == [(0, "ok"), (1, status), (2, "ok")]
    assert len(lines(tmp_path, "workers")) == 1
    kept = {r.point.seed: r for r in Store(tmp_path / "store").records()}
    assert kept[1].status == status
    if fault == "nan":
        assert (kept[1].quality.kl_nats, kept[1].quality.top1) == (None, 0.5)
    assert swept(tmp_path, 3, {}) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_grows_is_replaced(tmp_path):
    """40 MB more after each: beyond 60 at every second."""
    rows = swept(tmp_path, 6, dict.fromkeys(range(6), "grow"), growth=60_000_000)
    assert said(rows) == [(n, "ok") for n in range(6)]
    assert len(set(lines(tmp_path, "workers"))) == 3


def test_a_deadline_drops_what_hangs_and_it_is_no_death(tmp_path):
    soon = time.monotonic() + 1
    for _ in range(3):
        with pytest.raises(OutOfTime):
            swept(tmp_path, 3, {1: "hang"}, deadline=soon)
        soon = time.monotonic()
    store = Store(tmp_path / "store")
    assert said(list(store.attempts())) == [(0, "ok")]
    assert store.health().starts == 4
    assert said(swept(tmp_path, 3, {})) == [(1, "ok"), (2, "ok")]
    assert all(map(gone, lines(tmp_path, "workers")))


def test_a_worker_that_dies_between_two_points_is_replaced(tmp_path):
    todo = points(2)
    with bench_in("worker", StandIn, tmp_path, {}) as bench:
        assert bench.measure(todo[0]).status == "ok"
        [pid] = lines(tmp_path, "workers")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid))
        assert bench.measure(todo[1]).status == "ok"


class Refusing:
    def __init__(self, folder: Path, how: str) -> None:
        if how == "crash":
            os._exit(7)
        raise (ValueError if how == "value" else RuntimeError)("not here")


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("value", ValueError, "^not here$"),
        ("run", WorkerFailed, "^RuntimeError: not here$"),
        ("crash", WorkerFailed, "no worker could be started: exit status 7"),
    ],
)
def test_what_a_bench_refuses_is_said_by_the_planner(tmp_path, how, error, words):
    with (
        pytest.raises(error, match=words),
        bench_in("worker", Refusing, tmp_path, how),
    ):
        pass


def test_a_worker_that_dies_before_the_first_point_is_told_of(tmp_path):
    with bench_in("worker", StandIn, tmp_path, {}) as bench:
        [pid] = lines(tmp_path, "workers")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="could be started: SIGKILL"):
            bench.environment()


def other_named(folder: Path, faults: Mapping[int, str]) -> StandIn:
    """Another device at each start, as where a GPU has gone."""
    bench = StandIn(folder, faults)
    bench.name = f"device {len(lines(folder, 'workers'))}"
    return bench


def test_another_device_ends_the_sweep(tmp_path):
    with bench_in("worker", other_named, tmp_path, {0: "leaves"}) as bench:
        assert bench.measure(points(1)[0]).status == "crash"
        with pytest.raises(WorkerFailed, match="device 1 is gone; there is device 2"):
            bench.measure(points(1)[0])


def test_a_store_that_is_deleted_is_noticed_at_the_next_row(tmp_path):
    import shutil

    for move in (False, True):
        store = Store(tmp_path / "store")
        with bench_in("inline", StandIn, tmp_path, {}) as bench:
            going = measured(points(3), store, bench, list)
            next(going)
            if move:
                store.folder.rename(tmp_path / "elsewhere")
            else:
                shutil.rmtree(store.folder)
            with pytest.raises(RuntimeError, match="was deleted or moved") as error:
                list(going)
            assert type(error.value).__name__ == "StoreGone"
        assert not store.folder.exists()
    assert len(Store(tmp_path / "elsewhere").records()) == 1


# ---- plans


def test_what_is_run_again(tmp_path):
    a, b, c = todo = points(3)
    target = Target("cpu", SETTINGS)
    seen = Seen()
    for point, status in ((a, "ok"), (b, "poison"), (c, "unsupported")):
        seen.add(target.key(point), status)
    assert left(todo, seen, target) == []
    for text, again in (
        *[("failed", [b]), ("all", todo), ("weights=random:0,random:2", [a, c])],
        ("prompt_len=128", todo),
    ):
        assert left(todo, seen, target, rerun(text, todo)) == again
    assert rerun("", todo) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "fail",
            "rerun='fail' must be failed, all or FIELD=VALUE; did you mean failed",
        ),
        ("presision=fp32", "did you mean precision"),
        ("precision=int8", "rerun=precision=int8 fits no point; precision: fp32"),
        ("precision=", "must be failed, all or FIELD=VALUE"),
    ],
)
def test_what_cannot_be_run_again_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        rerun(text, points(2))


def test_expected_seconds_are_worked_out(profile):
    """1 s, 0.01 s of samples, 10 calls and 3 to warm up, parameters at 50 M/s.

    Judging random weights: 256 positions of two models at 10 GFLOP/s; trained ones:
    32,768 positions and 20 s for the text.
    """
    target, n = Target("cpu", SETTINGS, profile), 149_248
    judged = 3 * n / 5e7 + 4 * n * 256 / 1e10
    trained = 3 * n / 5e7 + 4 * n * 32_768 / 1e10 + 20
    for more, over in (
        (0, {}),
        (judged, {"precision": "bf16"}),
        (60, {"phase": "decode", "runtime": "decoder"}),
        (trained, {"weights": "trained:abc"}),
    ):
        point = point_of(model="tiny-gpt2", **over | {"weights": "random:0"})
        point = replace(point, weights=over.get("weights", "random:0"))
        found = target.estimate(point)
        assert found.parameters == n
        expected = 1.01 + 13 * found.seconds + n / 5e7 + more
        assert target.expected_s(point) == pytest.approx(expected)
    point = point_of(model="tiny-gpt2")
    assert Target("cpu", SETTINGS).expected_s(point) == pytest.approx(1.01 + n / 5e7)
    gpu = Target("gpu", SETTINGS, device("h200"))
    expected = 1.01 + 13 * gpu.estimate(point).seconds + n / 1e9
    assert gpu.expected_s(point) == pytest.approx(expected)


# ---- planners that end


PLANNER = """
import os, sys
from pathlib import Path
from fastlab.sweeps.isolation import bench_in
from fastlab.sweeps.run import measured
from fastlab.sweeps.store import Store
from tests.sweeps.standin import StandIn, points
folder, count, faults = Path(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
with bench_in("worker", StandIn, folder, faults) as bench:
    for row in measured(points(count), Store(folder / "store"), bench, list):
        os.write(1, f"{row.point.seed} {row.status}\\n".encode())
"""


def planner(folder: Path, count: int, faults: dict[int, str]) -> subprocess.Popen[str]:
    """A planner without torch, that says which rows are on disk."""
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", PLANNER, str(folder), str(count), repr(faults)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def children(pid: int) -> Iterator[int]:
    """Every process that descends from one, by /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            own = int(path.parent.name)
            yield own
            yield from children(own)


@POSIX
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_planners_end_leaves_an_orphan(tmp_path, how):
    """Not its worker, which hangs, nor what that has started."""
    process = planner(tmp_path, 3, {1: "hang"})
    assert process.stdout.readline() == "0 ok\n"
    wait_until(lambda: len(list(children(process.pid))) == 3)  # worker, guard, sleep
    family = list(children(process.pid))
    process.send_signal(how)
    process.wait()
    wait_until(lambda: all(map(gone, family)))
    with Store(tmp_path / "store").begin(ENV):  # and the lock is free
        pass


def test_a_planner_and_its_stand_in_need_no_torch():
    code = "import sys, fastlab.sweeps.run, fastlab.sweeps.worker, tests.sweeps.standin"
    code += "; print({'torch', 'pandas', 'scipy'} & {*sys.modules})"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr

"""A sweep over a real Ray cluster on this machine, that loses a node on its way."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastlab.cli import main
from fastlab.cli import points as given
from fastlab.record import Record
from fastlab.sweeps.cluster import Cluster
from fastlab.sweeps.isolation import OutOfTime, bench_in
from fastlab.sweeps.run import measured
from fastlab.sweeps.store import Store
from tests.sweeps.standin import StandIn, points
from tests.sweeps.test_isolation import gone, lines, said, swept, wait_until
from tests.sweeps.test_sweep_cli import GRID
from tests.sweeps.test_torture import table_of

ray = pytest.importorskip("ray")
COUNT, SLOW = 60, 0.1


class Slow(StandIn):
    """Takes its time, and says in whose environment it is."""

    def environment(self) -> Mapping[str, Any]:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        return super().environment() | {"threads": threads, "pid": os.getpid()}

    def measure(self, point: Any) -> Record:
        time.sleep(SLOW)
        return super().measure(point)


# What else Ray starts makes a node come too late on a busy machine: 15 s, then it ends.
FEW = {"include_log_monitor": False, "include_dashboard": False, "no_monitor": True}
NODE = {"num_cpus": 1, **FEW}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two nodes."""
    from ray.cluster_utils import Cluster as Machines

    made = Machines(initialize_head=True, head_node_args=NODE)
    made.nodes_beside = [made.add_node(**NODE) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def over(
    folder: Path,
    faults: Mapping[int, str],
    count: int = COUNT,
    then: Callable[[Record], None] = lambda _: None,
    **how: Any,
) -> list[Record]:
    """The rows of a sweep over the cluster, as they are stored."""
    store, rows = Store(folder / "store"), []
    with bench_in("worker", Slow, folder, faults, kind=Cluster, **how) as bench:
        for row in measured(points(count), store, bench, list):
            rows.append(row)
            then(row)
    wait_until(lambda: all(map(gone, lines(folder, "workers"))))
    return rows


def test_points_that_end_their_worker_are_poison(cluster, tmp_path, monkeypatch):
    """As on one machine; rows name whose they are, threads are the sweep's."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    rows = over(tmp_path, {1: "crash", 2: "hang"}, 9, timeout_s=1.0)
    died = {(1, "crash"), (1, "poison"), (2, "timeout"), (2, "poison")}
    assert {*said(rows)} == died | {(n, "ok") for n in (0, *range(3, 9))}
    assert len(rows) == 11
    store = Store(tmp_path / "store")
    envs = store.envs()
    assert len({row.env for row in store.attempts()}) == len(envs) == 3
    assert {env["threads"] for env in envs.values()} == {"3"}
    assert over(tmp_path, {}, 9) == []


def test_the_time_is_up_once_all_in_hand_is_through(cluster, tmp_path):
    def late() -> None:
        with pytest.raises(OutOfTime):
            over(tmp_path, {4: "hang"}, 50, deadline=time.monotonic() + 12)

    late()
    store = Store(tmp_path / "store")
    health = store.health()
    assert 0 < health.records < 50 and health.doubled == 0
    assert health.starts - health.records == health.unfinished == 1  # what hung


def test_what_a_bench_refuses_is_said_by_the_sweep(cluster, tmp_path):
    from tests.sweeps.test_isolation import Refusing

    with (
        pytest.raises(ValueError, match="not here"),
        bench_in("worker", Refusing, tmp_path, "value", kind=Cluster),
    ):
        pass


class Apart(Slow):
    """Of a host of its own."""

    def environment(self) -> Mapping[str, Any]:
        return super().environment() | {"host": f"host {os.getpid()}"}


def apart(folder: Path, *_: object) -> Apart:
    return Apart(folder, {})


def test_hosts_are_mixed_by_a_flag_alone(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(given, "bench_of", partial(apart, tmp_path))
    file, folder = tmp_path / "sweep.yaml", tmp_path / "store"
    file.write_text(GRID % "'random:1', 'random:2', 'random:3'")
    args = ["sweep", str(file), "--store", str(folder), "--executor", "ray"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2 and "which differ in speed" in done.output
    planned = CliRunner().invoke(main, [*args, "--mix-hosts", "--dry-run"])
    assert planned.exit_code == 0 and "at most 0:00:01 left" in planned.output
    assert not folder.exists()
    done = CliRunner().invoke(main, [*args, "--mix-hosts"])
    assert done.exit_code == 0 and "in all: 3 ok" in done.output
    assert (folder / "table.csv").read_text().count("host ") == 3
    assert ray.is_initialized()  # it was not begun by the sweep


@pytest.mark.parametrize("gently", [True, False])
def test_a_node_lost_on_the_way_loses_and_doubles_nothing(cluster, tmp_path, gently):
    (whole := tmp_path / "whole").mkdir()
    swept(whole, COUNT, {}, "inline")

    def then(row: Record) -> None:
        then.rows += 1
        if then.rows == 20:
            node = cluster.nodes_beside.pop()
            cluster.remove_node(node, allow_graceful=gently)

    then.rows = 0
    rows = over(tmp_path, {}, then=then)
    store = Store(tmp_path / "store")
    lost = [row for row in rows if row.status == "crash"]
    assert [row.attempt for row in lost] == [1] and "is lost: " in lost[0].reason
    assert sorted(r.point.seed for r in rows if r.status == "ok") == list(range(COUNT))
    assert table_of(store) == table_of(Store(whole / "store"))
    health = store.health()
    assert (health.doubled, health.bad, health.unfinished) == (0, [], 0)
    print(f"{health.records} rows, {lost[0].reason}")

"""sweep(): what is done is skipped, one bad point ends nothing, the table is whole."""

from collections.abc import Iterable, Sequence

import pytest

from fastlab.clock.clocks import CpuClock
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.spec import Point, grid
from fastlab.sweeps import run as module
from fastlab.sweeps.plan import left
from fastlab.sweeps.run import measured, rows_of, sweep, tally
from fastlab.sweeps.store import Seen, Store


def quietly(points: Sequence[Point]) -> Iterable[Point]:
    return points


POINTS = grid(
    model=["tiny-gpt2", "tiny-llama"], phase=["prefill", "decode"], prompt_len=[4, 8]
)


@pytest.fixture
def bench(profile: Device, quick: Settings) -> Bench:
    return Bench("cpu", quick, profile, CpuClock(), "a test's CPU")


def test_points_that_share_a_model_stand_together(bench):
    mixed = [POINTS[0], POINTS[4], POINTS[1], POINTS[5], POINTS[0]]
    assert left(mixed, Seen(), bench) == [POINTS[0], POINTS[1], POINTS[4], POINTS[5]]


def test_only_what_is_missing_is_measured(bench, tmp_path):
    store = Store(tmp_path)
    assert len(list(measured(POINTS[:3], store, bench, quietly))) == 3
    fresh = list(measured(POINTS, store, bench, quietly))
    assert {r.point for r in fresh} == set(POINTS[3:])
    assert [r.point for r in rows_of(POINTS, store, bench)] == POINTS


def test_rounds_visit_every_point_once_before_any_again(bench, tmp_path):
    """Stopped in the second round, it goes on there; the table has a row a point."""
    store, points = Store(tmp_path), POINTS[:2]
    going = measured(points, store, bench, quietly, rounds=2)
    first = [next(going) for _ in range(3)]
    going.close()
    turns = [(points[0], 1), (points[1], 1), (points[0], 2)]
    assert [(r.point, r.round) for r in first] == turns
    [rest] = measured(points, store, bench, quietly, rounds=2)
    assert (rest.point, rest.round) == (points[1], 2)
    both = rows_of(points, store, bench)
    assert [r.point for r in both] == points
    for row, visits in zip(both, (first[::2], [first[1], rest]), strict=True):
        assert row.measured.n == sum(v.measured.n for v in visits)


def test_other_settings_are_other_rows(bench, tmp_path):
    store = Store(tmp_path)
    list(measured(POINTS[:1], store, bench, quietly))
    bench.settings = Settings.from_dict(bench.settings.to_dict() | {"n_max": 4})
    assert len(list(measured(POINTS[:1], store, bench, quietly))) == 1
    assert len(store.records()) == 2


def test_one_bad_point_ends_nothing(bench, tmp_path, monkeypatch):
    from fastlab.clock import measure

    prepare = measure.prepare

    def break_one(model: object, point: Point, device: str) -> object:
        if point == POINTS[2]:
            raise RuntimeError("this one breaks")
        return prepare(model, point, device)

    monkeypatch.setattr(measure, "prepare", break_one)
    store = Store(tmp_path)
    rows = list(measured(POINTS, store, bench, quietly))
    assert tally(rows) == "7 ok, 1 error"
    monkeypatch.setattr(measure, "prepare", prepare)
    again = list(measured(POINTS, store, bench, quietly))  # errors are tried again
    assert [r.point for r in again] == [POINTS[2]]
    assert tally(rows_of(POINTS, store, bench)) == "8 ok"


def test_the_table_has_a_row_for_each_point(tmp_path, quick, profile):
    rows = sweep(POINTS, str(tmp_path), quick, "cpu", profile, quietly)
    assert len(rows) == len(POINTS)
    assert list(rows["prompt_len"]) == [4, 8] * 4
    assert (rows["status"] == "ok").all()
    ratio = rows["measured_ms"] / rows["estimated_ms"]
    assert rows["ratio"].tolist() == pytest.approx(ratio.tolist())
    prefill, decode = (rows[rows["phase"] == p] for p in ("prefill", "decode"))
    assert prefill["ttft_ms"].tolist() == prefill["measured_ms"].tolist()
    assert decode["tpot_ms"].tolist() == decode["measured_ms"].tolist()
    per_second = 1e3 * prefill["prompt_len"] / prefill["measured_ms"]
    assert prefill["tokens_per_s"].tolist() == pytest.approx(per_second.tolist())


def test_every_row_names_its_environment(bench, tmp_path):
    store = Store(tmp_path)
    [record] = measured(POINTS[:1], store, bench, quietly)
    env = store.envs()[store.records()[0].env]
    assert env["versions"]["torch"]
    assert env["threads"] >= 1
    assert record.run


def test_terminal_progress_passes_all_points_on():
    assert list(module.terminal_progress(POINTS)) == POINTS

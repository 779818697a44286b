"""The store on good days: what is appended is what is read, and what counts as done."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastlab
from fastlab.record import (
    BOUNDS,
    FLAGS,
    STATUSES,
    Effective,
    Estimate,
    Measurement,
    Quality,
    Record,
)
from fastlab.spec import Point
from fastlab.spec.checks import digest
from fastlab.sweeps.lines import seal, unseal
from fastlab.sweeps.store import Health, Store
from tests.sweeps.made import ENV, SHAPE, TIMING, fill, row, seeds

# ---- random records

words = st.text(max_size=40)
floats = st.floats(-1e299, 1e299)
seconds = st.floats(1e-300, 1e299)
whole = st.integers() | st.integers(-(2**300), 2**300)
samples = st.lists(whole, max_size=8).map(tuple) | st.builds(
    lambda n: tuple(range(n)), st.integers(499, 1200)
)
estimates = st.builds(
    *(Estimate, words, words, *[whole] * 10, seconds, floats, floats),
    st.sampled_from(BOUNDS),
)
measurements = st.builds(
    *(Measurement, seconds, floats, floats, whole, st.booleans(), words, words, whole),
    floats,
    st.lists(st.sampled_from(FLAGS)).map(tuple),
    *(samples, samples, samples, st.none() | whole),
)
json_values = st.recursive(
    st.none() | st.booleans() | whole | floats | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner),
    max_leaves=5,
)
records = st.builds(
    Record,
    st.builds(lambda seed: Point(SHAPE, weights=f"random:{seed}"), st.integers(0)),
    words,
    st.dictionaries(words, json_values, max_size=3),
    st.sampled_from(STATUSES),
    st.none() | estimates,
    st.none() | measurements,
    st.none() | st.builds(Quality, words, words, *[floats] * 6),
    st.none() | st.builds(Effective, words, words, whole, whole),
    *(words, words, words, whole, whole, words),
)
roomy = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def kept(record: Record) -> Record:
    """What the store keeps of a record: at most 500 samples of each kind."""
    measured = record.measured
    return replace(record, measured=measured.trimmed() if measured else None)


@roomy
@given(st.lists(records, min_size=1, max_size=4, unique_by=lambda r: r.key))
def test_a_store_gives_back_what_was_appended(rows):
    with tempfile.TemporaryDirectory() as folder:
        store = fill(Path(folder), rows)
        expected = [kept(replace(r, env=r.env or digest(ENV))) for r in rows]
        found = store.records()
        assert found == expected
        assert [r.to_dict() for r in found] == [r.to_dict() for r in expected]
        bare = {"device_ns": (), "e2e_ns": (), "enqueue_ns": ()}
        assert store.records(samples=False) == [
            replace(r, measured=r.measured and replace(r.measured, **bare))
            for r in expected
        ]
        poison = len({r.key for r in rows if r.status == "poison"})
        assert store.health() == Health(1, len(rows), 1, [], [], poison=poison)


def test_the_crc_is_that_of_the_canonical_line_without_it():
    # printf '{"a":1,"z":2}' | gzip -c | tail -c8 | od -An -tu4
    assert seal({"z": 2, "a": 1}) == '{"a":1,"crc32":2681279168,"z":2}'
    assert unseal('{"z": 2, "crc32": 2681279168, "a": 1}') == {"a": 1, "z": 2}
    with pytest.raises(ValueError, match="crc32 does not fit"):
        unseal('{"a":1,"crc32":2681279169,"z":2}')


# ---- files and environments


def test_a_file_is_named_after_its_writer_and_starts_with_its_env(tmp_path):
    store = fill(tmp_path / "new" / "store", [row(0), row(1)])
    (path,) = store.folder.glob("*.jsonl")
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    name = rf"\d{{8}}T\d{{6}}\.\d{{6}}Z-{re.escape(host)}-{os.getpid()}\.jsonl"
    assert re.fullmatch(name, path.name)
    first, *rest = [unseal(line) for line in path.read_text().splitlines()]
    assert first == {"schema": 1, "kind": "env", "env": digest(ENV), **ENV}
    assert [r["kind"] for r in rest] == ["record", "record"]
    assert store.envs() == {digest(ENV): ENV}


def test_each_writer_has_its_own_file_and_rows_keep_their_order(tmp_path):
    for some in ((5, 3), (4,), (), (1, 2)):
        store = fill(tmp_path, some)
    assert seeds(store) == [5, 3, 4, 1, 2]
    assert store.health() == Health(files=3, records=5, envs=3, bad=[], torn=[])
    assert len(store.envs()) == 1


def test_reading_a_missing_folder_gives_nothing_and_makes_nothing(tmp_path):
    store = Store(tmp_path / "none")
    assert (store.records(), store.seen("cpu", TIMING).done, store.envs()) == (
        [],
        set(),
        {},
    )
    assert store.health() == Health(0, 0, 0, [], [])
    assert not store.folder.exists()


# ---- what is refused


def test_a_path_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"must be a folder.*rows\.jsonl"):
        Store(path)
    assert path.read_text() == "mine"


def test_append_outside_begin_and_close_is_refused(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match=r"begin\(env\) must come before append"):
        store.append(row(0))
    store.begin(ENV).close()
    with pytest.raises(RuntimeError, match="begin"):
        store.append(row(1))


def test_what_json_refuses_is_stored_as_null_and_keeps_its_row(tmp_path):
    nan, ends = float("nan"), (float("inf"), 0.5)
    lost = Quality("", "", nan, 0.5, float("-inf"), None, *ends)
    timed = Measurement(nan, nan, nan, 3, True, "", "", 0, 1.0)
    pair = "half of a pair: \ud800"
    store = fill(
        tmp_path,
        [row(0, quality=lost), row(1, measured=timed), row(2, "error", reason=pair)],
    )
    first, second, third = store.records()
    assert first.quality == Quality("", "", None, 0.5, None, None, None, 0.5)
    assert (second.status, second.measured) == ("nonfinite", None)
    assert third.reason == r"half of a pair: \ud800"
    assert store.health() == Health(1, 3, 1, [], [])


def test_starts_are_counted_apart_and_number_attempts(tmp_path):
    store, one = Store(tmp_path), row(0)
    about = {
        "key": one.key,
        "settings_key": one.settings_key,
        "device": "cpu",
        "run": "",
    }
    with store.begin(ENV):
        store.start(**about, round=1, attempt=1)
        store.append(replace(row(0, "crash"), attempt=1))
        store.start(**about, round=1, attempt=2)
    assert store.health() == Health(1, 1, 1, [], [], starts=2, unfinished=1)
    seen = store.seen("cpu", TIMING)
    assert (seen.starts[one.key], seen.deaths[one.key]) == (2, 1)
    assert seen.status == {one.key: "crash"} and not seen.done
    assert store.seen("cuda", TIMING).starts == {}


def test_poison_is_final_in_every_round(tmp_path):
    store = fill(tmp_path, [row(0, "crash"), row(0, "poison"), row(1, "timeout")])
    for round in (1, 2):
        assert store.seen("cpu", TIMING, round).done == {row(0).key}
    assert [r.status for r in store.records()] == ["poison", "timeout"]


@pytest.mark.parametrize("name", ["schema", "kind", "env", "crc32"])
def test_an_env_cannot_overwrite_the_lines_own_fields(tmp_path, name):
    with pytest.raises(ValueError, match=f"env must not name {name}"):
        Store(tmp_path).begin({name: 1})
    Store(tmp_path).begin(ENV).close()


# ---- several rows of one key


@pytest.mark.parametrize(
    ("statuses", "winner"),
    [
        (["ok", "ok"], 2),
        (["ok", "error"], 1),
        (["ok", "oom"], 1),
        (["error", "ok"], 2),
        (["oom", "error"], 1),
        (["error", "oom", "error"], 2),
        (["oom", "unsupported"], 2),
        (["error", "error"], 2),
        (["nonfinite", "ok", "error"], 2),
    ],
)
def test_no_later_attempt_hides_a_result(tmp_path, statuses, winner):
    rows = [row(7, s, attempt=n) for n, s in enumerate(statuses, 1)]
    store = fill(tmp_path, [row(6), *rows, row(8)])
    found = [(r.point.seed, r.attempt) for r in store.records()]
    assert found == [(6, 1), (7, winner), (8, 1)]
    attempts = [r.attempt for r in store.attempts() if r.point.seed == 7]
    assert attempts == list(range(1, len(statuses) + 1))


def test_rounds_of_one_key_stay_apart(tmp_path):
    store = fill(tmp_path, [row(0, round=1), row(0, round=2), row(0, "oom", round=3)])
    assert [r.round for r in store.visits()] == [1, 2, 3]
    assert len(store.records()) == 1
    assert [len(store.seen("cpu", TIMING, n).done) for n in (1, 2, 3, 4)] == [
        1,
        1,
        1,
        0,
    ]


# ---- what is done


def test_done_counts_every_final_status(tmp_path):
    rows = [row(n, status) for n, status in enumerate(STATUSES)]
    done = fill(tmp_path, rows).seen("cpu", TIMING).done
    left = {r.status for r in rows if r.key not in done}
    assert left == {"error", "timeout", "crash"} and len(done) == 5


def test_done_is_of_one_device_and_one_setting(tmp_path):
    other = {"n_min": 10}
    rows = [row(0), row(1, device="cuda"), row(2, settings=other), row(3)]
    store = fill(tmp_path, rows)
    assert store.seen("cpu", TIMING).done == {rows[0].key, rows[3].key}
    assert store.seen("cuda", TIMING).done == {rows[1].key}
    assert store.seen("cpu", other).done == {rows[2].key}
    assert store.seen("cuda", other).done == set()
    turned = dict(reversed(TIMING.items()))
    assert store.seen("cpu", turned).done == store.seen("cpu", TIMING).done


def test_the_store_needs_neither_torch_nor_tables():
    code = "import sys, json, fastlab.sweeps.store; print(json.dumps([*sys.modules]))"
    root = str(Path(fastlab.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True
    ).stdout
    assert not {"torch", "pandas", "numpy"} & set(json.loads(out))

"""The store on good days: what is appended is what is read, and what counts as done."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    seal,
    unseal,
)
from fastlab.spec import FAMILIES, PRECISIONS, ModelShape, Point, Recipe, Workload
from fastlab.spec.checks import digest
from fastlab.spec.formats import FORMATS
from fastlab.sweeps.store import Health, Store

ENV = {"device": "cpu", "versions": {"torch": "2.13"}, "threads": 2, "command": "x"}
TIMING = {"n_min": 50, "cache": "cold"}
SHAPE = ModelShape.preset("tiny-gpt2")


def row(seed: int, status: str = "ok", **over: Any) -> Record:
    """The record of a tiny point whose key depends on `seed` only."""
    values: dict[str, Any] = {"device": "cpu", "settings": TIMING, "status": status}
    return Record(point=Point(SHAPE, weights=f"random:{seed}"), **(values | over))


def fill(folder: Path, rows: list[Record]) -> Store:
    """A closed store that one writer appended `rows` to."""
    store = Store(folder)
    with store.begin(ENV):
        for record in rows:
            store.append(record)
    return store


# ---- random records


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    family = draw(st.sampled_from(FAMILIES))
    kv_heads, groups = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    head_dim = 2 * draw(st.integers(1, 64))
    over: dict[str, Any] = {
        "max_positions": 2**31,
        "vocab": draw(st.integers(1, 2**31)),
    }
    if family in ("llama", "qwen3"):
        over |= {"kv_heads": kv_heads, "tied": draw(st.booleans())}
    heads = kv_heads * groups
    over |= {"heads": heads, "head_dim": head_dim, "ffn": draw(st.integers(1, 2**31))}
    layers = draw(st.integers(1, 1024))
    return ModelShape(family, layers, heads * head_dim, **over)


@st.composite
def points(draw: st.DrawFn) -> Point:
    shape = draw(shapes())
    decodes = shape.family != "bert"
    phases = ("prefill", "decode", "generate") if decodes else ("prefill",)
    phase = draw(st.sampled_from(phases))
    logits = draw(st.sampled_from(("all", "last") if decodes else ("all",)))
    counts = st.integers(1, 2**30)
    more = {"new_tokens": draw(counts)} if phase == "generate" else {}
    work = Workload(phase, draw(counts), draw(counts), logits=logits, **more)
    caches = ("dynamic", "none") if decodes else ("none",)
    # Groups of int4 that do not divide a made-up width are refused, rightly.
    free = [name for name in PRECISIONS if not FORMATS[name].group]
    recipe = Recipe(
        draw(st.sampled_from(free)),
        draw(st.sampled_from(("sdpa", "eager"))),
        draw(st.sampled_from(caches)),
    )
    return Point(shape, work, recipe, f"random:{draw(st.integers(0, 10**30))}")


words = st.text(max_size=40)
floats = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers() | st.integers(-(2**300), 2**300)
samples = st.lists(whole, max_size=8).map(tuple) | st.builds(
    lambda n: tuple(range(n)), st.integers(499, 1200)
)
estimates = st.builds(
    Estimate,
    words,
    words,
    *[whole] * 10,
    floats,
    floats,
    floats,
    st.sampled_from(BOUNDS),
)
measurements = st.builds(
    Measurement,
    floats,
    floats,
    floats,
    whole,
    st.booleans(),
    words,
    words,
    whole,
    floats,
    st.lists(st.sampled_from(FLAGS)).map(tuple),
    samples,
    samples,
    samples,
    st.none() | whole,
)
json_values = st.recursive(
    st.none() | st.booleans() | whole | floats | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner),
    max_leaves=5,
)
records = st.builds(
    Record,
    points(),
    words,
    st.dictionaries(words, json_values, max_size=3),
    st.sampled_from(STATUSES),
    st.none() | estimates,
    st.none() | measurements,
    st.none() | st.builds(Quality, words, words, *[floats] * 6),
    st.none() | st.builds(Effective, words, words, whole, whole),
    words,
    words,
    words,
    whole,
    whole,
    words,
)
roomy = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def kept(record: Record) -> Record:
    """What the store keeps of a record: at most 500 samples of each kind."""
    measured = record.measured
    return replace(record, measured=measured.trimmed() if measured else None)


@roomy
@given(records)
def test_a_sealed_record_unseals_to_itself(record: Record) -> None:
    line = seal(record.to_dict())
    assert "\n" not in line
    assert Record.from_dict(unseal(line)) == kept(record)
    assert Record.from_dict(unseal(line)).to_dict() == record.to_dict()


@roomy
@given(records)
def test_unsealing_without_samples_leaves_out_nothing_else(record: Record) -> None:
    line = seal(record.to_dict())
    data = unseal(line)
    if data["measured"]:
        data["measured"] |= {"device_ns": [], "e2e_ns": [], "enqueue_ns": []}
    assert unseal(line, samples=False) == data


@roomy
@given(st.lists(records, min_size=1, max_size=4, unique_by=lambda r: r.key))
def test_a_store_gives_back_what_was_appended(rows: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = fill(Path(folder), rows)
        expected = [kept(replace(r, env=r.env or digest(ENV))) for r in rows]
        assert store.records() == expected
        assert store.health() == Health(1, len(rows), 1, [], [])


def test_the_crc_is_that_of_the_canonical_line_without_it() -> None:
    # printf '{"a":1,"z":2}' | gzip -c | tail -c8 | od -An -tu4
    assert seal({"z": 2, "a": 1}) == '{"a":1,"crc32":2681279168,"z":2}'
    assert unseal('{"z": 2, "crc32": 2681279168, "a": 1}') == {"a": 1, "z": 2}
    with pytest.raises(ValueError, match="crc32 does not fit"):
        unseal('{"a":1,"crc32":2681279169,"z":2}')


# ---- files and environments


def test_a_file_is_named_after_its_writer_and_starts_with_its_env(
    tmp_path: Path,
) -> None:
    store = fill(tmp_path / "new" / "store", [row(0), row(1)])
    (path,) = store.folder.glob("*.jsonl")
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    name = rf"\d{{8}}T\d{{6}}\.\d{{6}}Z-{re.escape(host)}-{os.getpid()}\.jsonl"
    assert re.fullmatch(name, path.name)
    first, *rest = [unseal(line) for line in path.read_text().splitlines()]
    assert first == {"schema": 1, "kind": "env", "env": digest(ENV), **ENV}
    assert [r["kind"] for r in rest] == ["record", "record"]
    assert store.envs() == {digest(ENV): ENV}


def test_each_writer_has_its_own_file_and_rows_keep_their_order(tmp_path: Path) -> None:
    for seeds in ((5, 3), (4,), (1, 2)):
        store = fill(tmp_path, [row(s) for s in seeds])
    assert [r.point.seed for r in store.records()] == [5, 3, 4, 1, 2]
    assert store.health() == Health(files=3, records=5, envs=3, bad=[], torn=[])
    assert len(store.envs()) == 1


def test_a_record_that_names_its_own_env_keeps_it(tmp_path: Path) -> None:
    store = fill(tmp_path, [row(0), row(1, env="elsewhere")])
    assert [r.env for r in store.records()] == [digest(ENV), "elsewhere"]


def test_reading_a_missing_folder_gives_nothing_and_makes_nothing(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "none")
    assert (store.records(), store.done("cpu", TIMING), store.envs()) == ([], set(), {})
    assert store.health() == Health(0, 0, 0, [], [])
    assert not store.folder.exists()


def test_a_writer_that_appends_nothing_leaves_no_file(tmp_path: Path) -> None:
    assert fill(tmp_path, []).health().files == 0


# ---- what is refused


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"must be a folder.*rows\.jsonl"):
        Store(path)
    assert path.read_text() == "mine"


def test_append_outside_begin_and_close_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match=r"begin\(env\) must come before append"):
        store.append(row(0))
    fill(tmp_path, [row(0)])
    store.begin(ENV).close()
    with pytest.raises(RuntimeError, match="begin"):
        store.append(row(1))
    assert len(store.records()) == 1


def test_nan_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.begin(ENV):
        with pytest.raises(ValueError, match="JSON compliant"):
            store.append(
                row(0, settings={}, quality=Quality("", "", *[float("nan")] * 6))
            )
        store.append(row(1))
    assert [r.point.seed for r in store.records()] == [1]
    assert store.health() == Health(1, 1, 1, [], [])


@pytest.mark.parametrize("name", ["schema", "kind", "env", "crc32"])
def test_an_env_cannot_overwrite_the_lines_own_fields(
    tmp_path: Path, name: str
) -> None:
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
def test_no_later_attempt_hides_a_result(
    tmp_path: Path, statuses: list[str], winner: int
) -> None:
    rows = [row(7, s, attempt=n) for n, s in enumerate(statuses, 1)]
    store = fill(tmp_path, [row(6), *rows, row(8)])
    assert [(r.point.seed, r.attempt) for r in store.records()] == [
        (6, 1),
        (7, winner),
        (8, 1),
    ]
    assert [r.attempt for r in store.attempts() if r.point.seed == 7] == list(
        range(1, len(statuses) + 1)
    )


def test_rounds_of_one_key_stay_apart(tmp_path: Path) -> None:
    store = fill(tmp_path, [row(0, round=1), row(0, round=2), row(0, "oom", round=3)])
    assert [r.round for r in store.visits()] == [1, 2, 3]
    assert len(store.records()) == 1
    assert [len(store.done("cpu", TIMING, n)) for n in (1, 2, 3, 4)] == [1, 1, 1, 0]


# ---- what is done


def test_done_counts_every_status_but_error(tmp_path: Path) -> None:
    rows = [row(n, status) for n, status in enumerate(STATUSES)]
    done = fill(tmp_path, rows).done("cpu", TIMING)
    assert done == {r.key for r in rows if r.status != "error"}
    assert len(done) == 4


def test_done_is_of_one_device_and_one_setting(tmp_path: Path) -> None:
    other = {"n_min": 10}
    rows = [row(0), row(1, device="cuda"), row(2, settings=other), row(3)]
    store = fill(tmp_path, rows)
    assert store.done("cpu", TIMING) == {rows[0].key, rows[3].key}
    assert store.done("cuda", TIMING) == {rows[1].key}
    assert store.done("cpu", other) == {rows[2].key}
    assert store.done("cuda", other) == set()


def test_the_order_of_settings_does_not_matter(tmp_path: Path) -> None:
    turned = dict(reversed(TIMING.items()))
    assert len(fill(tmp_path, [row(0)]).done("cpu", turned)) == 1


def test_resume_is_a_set_difference(tmp_path: Path) -> None:
    plan = [row(n) for n in range(6)]
    store = fill(tmp_path, [plan[0], replace(plan[1], status="error"), plan[4]])
    done = store.done("cpu", TIMING)
    left = [r for r in plan if r.key not in done]
    assert [r.point.seed for r in left] == [1, 2, 3, 5]
    fill(tmp_path, left)
    assert store.done("cpu", TIMING) == {r.key for r in plan}
    assert [r.point.seed for r in store.records()] == [0, 4, 1, 2, 3, 5]


# ---- weight


def test_records_without_samples_keep_all_else(tmp_path: Path) -> None:
    ns = tuple(range(9))
    measured = Measurement(
        1.0, 0.9, 1.1, 9, True, "n_max", "cold", 5, 2.0, ("noisy",), ns, ns, ns, 7
    )
    store = fill(tmp_path, [row(0, measured=measured)])
    bare = replace(measured, device_ns=(), e2e_ns=(), enqueue_ns=())
    assert store.records()[0].measured == measured
    assert store.records(samples=False)[0].measured == bare


def test_ten_thousand_rows_are_scanned_in_no_minutes(tmp_path: Path) -> None:
    ns = tuple(range(10**6, 10**6 + 50))
    measured = Measurement(
        1.0, 0.9, 1.1, 50, True, "n_max", "cold", 5, 2.0, (), ns, ns, ns, 7
    )
    data = row(0, measured=measured).to_dict()
    lines = (seal(data | {"key": f"{n:064x}"}) + "\n" for n in range(10_000))
    (tmp_path / "a.jsonl").write_text("".join(lines))
    started = time.process_time()
    done = Store(tmp_path).done("cpu", TIMING)
    cpu_s = time.process_time() - started
    assert len(done) == 10_000
    assert cpu_s < 30  # 0.16 s on a virtual core, see benchmarks/overheads.py


def test_the_store_needs_neither_torch_nor_tables() -> None:
    code = "import sys, json, fastlab.sweeps.store; print(json.dumps([*sys.modules]))"
    root = str(Path(fastlab.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True
    ).stdout
    assert not {"torch", "pandas", "numpy"} & set(json.loads(out))

"""Large stores and several: the index, merge, shards, hosts, tables as files."""

import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab import machine, record
from fastlab.record import STATUSES, Measurement, Record
from fastlab.rows import COLUMNS, table
from fastlab.spec import grid
from fastlab.spec.grids import FLAT, flat
from fastlab.sweeps import keeping, lines
from fastlab.sweeps.files import read_sweep
from fastlab.sweeps.keeping import check_host, merge, shard_of, write_table
from fastlab.sweeps.lines import seal
from fastlab.sweeps.reference import references
from fastlab.sweeps.rounds import pooled
from fastlab.sweeps.store import FINAL, Store
from tests.sweeps.made import ENV, fill, row

MEASURED = Measurement(2.0, 1.0, 3.0, 50, True, "", "", 0, 1.0)


def naive_visits(store):
    """The rows that count, from every row read whole and no index."""
    best = {}
    for one in store.attempts(samples=False):
        rank = (one.status == "ok") + (one.status in FINAL)
        name = (one.key, one.round)
        if name not in best or rank >= best[name][0]:
            best.pop(name, None)
            best[name] = (rank, one)
    return [one for _, one in best.values()]


def agrees(store):
    """Visits, records, table and rows of some keys, with an index and without."""
    visits, by_key = naive_visits(store), {}
    for one in visits:
        by_key.setdefault(one.key, []).append(one)
    records = [pooled(rows) for rows in by_key.values()]
    assert store.visits(samples=False) == visits
    assert store.records(samples=False) == records
    assert store.records(False, keys=[*by_key][::2]) == records[::2]
    return records


attempts = st.lists(
    st.builds(
        lambda seed, status, round, n: row(
            seed, status, round=round, attempt=n, measured=MEASURED
        ),
        *(st.integers(0, 3), st.sampled_from(STATUSES), st.integers(1, 3)),
        st.integers(1, 9),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(attempts, min_size=1, max_size=4))
def test_an_index_that_grows_says_what_the_lines_say(batches):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "WORTH", 1)
        for rows in batches:
            store = fill(Path(name), rows)
            agrees(store)
        store = fill(Path(name), [8])
        with sorted(Path(name).glob("*.jsonl"))[-1].open("ab") as file:
            file.write(seal(row(9).to_dict()).encode() + b'\n{"torn')
        agrees(store)
        assert (Path(name) / ".index.json").exists()
        assert row(9).key in store.seen("cpu", row(9).settings).done


@pytest.mark.parametrize("damage", ["other", "cut", "gone", "junk", "changed", "link"])
def test_a_stale_index_is_made_anew(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(lines, "WORTH", 1)
    store = fill(tmp_path, range(5))
    store.records()
    (path,), index = lines.store_files(tmp_path), tmp_path / ".index.json"
    text = path.read_bytes()
    other = fill(tmp_path / "other", range(10, 15))
    replaced = lines.store_files(other.folder)[0].read_bytes()
    if damage == "other":
        path.write_bytes(replaced + text)
    elif damage == "cut":
        path.write_bytes(text[: len(text) // 2])
    elif damage == "gone":
        path.rename(tmp_path / "renamed.jsonl")
    elif damage == "changed":  # as long as before
        path.write_bytes(text.replace(b'"ok"', b'"no"'))
        os.utime(path, ns=(1, 1))
    elif damage == "junk":
        index.write_text('{"x": [1]}')
    else:
        index.unlink()
        index.symlink_to(tmp_path / "elsewhere")
    agrees(store)
    assert not (tmp_path / "elsewhere").exists()
    if damage == "changed":
        assert len(store.health().bad) == 5


def test_a_small_store_needs_no_index(tmp_path):
    fill(tmp_path, range(5)).records()
    assert not (tmp_path / ".index.json").exists()


def test_each_column_is_what_its_record_says():
    for reference in references():
        records = reference.records
        made = table(records, Store(reference.folder).envs())
        assert [*made] == [*COLUMNS] and {*made["host"]} == {"vm"}
        for (_, said), r in zip(made.iterrows(), records, strict=True):
            e, m, work = r.estimate, r.measured, r.point.workload
            assert said[[*FLAT]].to_dict() == pytest.approx(dict_of(r), nan_ok=True)
            assert said["estimated_ms"] == e.seconds * 1e3 and said["bound"] == e.bound
            assert said["kv_cache_bytes"] == e.kv_cache_bytes
            if m:
                tokens = work.batch * (work.new_tokens or work.prompt_len)
                assert said["ratio"] == m.seconds / e.seconds and said["n"] == m.n
                assert said["tokens_per_s"] == pytest.approx(tokens / m.seconds)
                assert m.peak_bytes is None or said["peak_gb"] == m.peak_bytes / 1e9
                assert said["ttft_ms"] == m.seconds * 1e3 or work.phase != "prefill"
            if r.quality:
                assert said["kl_nats"] == r.quality.kl_nats


def dict_of(record):
    """Numbers of a point as the floats that they are beside missing ones."""
    return {
        n: np.nan if v is None else v
        for n, v in flat(record.point).items()
        if n in FLAT
    }


ODD = (None, True, 0, 0.5, -1, 10**400, 1e301, float("nan"), "x", [], [1], ["x"], {})


def test_a_line_read_at_once_is_as_one_that_was_looked_at(monkeypatch):
    """Each field of each part takes each odd value; both ways take it or refuse it."""
    real = next(r for r in references()[0].records if r.measured and r.quality)
    whole = json.loads(json.dumps(real.to_dict()))
    rows = [whole]
    for part, odd in product([None, *record.PARTS], ODD):
        own = whole if part is None else whole[part]
        for name in {*own} - {"point", "key", *record.PARTS}:
            changed = own | {name: odd}
            rows.append(changed if part is None else whole | {part: changed})
        rows.append(whole | {part: odd} if part else whole)
    at_once = [taken(line) for line in rows]
    monkeypatch.setattr(record, "_plain", lambda *_: ((), ()))
    assert at_once == [taken(line) for line in rows]
    assert None in at_once and at_once.count(None) < len(rows)


def taken(line):
    """What a line is read as, None where it is refused."""
    try:
        return repr(Record.from_dict(line))
    except lines.NO_ROW:
        return None


def test_merged_stores_have_each_row_once_and_say_what_conflicts(tmp_path):
    a, b = fill(tmp_path / "a", [1, 2, 3]), fill(tmp_path / "b", [row(3, "oom"), 4])
    into = Store(tmp_path / "c")
    found = merge([a, b], into)
    assert (found.rows, len(found.conflicts), found.bad) == (5, 1, [])
    assert row(3).key[:12] in found.conflicts[0]
    assert sorted(r.status for r in into.records()) == ["ok"] * 4  # no oom hides it
    assert [*into.envs()] == [*a.envs()] and len(into.health().bad) == 0
    assert merge([a, b, into], into).rows == 0  # again, it copies nothing
    fill(tmp_path / "b", [5])
    assert merge([a, b], into).rows == 1
    health = into.health()
    assert (health.records, health.doubled) == (6, 1)  # both of seed 3: one attempt


def test_files_of_one_name_and_damaged_lines(tmp_path):
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        text = seal(row(seed).to_dict()) + "\ngarbage\n" + '{"torn'
        (tmp_path / folder / "x.jsonl").write_text(text)
    into = Store(tmp_path / "c")
    found = merge([Store(tmp_path / "a"), Store(tmp_path / "b")], into)
    assert [(Path(b.file).parent.name, b.line) for b in found.bad] == [
        ("a", 2),
        ("b", 2),
    ]
    assert {p.name for p in into.folder.glob("*.jsonl")} == {"x.jsonl", "x-2.jsonl"}
    assert len(into.records()) == 2 and into.health().bad == []


def hosted(folder, host, seeds, **over):
    store = Store(folder)
    with store.begin(ENV | {"host": host}):
        for seed in seeds:
            store.append(row(seed, measured=MEASURED, **over))
    return store


def test_hosts_are_not_mixed_without_a_word(tmp_path, monkeypatch):
    a, b = hosted(tmp_path / "a", "one", [1]), hosted(tmp_path / "b", "two", [2])
    with pytest.raises(ValueError, match=r"cpu would be of hosts one, two, .*--mix"):
        merge([a, b], Store(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    into = Store(tmp_path / "c")
    merge([a, b], into, mix_hosts=True)
    assert [*table(into.records(), into.envs())["host"]] == ["one", "two"]
    monkeypatch.setattr(keeping, "host", lambda: {"host": "two", "boot": ""})
    check_host(b, mix=False)
    check_host(a, mix=True)
    with pytest.raises(ValueError, match="hosts one, two"):
        check_host(a, mix=False)


@pytest.mark.skipif(sys.platform != "linux", reason="a boot id")
def test_a_container_that_starts_under_another_name_is_the_same_host(
    tmp_path, monkeypatch
):
    """Its machine's boot tells; without one its name is all that is known."""
    store = Store(tmp_path)
    names = ["first"]
    monkeypatch.setattr(machine.socket, "gethostname", lambda: names[-1])
    with store.begin(ENV | machine.host()):
        store.append(row(1))
    names.append("second")
    check_host(store, mix=False)
    monkeypatch.setattr(machine, "digest", lambda _: "of another boot")
    with pytest.raises(ValueError, match="hosts first, second"):
        check_host(store, mix=False)


def test_a_row_is_of_the_host_that_visited_most(tmp_path):
    for host, rounds, seconds in (("one", (1, 2), 2.0), ("two", (3,), 9.0)):
        for round in rounds:
            took = replace(MEASURED, seconds=seconds)
            with Store(tmp_path).begin(ENV | {"host": host}) as store:
                store.append(row(1, measured=took, round=round))
    (made,) = Store(tmp_path).records()
    assert (made.measured.seconds, made.measured.n) == (2.0, 100)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9))
def test_every_point_is_in_one_shard(n):
    points = grid(model="tiny-gpt2", prompt_len=range(1, 41))
    shards = [shard_of(points, f"{i}/{n}") for i in range(1, n + 1)]
    assert Counter(p for shard in shards for p in shard) == Counter(points)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_no_share(shard):
    with pytest.raises(ValueError, match=r"must be i/n, i from 1 to n"):
        shard_of([], shard)


def test_a_sweep_file_in_shards(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("grids: [{model: tiny-gpt2, prompt_len: [1, 2, 3, 4, 5, 6]}]")
    both = [read_sweep(path, f"{i}/2").points for i in (1, 2)]
    assert sorted(map(len, both)) == [3, 3]  # by sha256, the same on every machine


def test_a_table_as_csv_is_safe_in_a_spreadsheet_and_replaces_a_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "t.csv").symlink_to(mine)
    words = ["=cmd|'/c calc'!A0", "+1", "-1", "@x", "plain", "é", "a=b"]
    rows = pd.DataFrame({"reason": words, "ratio": -1.5, "tied": [True] * 6 + [np.nan]})
    write_table(rows, tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv", dtype={"reason": str})
    assert [*read["reason"]] == [
        *(f"'{word}" for word in words[:4]),
        *("plain", "é", "a=b"),
    ]
    assert {*read["ratio"]} == {-1.5} and mine.read_text() == "mine"
    assert not (tmp_path / "t.csv").is_symlink()
    assert [p.name for p in tmp_path.glob("*.tmp")] == []


def test_parquet_is_refused_in_words_where_it_cannot_be_written(monkeypatch):
    monkeypatch.setattr(keeping, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="needs pyarrow: pip install pyarrow"):
        keeping.check_format("parquet")
    with pytest.raises(ValueError, match="to='xml' is not one of csv, parquet"):
        keeping.check_format("xml")


def test_parquet_and_csv_say_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    rows = table(references()[0].records)
    write_table(rows, tmp_path / "r.parquet", "parquet")
    read = pd.read_parquet(tmp_path / "r.parquet")
    assert [*read.columns] == [*COLUMNS] and len(read) == len(rows)
    assert read["measured_ms"].equals(rows["measured_ms"])


# ---- links


def test_no_link_out_of_a_store_is_followed(tmp_path):
    store = fill(tmp_path / "store", [1])
    outside = tmp_path / "outside.jsonl"
    outside.write_text(seal(row(2).to_dict()) + "\ntail")
    (store.folder / "in.jsonl").symlink_to(lines.store_files(store.folder)[0])
    (store.folder / "out.jsonl").symlink_to(outside)
    assert {r.point.seed for r in store.records()} == {1}
    (bad,) = store.health().bad
    assert (bad.file, bad.line) == ("out.jsonl", 0) and "not followed" in bad.why
    fill(store.folder, [3])
    assert outside.read_text().endswith("\ntail")  # no tail of it was set aside


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_that_is_none_is_said_in_words(tmp_path, kind):
    (tmp_path / "mine").write_text("mine")
    lock = tmp_path / ".lock"
    lock.mkdir() if kind == "folder" else lock.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"plain file: remove it.*\.lock"):
        Store(tmp_path).begin(ENV)
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_index_cannot_claim_what_no_line_says(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "WORTH", 1)
    store = fill(tmp_path, [1, 2])
    store.records()
    index = tmp_path / ".index.json"
    data = json.loads(index.read_text())
    (file,) = data.values()
    file["lines"][1][0] = file["lines"][2][0]  # the place of another row
    index.write_text(json.dumps(data))
    bad = []
    assert [r.point.seed for r in store.each(bad=bad)] == [2]
    assert "does not fit the line" in bad[0].why

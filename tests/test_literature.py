"""Published figures: each a point, a time, a device that is known, and its source."""

import json
import re

import pandas as pd
import pytest
from click.testing import CliRunner

import fastlab as fl
from fastlab.cli import main
from fastlab.literature import FILE, measured_in, published
from fastlab.rows import COLUMNS, points_of

ROWS = published()
HEAD = "family,layers,hidden,phase,batch,prompt_len,new_tokens,device,precision,"
HEAD += "model,software,value,unit,source,page,date,verified\n"
LINE = "llama,2,64,{},4,128,{},NVIDIA H100 80GB HBM3,bf16,m,s,{},{},u,p,"
LINE += "2025-01-01,2026-01-01 at c\n"


def test_every_row_is_a_point_with_a_time_and_a_source():
    points = points_of(ROWS)
    assert len(points) == len(ROWS) >= 100
    assert ROWS["source"].str.startswith("https://").all() and ROWS["page"].all()
    dated = [ROWS["date"], ROWS["verified"].str[:10]]
    assert pd.concat(dated).map(re.compile(r"20\d\d-\d\d-\d\d").fullmatch).all()
    assert ROWS["verified"].str.contains(" at ").all()
    assert set(ROWS["device"]) <= {device.name for device in fl.devices()}
    assert (ROWS["status"] == "published").all()
    assert not ROWS.astype(str).duplicated().any()
    assert [*ROWS][: len(COLUMNS)] == [*COLUMNS]


def test_there_are_many_gpus_phases_and_precisions():
    assert ROWS["device"].nunique() >= 12
    assert set(ROWS["phase"]) == {"prefill", "decode", "generate"}
    assert {"fp32", "tf32", "fp16", "bf16", "int8", "int4-g32"} < set(ROWS["precision"])


# gpt-fast prints 93.89 tokens/s: 10.65 ms a token. FasterTransformer 384.70 ms. Of
# 1,024 prompt tokens llama.cpp reads 4,239.64 a second on a 3090: 241.5 ms.
@pytest.mark.parametrize(
    ("software", "model", "device", "phase", "ms"),
    [
        ("gpt-fast", "llama-3-8b", "NVIDIA A100-SXM4-80GB", "decode", 10.6508),
        ("FasterTransformer", "gpt-6.7b", "NVIDIA A100-SXM4-80GB", "generate", 384.7),
        ("llama.cpp", "llama-3-8b", "NVIDIA GeForce RTX 3090", "prefill", 241.530),
    ],
)
def test_a_figure_in_milliseconds(software, model, device, phase, ms):
    asked = {"software": software, "model": model, "device": device, "phase": phase}
    found = ROWS[(ROWS[[*asked]] == pd.Series(asked)).all(axis=1)]
    assert found["measured_ms"].iloc[0] == pytest.approx(ms, rel=1e-5)


# 4 sequences: 128 prompt tokens or 32 new ones each.
@pytest.mark.parametrize(
    ("phase", "new", "value", "unit", "ms"),
    [
        ("prefill", "", 512, "tokens/s", 1000),
        ("decode", "", 512, "tokens/s", 1000 / 128),
        ("generate", 32, 512, "tokens/s", 250),
        ("generate", 32, 2.5, "s", 2500),
    ],
)
def test_units(tmp_path, phase, new, value, unit, ms):
    (file := tmp_path / "p.csv").write_text(HEAD + LINE.format(phase, new, value, unit))
    assert published(file)["measured_ms"].tolist() == pytest.approx([ms])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("s,5,ms", "s,0,ms", "p.csv line 2: value=0 must be a finite number > 0"),
        ("s,5,ms", "s,x,ms", "p.csv line 2: value='x' must be a finite number > 0"),
        ("5,ms", "5,min", "p.csv line 2: unit='min' is not one of ms, s"),
        ("HBM3", "HBM", "p.csv line 2: device='NVIDIA H100 80GB HBM' is not one of"),
        ("bf16", "bf61", "p.csv line 2: precision='bf61' is not one of"),
        (",64,", ",6four,", "p.csv line 2: hidden='6four' must be a whole number"),
        (",u,p,", ",,p,", "p.csv line 2: column source must not be empty"),
        ("software,", "", "p.csv lacks the columns software"),
        ("at c\n", "at c,1\n", "p.csv line 2: more cells than columns"),
    ],
)
def test_bad_lines_are_named(tmp_path, old, new, said):
    good = HEAD + LINE.format("prefill", "", 5, "ms")
    (file := tmp_path / "p.csv").write_text(good.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(said)):
        published(file)


def test_they_are_estimated_like_other_rows():
    rows = ROWS[ROWS["device"] == "NVIDIA H100 80GB HBM3"]
    made = fl.estimated(rows, fl.device("h100"))
    assert made["ratio"].between(0.2, 6).all()


def test_the_file_is_small():
    assert FILE.stat().st_size < 100_000


# One's own rows


def test_own_rows_from_a_table_and_from_json_lines(tmp_path):
    point = fl.grid(model="tiny-llama", phase="decode", precision="bf16")[0]
    made = fl.estimated([point], fl.device("h100")).assign(device="h100")
    made = pd.concat([made, made.assign(measured_ms=2.5)])
    made.to_csv(file := tmp_path / "table.csv", index=False)
    assert measured_in(file) == [(point, 2.5e-3, "h100")]
    record = {"point": point.to_dict(), "device": "h100", "status": "ok"}
    record |= {"run": "", "attempt": 1, "round": 1, "at_utc": "", "reason": ""}
    record |= {"key": "", "settings_key": "", "env": "", "settings": {}}
    times = {"seconds": 0.25, "low_s": 0.2, "high_s": 0.3, "n": 9, "converged": True}
    times |= {"stopped": "budget", "cache": "warm", "warmup_calls": 1}
    record |= {"measured": times | {"first_call_s": 1.0}}
    lines = [{"kind": "env"}, record, record | {"measured": None}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert measured_in(file) == [(point, 0.25, "h100")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "own.csv lacks the columns device, measured_ms"),
        (b"layers,hidden\n1,64\n", "own.csv lacks the columns device, measured_ms"),
        (b"device,measured_ms\nh100,\n", "own.csv: no row has a measured time"),
        (
            b"device,layers,hidden,measured_ms\nh100,1,64,-3\n",
            "own.csv line 2: measured_ms=-3 must be a finite number > 0",
        ),
        (b"\x80\x81", "own.csv lacks the columns device, measured_ms"),
        (b'{"kind": "record"', "own.csv has a line that is no record: "),
        (b'{"kind": "record"}', "own.csv has a line that is no record: "),
    ],
)
def test_files_that_are_none_are_named(tmp_path, text, said):
    (file := tmp_path / "own.csv").write_bytes(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        measured_in(file)


def test_devices_says_what_own_rows_moved(tmp_path):
    """Two rows twice as slow: by 2 ** (2 / 4) = 1.41, as two more would say nothing."""
    points = fl.grid(model="tiny-llama", phase="decode", batch=[1, 8], precision="bf16")
    rows = fl.estimated(points, fl.device("h100")).assign(device="h100")
    rows = rows.assign(measured_ms=2 * rows["estimated_ms"])
    rows.to_csv(file := tmp_path / "own.csv", index=False)
    asked = ["devices", "--model", "tiny-llama"]
    done = CliRunner().invoke(main, [*asked, "--mine", str(file)])
    assert done.exit_code == 0, done.output
    assert "your 2 rows moved decode by ×1.41 (2 rows)" in done.output
    assert "prefill by" not in done.output
    served = CliRunner().invoke(main, [*asked, "--engine", "vlm"])
    assert served.exit_code == 2 and "did you mean vllm?" in served.output
    rows.assign(device="cpu").to_csv(file, index=False)
    for wrong in (str(file), str(tmp_path / "none.csv")):
        done = CliRunner().invoke(main, [*asked, "--mine", wrong])
        assert done.exit_code == 2
        assert len(done.output.strip().splitlines()) <= 4  # usage, and one line

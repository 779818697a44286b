"""Figures somebody worked out, and traps for a sparse figure sneaking in."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlab.latency import devices as module
from fastlab.latency.devices import (
    KINDS,
    PRECISIONS,
    Device,
    datasheet_row,
    device,
    devices,
)

CSV = Path(__file__).parents[2] / "data" / "devices.csv"
ROWS = list(csv.DictReader(CSV.open(newline="")))
ALL = devices()
H200 = datasheet_row("h200")

# Tensor-core parts whose rates double from tf32 to fp16, and from fp16 to fp8.
# B200 prints rounded petaFLOP/s and L40S an odd 362.05 | 733, hence 3 %.
DOUBLING = 0.03


def changed(**over: object) -> dict:
    return H200.to_dict() | over


# Dense TFLOP/s, as a person reads them off the datasheets.
@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("a100", {"fp32": 19.5, "tf32": 156, "bf16": 312, "int8": 624}),
        ("a100-40gb-pcie", {"bf16": 312}),
        ("a10", {"bf16": 125}),
        ("t4", {"fp16": 65}),
        ("l4", {"bf16": 121}),
        ("l40s", {"bf16": 362.05}),
        # 1979 and 3958 are with sparsity
        ("h100", {"bf16": 989.4, "fp8": 1978.9, "tf32": 494.7}),
        ("h100-pcie", {"bf16": 756.5}),  # 1513 is with sparsity
        ("h200", {"bf16": 989.4}),
        ("b200", {"bf16": 2250}),
        ("3090", {"fp16": 71.2}),  # fp32 accumulate; 142 is with fp16 accumulate
        ("4090", {"fp16": 165.2}),  # 330.3 is with fp16 accumulate
        ("5090", {"bf16": 209.5}),  # 419 is with sparsity
        ("mi300x", {"bf16": 1307.4}),
        ("v5e", {"bf16": 197}),
        ("v5p", {"bf16": 459}),
    ],
)
def test_dense_peaks(name, peaks):
    found = {precision: device(name).peak(precision) / 1e12 for precision in peaks}
    assert found == pytest.approx(peaks, rel=1e-12)


def test_bandwidth_and_memory():
    known = {"a100-40gb": (1.555e12, 40), "a100-80gb": (2.039e12, 80)}
    known |= {"h100": (3.35e12, 80), "h200": (4.8e12, 141), "b200": (7.7e12, 180)}
    known |= {"4090": (1.008e12, 24), "5090": (1.792e12, 32), "m1": (68.25e9, 16)}
    for name, (bandwidth, gib) in known.items():
        assert device(name).bandwidth == bandwidth
        assert device(name).memory_bytes == gib * 2**30


@pytest.mark.parametrize(
    ("name", "ridge"),
    # H200: 989.4e12 / 4.8e12; H100: scaling-book's 298 uses 1e15; v5e: its 240
    [("h200", 206), ("h100", 295), ("a100", 153), ("v5e", 240), ("4090", 164)],
)
def test_ridge_point(name, ridge):
    assert device(name).ridge("bf16") == pytest.approx(ridge, abs=1)


def test_what_a_device_cannot_do():
    with pytest.raises(ValueError, match=r"T4 has no bf16 peak; it has fp32, fp16, in"):
        device("t4").peak("bf16")
    lacks = ("t4", "tf32"), ("a100", "fp8"), ("m1", "int8"), ("v5e", "fp16")
    assert not any(precision in device(name).peak_flops for name, precision in lacks)


@pytest.mark.parametrize("made", ALL, ids=lambda d: d.name)
def test_no_figure_is_sparse_or_of_half_rate(made):
    """fp8 and int8 are twice fp16, fp16 is twice tf32 and equals bf16."""
    if "fp8" in made.peak_flops:
        ratio = made.peak("fp8") / made.peak("fp16")
        assert ratio == pytest.approx(2, rel=DOUBLING)
    if "int8" in made.peak_flops and "fp16" in made.peak_flops:
        # GeForce halves fp16 with fp32 accumulate, never int8
        expected = 4 if "GeForce" in made.name else 2
        ratio = made.peak("int8") / made.peak("fp16")
        assert ratio == pytest.approx(expected, rel=DOUBLING)
    if "tf32" in made.peak_flops:
        ratio = made.peak("fp16") / made.peak("tf32")
        assert ratio == pytest.approx(2, rel=DOUBLING)
    if {"fp16", "bf16"} <= set(made.peak_flops):
        assert made.peak("fp16") == made.peak("bf16")


# An independent way to the same figures: SMs x boost clock x FLOP per cycle and SM.
# fp32: two for each of 64 or 128 lanes. fp16, dense, with fp32 accumulate: 2048 on an
# A100, 4096 on Hopper, 8192 on Blackwell, 1024 on Volta, Turing, Ada and A10, half of
# that on GeForce, 256 on a P100's lanes (architecture whitepapers). Hopper's and
# Blackwell's tensor cores do not reach the boost of their fp32 lanes.
TENSOR_MHZ = {"h100": 1830, "h200": 1830, "gh200": 1830, "h100-pcie": 1620}
TENSOR_MHZ |= {"b200": 1860, "b300": 1860, "gb200": 2060, "gb300": 2060}
SMS = {
    **{"t4": (40, 64, 1024), "l4": (58, 128, 1024), "a10": (72, 128, 1024)},
    **{"a100-40gb-pcie": (108, 64, 2048), "a100-40gb": (108, 64, 2048)},
    **{"a100-80gb-pcie": (108, 64, 2048), "a100": (108, 64, 2048)},
    **{"l40s": (142, 128, 1024), "3090": (82, 128, 512), "4090": (128, 128, 512)},
    **{"5090": (170, 128, 512), "h100-pcie": (114, 128, 4096)},
    **{"h100": (132, 128, 4096), "h200": (132, 128, 4096), "gh200": (132, 128, 4096)},
    **{"b200": (148, 128, 8192), "b300": (148, 128, 8192), "gb200": (148, 128, 8192)},
    **{"gb300": (148, 128, 8192), "v100": (80, 64, 1024), "p100": (56, 64, 256)},
    **{"p4": (20, 128, 0), "a40": (84, 128, 1024), "rtx-pro-6000": (188, 128, 1024)},
}


def test_peaks_follow_from_the_clock_in_every_nvidia_row():
    known = {device(name).name for name in SMS}
    assert known == {made.name for made in ALL if made.kind == "cuda"}
    for name, (sms, lanes, flop_per_cycle) in SMS.items():
        made = device(name)
        assert made.sms == sms
        fp32 = sms * 2 * lanes * made.clock_hz
        assert made.peak("fp32") == pytest.approx(fp32, rel=0.02), name
        tensor_hz = 1e6 * TENSOR_MHZ.get(name, made.clock_hz / 1e6)
        if flop_per_cycle:
            products = sms * tensor_hz * flop_per_cycle
            assert made.peak("fp16") == pytest.approx(products, rel=0.02), name


@pytest.mark.parametrize(
    "made", [d for d in ALL if d.kind != "fpga"], ids=lambda d: d.name
)
def test_every_row_is_plausible(made):
    fastest = next(p for p in ("bf16", "fp16", "fp32") if p in made.peak_flops)
    assert 15 < made.ridge(fastest) < 450
    assert 1 <= made.memory_bytes / 2**30 <= 288
    assert (made.kind == "cuda") == (1e9 < made.clock_hz < 3e9)
    assert 2 <= made.l2_bytes / 2**20 <= 256
    assert 5e-6 <= made.launch_s <= 10e-6 or (made.kind == "tpu" and not made.launch_s)
    assert made.price_per_hour is None or 0.1 < made.price_per_hour < 15
    assert made.kind in KINDS and not made.calibrated


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["name"])
def test_every_row_has_sources_and_dates(row):
    assert row["source"].startswith("https://")
    assert "2020-01-01" < row["date"] <= "2026-12-31" and len(row["date"]) == 10
    priced = [row[c] for c in ("price_per_hour_usd", "price_source", "price_date")]
    assert all(priced) or not any(priced)
    assert not row["price_source"] or row["price_source"].startswith("https://")
    assert set(row) == set(module._COLUMNS)


def test_an_fpga_has_memory_and_no_peak():
    made = device("kv260")
    assert (made.kind, made.peak_flops) == ("fpga", {})
    assert made.bandwidth == 19.2e9  # 8 bytes, 2.4e9 times a second
    with pytest.raises(ValueError, match="no fp32 peak; it has nothing"):
        made.peak("fp32")


# Finding


def test_found_by_its_own_name():
    for made in ALL:
        alias = made.profile.split(":")[1]
        for name in (made.name, made.name.upper().replace(" ", "-"), alias):
            assert device(name) == made


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("H200", "NVIDIA H200"),
        ("nvidiah200", "NVIDIA H200"),
        ("rtx 4090", "NVIDIA GeForce RTX 4090"),
        ("T4", "Tesla T4"),
        ("A100 40GB", "NVIDIA A100-SXM4-40GB"),
        ("H100_PCIe", "NVIDIA H100 PCIe"),
        ("M2 Max", "Apple M2 Max"),
        ("tpu v5p", "TPU v5p"),
    ],
)
def test_found_by_an_alias(said, name):
    assert device(said).name == name


def test_no_label_means_two_devices():
    labels = [
        {module._key(label) for label in (row["name"], *row["aliases"].split(";"))}
        for row in ROWS
    ]
    assert sum(map(len, labels)) == len(set().union(*labels))
    assert "" not in set().union(*labels)


@pytest.mark.parametrize("said", ["NVIDIA H200 NVL", "h20", "RTX 4090 Laptop GPU", ""])
def test_a_near_miss_is_not_a_match(said):
    with pytest.raises(ValueError, match="unknown device"):
        device(said)


def test_unknown_device_says_what_to_do():
    words = r"'h2000'; did you mean NVIDIA H200.*\?; `fastlab devices` lists all"
    with pytest.raises(ValueError, match=words):
        device("h2000")


# The CSV, broken


def broken(tmp_path: Path, **cells: str) -> Path:
    path = tmp_path / "devices.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows([ROWS[0], ROWS[0] | cells])
    return path


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("bf16", "fast"),
        ("fp16", "-65"),
        ("bandwidth_gb_s", ""),
        ("memory_gib", "nan"),
        ("price_per_hour_usd", "inf"),
        ("l2_mib", "0"),
        ("kind", "gpu"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, column, cell):
    with pytest.raises(ValueError) as error:
        devices(broken(tmp_path, **{column: cell}))
    for part in ("devices.csv line 3", "Tesla T4", f"column {column}", repr(cell)):
        assert part in str(error.value)


def test_other_faults_of_the_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"line 3 .*source: must not be empty"):
        devices(broken(tmp_path, source=""))
    path = tmp_path / "devices.csv"
    path.write_text(CSV.read_text().replace(",l2_mib,", ",cache,", 1))
    with pytest.raises(ValueError, match=r"devices\.csv lacks the columns l2_mib"):
        devices(path)
    path.write_text(CSV.read_text().splitlines()[0] + "\n" + "x," * 40 + "\n")
    with pytest.raises(ValueError, match=r"line 2 .*more cells than columns"):
        devices(path)


def test_a_missing_file_says_what_is_needed(monkeypatch):
    monkeypatch.setattr(module, "FILE", Path("/nowhere/devices.csv"))
    with pytest.raises(FileNotFoundError, match="needs the data folder of its repo"):
        devices()


# to_dict and from_dict

rates = st.floats(1e6, 1e18)
made_up = st.builds(
    Device,
    name=st.text(min_size=1),
    kind=st.sampled_from(KINDS),
    peak_flops=st.dictionaries(st.sampled_from(PRECISIONS), rates),
    bandwidth=rates,
    memory_bytes=st.integers(1, 2**50),
    l2_bytes=st.integers(0, 2**40),
    launch_s=st.floats(0, 1),
    price_per_hour=st.none() | st.floats(0, 1e3),
    source=st.text(),
    date=st.text(),
    profile=st.sampled_from(["datasheet:x", "calibrated:01234567"]),
)


@given(made_up)
def test_round_trip_through_json(made):
    again = Device.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert hash(again) == hash(made)


@given(made_up)
def test_stamp_names_the_content_and_nothing_else(made):
    stamp = made.stamped()
    assert stamp.calibrated and len(stamp.profile) == len("calibrated:") + 8
    assert stamp.stamped() == stamp
    assert replace(stamp, profile=made.profile) == made
    faster = replace(made, bandwidth=made.bandwidth * 2).stamped()
    assert faster.profile != stamp.profile


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "4.8e12", True, None])
def test_impossible_bandwidth_and_peaks_are_refused(value):
    with pytest.raises(ValueError, match=r"bandwidth=.* must be a finite number > 0"):
        Device.from_dict(changed(bandwidth=value))
    with pytest.raises(ValueError, match=r"peak_flops\[bf16\]=.* finite number > 0"):
        Device.from_dict(changed(peak_flops={"bf16": value}))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"bandwith": 1.0}, "unknown Device field 'bandwith'; did you mean bandwidth"),
        ({"peak_flops": {"bf61": 1.0}}, "'bf61'; did you mean bf16"),
        ({"kind": "cudaa"}, "kind='cudaa' .*did you mean cuda"),
        ({"memory_bytes": 1.5}, "memory_bytes=1.5 must be a whole number"),
        ({"l2_bytes": -1}, "l2_bytes=-1 must be a whole number"),
        ({"launch_s": -1.0}, "launch_s=-1.0 must be a finite number >= 0"),
        ({"price_per_hour": -1.0}, "price_per_hour=-1.0 must be"),
    ],
)
def test_from_dict_errors_are_worded(over, words):
    with pytest.raises(ValueError, match=words):
        Device.from_dict(changed(**over))


def test_from_dict_names_missing_fields():
    data = changed()
    del data["kind"], data["bandwidth"]
    with pytest.raises(ValueError, match="Device needs kind, bandwidth"):
        Device.from_dict(data)


def test_a_device_is_a_value():
    peaks = {"bf16": 1e12}
    made = replace(H200, peak_flops=peaks)
    peaks["bf16"] = 2e12
    assert made.peak("bf16") == 1e12
    assert "fits" not in H200.to_dict()  # as it was before there were any

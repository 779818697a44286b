"""Microbenchmarks: few, far apart, counted as they are run; and the fits to them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from fastlab import machine
from fastlab.cli import main
from fastlab.clock import calibrate, end_to_end, fitting
from fastlab.clock.clocks import CpuClock
from fastlab.clock.microbench import (
    COMPILED_COUNTS,
    COUNTS,
    LONGEST_S,
    POOLS,
    STORED_COUNTS,
    chosen,
    spread,
    timed,
)
from fastlab.clock.microbenchmarks import CANDIDATES, STREAMED, Benchmark
from fastlab.clock.stored_benchmarks import packed_products
from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.samples import GENERATED, class_of
from fastlab.spec import FAMILIES, point_of
from fastlab.spec.formats import TIMED
from fastlab.sweeps.reference import Reference

FEW = {"linear": 8, "prefill": 6, "decode": 6, "norm": 4, "elementwise": 4}
FEW |= {"embedding": 3, "copy": 3}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_most_a_hundred_of_every_class_and_none_too_long(
    profile: Device, precision: str
) -> None:
    counts = COUNTS | COMPILED_COUNTS
    benches = chosen(profile, precision, counts)
    assert len(benches) == sum(counts.values()) == 100
    found = Counter(class_of(bench.op) for bench in benches)
    assert found == Counter(counts)
    for bench in benches:
        op = bench.op
        seconds = op.flops_causal / profile.peak(precision) + op.bytes / 1e11
        assert seconds <= LONGEST_S["cpu"]


def test_linears_reach_from_one_row_to_thousands_and_to_vocabularies(
    profile: Device,
) -> None:
    dims = [b.op.dims for b in chosen(profile, "bf16", {"linear": 40})]
    rows, widths, _ = zip(*dims, strict=True)
    assert min(rows) == 1
    assert max(rows) >= 4096
    assert max(widths) > 100_000


def test_farthest_first_takes_the_corners() -> None:
    """From the middle of a square of points: its corners come next."""
    grid = np.array([(x, y) for x in range(5) for y in range(5)], dtype=float)
    picked = [tuple(grid[n]) for n in spread(grid, 5)]
    assert picked[0] == (2, 2)
    assert set(picked[1:]) == {(0, 0), (0, 4), (4, 0), (4, 4)}


def test_no_more_are_picked_than_there_are() -> None:
    assert sorted(spread(np.eye(3), 9)) == [0, 1, 2]


def small(kind: str) -> list[Benchmark]:
    """The five cheapest candidates of a class, in fp32."""
    return sorted(POOLS[kind](4), key=lambda b: b.op.bytes)[:5]


@pytest.mark.parametrize("kind", ["linear", "biased", "conv1d", "prefill", "decode"])
def test_products_are_counted_as_torch_counts_what_is_run(kind: str) -> None:
    for bench in small(kind):
        run = bench.make("meta", torch.float32)
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == bench.op.flops


@pytest.mark.parametrize("kind", sorted(set(POOLS) - set(GENERATED)))
def test_every_candidate_runs_and_its_sample_is_sound(
    kind: str, profile: Device, quick: Settings
) -> None:
    for bench in small(kind)[:2]:
        sample = timed(bench, profile, "fp32", CpuClock(), quick)
        assert sample.fault() == ""
        assert sample.device == profile.name
        assert (sample.flops, sample.bytes) == (bench.op.flops_causal, bench.op.bytes)


def test_on_a_cpu_weights_are_streamed_not_hot() -> None:
    """A model's next layer is never in the cache: 64 MiB of copies take turns."""
    bench = next(b for b in CANDIDATES["linear"](4) if b.op.dims == (1, 1024, 1024))
    run = bench.make("cpu", torch.float32)
    torch.testing.assert_close(run(), run())  # copies: the same numbers
    [turn] = [
        c.cell_contents for c in run.__closure__ if isinstance(c.cell_contents, cycle)
    ]
    weights = {next(turn).data_ptr() for _ in range(40)}
    assert len(weights) == 1 + STREAMED // (4 * 1024 * 1024) == 17


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int4-g128"])
def test_quantized_products_run_and_are_counted_as_stored(
    precision: str, profile: Device, quick: Settings
) -> None:
    """256 x 256: 65,536 B in int8 and 512 B of scales; half and 2,048 B in int4."""
    pool = packed_products(precision)
    one = next(b for b in pool if b.op.dims == (16, 256, 256))
    scales = {"int8": 512, "int8-dynamic": 512, "int4-g128": 2048 - 32768}[precision]
    assert one.op.weight_bytes == 65536 + scales
    assert one.op.flops == 2 * 16 * 256 * 256
    sample = timed(one, profile, precision, CpuClock(), quick)
    assert sample.fault() == ""
    assert sample.precision == precision


def test_a_full_calibration_gives_fits_that_estimates_use(
    monkeypatch: pytest.MonkeyPatch, profile: Device, quick: Settings
) -> None:
    monkeypatch.setattr(fitting, "calibrate", lambda kind: profile)
    monkeypatch.setattr("fastlab.clock.microbench.settings_for", lambda kind: quick)
    monkeypatch.setattr("fastlab.clock.microbench.LARGEST_BYTES", {"cpu": 2**22})
    monkeypatch.setattr(end_to_end, "settings_for", lambda kind: quick)
    monkeypatch.setattr(end_to_end, "LEVELS", (2**22, STREAMED))
    monkeypatch.setattr(end_to_end, "compiled_seconds", lambda device: (1e-5, 2e-4))
    monkeypatch.setattr(fitting, "compiles", lambda kind: False)
    device, samples = fitting.calibrate_fully("cpu", counts=FEW)
    packed = [p for p in TIMED if not machine.unsupported_reason("cpu", p)]
    stored = [s for s in samples if s.kind in STORED_COUNTS]
    assert {s.precision for s in stored} == {"fp32"}
    assert len(stored) == FEW["linear"] + 3  # of look-ups but three are small enough
    rest = len(samples) - len(stored)
    assert rest == 3 * sum(FEW.values()) + FEW["linear"] * len(packed)
    pairs = {(fit.kind, fit.precision) for fit in device.fits.fits}
    dense = {(kind, p) for kind in FEW for p in ("fp32", "fp16", "bf16")}
    made = {("linear", p) for p in packed} | {(k, "fp32") for k in STORED_COUNTS}
    assert pairs == dense | made
    assert (device.fits.compiled_s, device.fits.call_s) == (1e-5, 2e-4)
    assert set(device.fits.host_s) == set(FAMILIES)
    assert device.fits.dispatch_s == max(device.fits.host_s.values()) >= 0
    assert device.fits.levels["bf16"][-1] == (STREAMED, 1.0)
    assert device.fits.stretch > 0
    assert device.fits.provenance["versions"]["torch"]
    again = Device.from_dict(json.loads(json.dumps(device.to_dict())))
    assert again == device
    [e] = estimate([point_of(model="tiny-llama")], again)
    assert e.model == "calibrated"
    assert e.low_s < e.seconds < e.high_s


def test_the_command_writes_profile_and_samples_that_a_reference_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = Path(__file__).parents[2] / "data" / "reference" / "xeon-2-threads"
    stored = Reference(known)
    made = (stored.profile, stored.samples)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fitting, "calibrate_fully", lambda device, bar: made)
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["calibrate", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "linear" in done.output
    assert Reference(out).profile == stored.profile
    assert Reference(out).samples == stored.samples
    assert len(stored.samples) == 397


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "FILE"], "is a file: name a folder"),
        (["--quick", "--out", "new"], "is for whole calibrations: leave --quick away"),
        (["--show", "--out", "new"], "leave --show away"),
    ],
)
def test_where_a_calibration_cannot_be_written_is_told_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], words: str
) -> None:
    monkeypatch.setattr(fitting, "calibrate_fully", lambda device, bar: 1 / 0)
    (tmp_path / "FILE").touch()
    given = [str(tmp_path / one) if one == "FILE" else one for one in options]
    done = CliRunner().invoke(main, ["calibrate", *given])
    assert done.exit_code != 0
    assert words in done.output


def test_a_calibration_among_other_programs_is_kept_and_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = Reference(Path(__file__).parents[2] / "data/reference/xeon-2-threads")
    busy = calibrate.marked_busy(stored.profile, "other programs took 1.2 cores")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fitting, "calibrate_fully", lambda device, bar: (busy, []))
    done = CliRunner().invoke(main, ["calibrate", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "took 1.2 cores: do not trust this profile" in done.output
    assert calibrate.this_device("cpu").busy

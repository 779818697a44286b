"""The full calibration: few operations, far apart, counted as run; and their fits."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from fastlab import machine
from fastlab.cli import main
from fastlab.clock import calibrate, end_to_end, fitting, stored_benchmarks
from fastlab.clock.clocks import CpuClock
from fastlab.clock.fitting import (
    COMPILED_COUNTS,
    COUNTS,
    LONGEST_S,
    POOLS,
    STORED_COUNTS,
    chosen,
    in_rounds,
    slow_to_make,
    spread,
    timed,
    wanted_counts,
)
from fastlab.clock.microbenchmarks import STREAMED, Benchmark
from fastlab.clock.stored_benchmarks import compiles, packed_products
from fastlab.cost.classes import CLASSES
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.fit import fit
from fastlab.latency.profile import Profile, formula
from fastlab.latency.samples import GENERATED, Sample, class_of, work_of
from fastlab.spec import FAMILIES, point_of
from fastlab.spec.formats import TIMED
from fastlab.spec.storage import BITS
from fastlab.sweeps.reference import FOLDER, Reference

FEW = {"linear": 8, "prefill": 6, "decode": 6, "norm": 4, "elementwise": 4}
FEW |= {"embedding": 3, "copy": 3}
TRUTH = {"peak": 9e10, "bandwidth": 2e10, "overhead_s": 1e-5}
STORED = FOLDER / "xeon-2-threads"


# ---- which are chosen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_most_a_hundred_of_every_class_and_none_too_long(profile, precision):
    counts = COUNTS | COMPILED_COUNTS
    ops = [bench.op for bench in chosen(profile, precision, counts, {})]
    assert len(ops) == sum(counts.values()) == 100
    assert Counter(map(class_of, ops)) == Counter(counts)
    for op in ops:
        seconds = op.flops_causal / profile.peak(precision) + op.bytes / 1e11
        assert seconds <= LONGEST_S["cpu"]
    rows, outputs, _ = zip(*(op.dims for op in ops if op.kind == "linear"), strict=True)
    assert min(rows) == 1
    assert max(rows) >= 4096
    assert max(outputs) > 100_000


def test_farthest_first_takes_the_corners():
    """From the middle of a square of points: its corners come next."""
    grid = np.array([(x, y) for x in range(5) for y in range(5)], dtype=float)
    picked = [tuple(grid[n]) for n in spread(grid, 5)]
    assert picked[0] == (2, 2)
    assert set(picked[1:]) == {(0, 0), (0, 4), (4, 0), (4, 4)}
    assert sorted(spread(np.eye(3), 9)) == [0, 1, 2]


def test_ratios_rows_and_bits_are_all_among_the_chosen(profile):
    ratios, rows, _ = CLASSES["csr"].axes
    ops = [bench.op for bench in chosen(profile, "fp32", STORED_COUNTS, {})]
    csr = [op for op in ops if op.kind == "csr"]
    assert {op.dims[0] for op in csr} == set(rows)
    k = {op.dims: op.activation_bytes // (4 * op.dims[0]) - op.dims[1] for op in csr}
    found = {round(1 - left / k[m, n, left], 2) for m, n, left in k}
    assert {0.5, 0.95} <= found <= set(ratios)
    assert {op.precision for op in csr} == {"fp32"}
    assert {op.dims[1] for op in ops if op.kind == "palette"} == set(BITS)
    assert POOLS["csr"](2) == []


def test_compiled_benchmarks_are_asked_for_where_a_compiler_works(monkeypatch, profile):
    for works in (True, False):
        wanted = wanted_counts(profile, COUNTS, works)
        assert ("palette-compiled" in wanted["fp32"]) == works
        assert set(STORED_COUNTS) <= set(wanted["fp32"])
        assert wanted["bf16"] == COUNTS | ({"gemv": 6} if works else {})

    def broken(function: object, device: str) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(stored_benchmarks, "compiled", broken)
    assert not compiles("cpu")


# ---- what each of them runs


def small(kind: str) -> list[Benchmark]:
    """The five cheapest candidates of a class, in fp32."""
    return sorted(POOLS[kind](4), key=lambda b: b.op.bytes)[:5]


def of_dims(kind: str, *dims: int, a: int = 4) -> Benchmark:
    """The candidate of a class with these sizes, in values of `a` bytes."""
    return next(bench for bench in POOLS[kind](a) if bench.op.dims == dims)


def held(run: Callable[[], Any], kind: type) -> Any:
    """What a benchmark's call holds of a type."""
    cells = (cell.cell_contents for cell in run.__closure__ or ())  # type: ignore[attr-defined]
    return next(value for value in cells if isinstance(value, kind))


@pytest.mark.parametrize("kind", ["linear", "biased", "conv1d", "prefill", "decode"])
def test_products_are_counted_as_torch_counts_what_is_run(kind):
    for bench in small(kind):
        run = bench.make("meta", torch.float32)
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == bench.op.flops


@pytest.mark.parametrize("kind", sorted(set(POOLS) - set(GENERATED)))
def test_every_candidate_runs_and_its_sample_is_sound(kind, profile, quick):
    for bench in small(kind)[:2]:
        sample = timed(bench, profile, "fp32", CpuClock(), quick)
        assert sample.fault() == ""
        assert sample.device == profile.name
        assert (sample.flops, sample.bytes) == (bench.op.flops_causal, bench.op.bytes)


def test_on_a_cpu_weights_are_streamed_not_hot():
    """A model's next layer is never in the cache: 64 MiB of copies take turns."""
    run = of_dims("linear", 1, 1024, 1024).make("cpu", torch.float32)
    torch.testing.assert_close(run(), run())  # copies: the same numbers
    turn = held(run, cycle)
    weights = {next(turn).data_ptr() for _ in range(40)}
    assert len(weights) == 1 + STREAMED // (4 * 1024 * 1024) == 17


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int4-g128"])
def test_quantized_products_run_and_are_counted_as_stored(precision, profile, quick):
    """256 x 256: 65,536 B in int8 and 512 B of scales; half and 2,048 B in int4."""
    pool = packed_products(precision)
    one = next(b for b in pool if b.op.dims == (16, 256, 256))
    scales = {"int8": 512, "int8-dynamic": 512, "int4-g128": 2048 - 32768}[precision]
    assert one.op.weight_bytes == 65536 + scales
    assert one.op.flops == 2 * 16 * 256 * 256
    sample = timed(one, profile, precision, CpuClock(), quick)
    assert (sample.fault(), sample.precision) == ("", precision)


def test_a_sparse_benchmark_stores_what_is_counted_and_streams_it():
    """256 x 256 at 95 %: 13 left of a row, as values and columns of 4 bytes."""
    bench = of_dims("csr", 16, 256, 13)
    turn = held(bench.make("cpu", torch.float32), cycle)
    module = next(turn)
    assert module.weight_bytes() == bench.op.weight_bytes == 256 * 13 * 8 + 257 * 4
    assert bench.op.flops == 2 * 16 * len(module.values)
    x = torch.randn(16, 256)
    torch.testing.assert_close(module(x), x @ module.dense().t())
    assert len({id(next(turn)) for _ in range(200)}) == 65
    assert STREAMED // module.weight_bytes() > 64


def test_a_look_up_is_of_the_bytes_that_are_counted():
    bench = of_dims("palette", 256 * 256, 6)
    run = bench.make("cpu", torch.float32)
    assert next(held(run, cycle)).weight_bytes() == bench.op.weight_bytes
    assert run().shape == (256, 256)
    assert len(run().unique()) <= 64


@pytest.mark.parametrize(
    ("bench", "read", "written", "dtype"),
    [  # 65,536 weights of 3 bits and their table; one row in bf16
        (
            of_dims("palette-compiled", 256 * 256, 3),
            *(3 * 256 * 32 + 8 * 4, 4 * 256 * 256, torch.float32),
        ),
        (of_dims("gemv", 1, 768, 768, a=2), 2 * 768 * 768, 4 * 768, torch.bfloat16),
    ],
    ids=["look-up", "row"],
)
def test_compiled_code_is_one_graph_for_all_copies_with_the_same_numbers(
    bench, read, written, dtype
):
    assert (bench.op.weight_bytes, bench.op.bytes) == (read, read + written)
    assert compiles("cpu")
    graphs = counters["stats"]["unique_graphs"]
    run = bench.make("cpu", dtype)
    first = next(held(run, cycle))
    if isinstance(first, torch.Tensor):
        x = held(run, torch.Tensor)
        expected = (x.float() @ first.float().t()).to(dtype)
    else:
        expected = first.dense()
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(run(), expected)
    assert counters["stats"]["unique_graphs"] == graphs + 1


# ---- the fits


def test_a_full_calibration_gives_fits_that_estimates_use(monkeypatch, profile, quick):
    """On a stand-in that multiplies fp8 too, which is no dense precision for that."""
    real = machine.unsupported_reason
    monkeypatch.setattr(
        machine, "unsupported_reason", lambda kind, p: p != TIMED[-1] and real(kind, p)
    )
    able = replace(profile, peak_flops={**profile.peak_flops, "fp8": 4e12})
    monkeypatch.setattr(fitting, "calibrate", lambda kind, settings: able)
    for module in (fitting, end_to_end):
        monkeypatch.setattr(module, "settings_for", lambda kind: quick)
    monkeypatch.setattr(fitting, "LARGEST_BYTES", {"cpu": 2**22})
    monkeypatch.setattr(end_to_end, "LEVELS", (2**22, STREAMED))
    small = [(name, phase, 128, batch) for name, phase, _, batch in end_to_end.WHOLE]
    monkeypatch.setattr(end_to_end, "WHOLE", small[:3])
    monkeypatch.setattr(fitting, "compiles", lambda kind: False)
    device, samples = fitting.calibrate_fully("cpu", counts=FEW)
    packed = [p for p in TIMED if not machine.unsupported_reason("cpu", p)]
    assert packed[-1] == "fp8-dynamic"
    stored = [s for s in samples if s.kind in STORED_COUNTS]
    assert {s.precision for s in stored} == {"fp32"}
    assert len(stored) == FEW["linear"] + 3  # of look-ups but three are small enough
    rest = len(samples) - len(stored)
    assert rest == 3 * sum(FEW.values()) + FEW["linear"] * len(packed)
    fits = device.fits
    dense = {(kind, p) for kind in FEW for p in ("fp32", "fp16", "bf16")}
    made = {("linear", p) for p in packed} | {(k, "fp32") for k in STORED_COUNTS}
    assert {(one.kind, one.precision) for one in fits.fits} == dense | made
    assert (fits.compiled_s, fits.call_s) == (0.0, 0.0)
    assert set(fits.host_s) == set(FAMILIES)
    assert fits.dispatch_s == max(fits.host_s.values()) >= 0
    assert fits.levels["bf16"][-1] == (STREAMED, 1.0)
    assert fits.stretch > 0
    assert fits.provenance["versions"]["torch"]
    again = Device.from_dict(json.loads(json.dumps(device.to_dict())))
    assert again == device
    for e in estimate(
        [point_of(model="tiny-llama", precision=p) for p in ("bf16", "fp8-dynamic")],
        again,
    ):
        assert e.model == "calibrated"
        assert e.low_s < e.seconds < e.high_s


@pytest.fixture
def calibrated(profile: Device) -> Device:
    """A device whose sparse products and look-ups obey the formula exactly."""
    benches = chosen(profile, "fp32", STORED_COUNTS, {})
    samples = [Sample.of(b.op, 1.0, "fp32", profile.name) for b in benches]
    exact = []
    for kind in STORED_COUNTS:
        mine = [s for s in samples if s.kind == kind]
        seconds = formula(TRUTH, work_of(mine)).tolist()
        exact += [replace(s, seconds=t) for s, t in zip(mine, seconds, strict=True)]
    return replace(profile, fits=Profile(fitting.fits_of(exact, profile)))


def test_fits_find_the_rates_that_made_the_times(calibrated):
    fits = calibrated.fits
    for one in fits.fits:
        for name in ("bandwidth", *(["peak"] if one.kind == "csr" else [])):
            assert one.parameters[name] == pytest.approx(TRUTH[name], rel=0.25)
    # A look-up of any dense precision takes the one fit.
    assert fits.find("palette", "bf16") == fits.find("palette", "fp32") is not None
    assert fits.find("csr", "bf16") is None
    assert not fits.holds("fp32")  # no plain products


def test_more_zeros_are_estimated_to_take_less(calibrated):
    """Of the products of one row; and so are fewer bits of a look-up."""
    fits = calibrated.fits
    linear = replace(fits.fits[0], kind="linear")
    device = replace(calibrated, fits=replace(fits, fits=(*fits.fits, linear)))
    s = {"family": "llama", "layers": 2, "hidden": 768, "phase": "decode"}
    s_csr = s | {"sparse_storage": "csr"}
    for points in (
        [point_of(**s_csr, sparse_ratio=ratio) for ratio in (0.5, 0.8, 0.9)],
        [point_of(**s, share_bits=bits) for bits in (6, 4, 3, 2)],
    ):
        seconds = [e.seconds for e in estimate(points, device)]
        assert np.all(np.diff(seconds) < 0)


# ---- in rounds


class Drifting:
    """A machine whose speed changes for a while, and whose every time is noisy."""

    def __init__(self, seed: int, spells: int):
        self.draw = np.random.default_rng(seed)
        slow = self.draw.choice([1.0, 1.0, 1.6], spells)
        self.slow, self.at = slow, 0

    def time(self, seconds: float, of: int) -> float:
        spell = self.slow[min(self.at * len(self.slow) // of, len(self.slow) - 1)]
        self.at += 1
        return float(seconds * spell * np.exp(self.draw.normal(0, 0.03)))


def test_each_round_takes_all_once_in_an_order_of_its_own():
    """Of 6 tasks the last two a single time, each in another round."""
    seen: list[str] = []
    tasks = list("abcdef")

    def seconds(task: str) -> float:
        seen.append(task)
        return float(len(seen))

    steps: list[int] = []
    shown = lambda order: steps.append(len(order)) or order  # noqa: E731
    visits = in_rounds(tasks, seconds, shown, 3, {"e", "f"})
    assert [len(times) for times in visits] == [3, 3, 3, 3, 1, 1]
    assert steps == [14] == [len(seen)]
    rounds = seen[:4], seen[4:9], seen[9:]  # f is the 6th, e the 5th: 5 % 3, 4 % 3
    assert [sorted(one) for one in rounds] == [
        list("abcd"), list("abcde"), list("abcdf")
    ]  # fmt: skip
    assert len({tuple(t for t in one if t in "abcd") for one in rounds}) == 3


def test_what_is_packed_or_compiled_is_made_once(profile):
    """Else a third round would be spent on packing, not on timing."""
    few = chosen(profile, "fp32", {"linear": 1, "gemv": 1}, {})
    packed = ("int8", packed_products("int8")[0])
    tasks = [*(("fp32", bench) for bench in few), packed]
    assert [slow_to_make(task) for task in tasks] == [False, True, True]
    points = [point_of(model="tiny-llama", precision=p) for p in ("bf16", "int8")]
    points.append(point_of(model="tiny-llama", phase="decode", runtime="decoder"))
    assert [slow_to_make(point) for point in points] == [False, True, True]


def test_a_fit_of_three_rounds_beats_that_of_one_pass(profile):
    """Spells of a machine 1.6 times slower: a third of nine, a new one each seed.

    One pass takes what time it finds; the middle of three rounds is seldom slow.
    """
    benches = chosen(profile, "fp32", {"linear": 21}, {})
    bare = [Sample.of(b.op, 1.0, "fp32", profile.name) for b in benches]
    truth = formula(TRUTH, work_of(bare))
    off: dict[int, list[float]] = {1: [], 3: []}
    for seed in range(6):
        for rounds, errors in off.items():
            machine_now, total = Drifting(seed, 9), rounds * len(bare)
            visits = in_rounds(
                truth.tolist(), partial(machine_now.time, of=total), None, rounds
            )
            times = [float(np.median(one)) for one in visits]
            samples = [replace(s, seconds=t) for s, t in zip(bare, times, strict=True)]
            seconds, _ = fit(samples, profile).predict(work_of(bare))
            errors.append(float(np.abs(np.log(seconds / truth)).mean()))
    assert np.mean(off[3]) < 0.8 * np.mean(off[1])


# ---- the command


def test_the_command_writes_profile_and_samples_that_a_reference_reads(
    monkeypatch, tmp_path
):
    stored = Reference(STORED)
    made = (stored.profile, stored.samples)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fitting, "calibrate_fully", lambda *how, points: made)
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
    monkeypatch, tmp_path, options, words
):
    monkeypatch.setattr(fitting, "calibrate_fully", lambda *how, points: 1 / 0)
    (tmp_path / "FILE").touch()
    given = [str(tmp_path / one) if one == "FILE" else one for one in options]
    done = CliRunner().invoke(main, ["calibrate", *given])
    assert done.exit_code != 0
    assert words in done.output


def test_a_calibration_among_other_programs_is_kept_and_warned_of(
    monkeypatch, tmp_path
):
    profile = Reference(STORED).profile
    busy = calibrate.marked_busy(profile, "other programs took 1.2 cores")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fitting, "calibrate_fully", lambda *how, points: (busy, []))
    done = CliRunner().invoke(main, ["calibrate", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "took 1.2 cores: do not trust this profile" in done.output
    assert calibrate.this_device("cpu").busy

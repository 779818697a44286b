"""Sparse products and look-ups as a calibration times them: spread, counted, fitted."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from fastlab.clock import fitting
from fastlab.clock import stored_benchmarks as unpacked
from fastlab.clock.microbench import COUNTS, POOLS, STORED_COUNTS, chosen
from fastlab.clock.microbenchmarks import STREAMED, Benchmark
from fastlab.clock.stored_benchmarks import compiles, sparse_rows
from fastlab.cost.classes import CLASSES
from fastlab.latency.calibrated import datasheet
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.fit import fit
from fastlab.latency.profile import Profile, formula
from fastlab.latency.samples import Sample, work_of
from fastlab.spec import point_of
from fastlab.spec.storage import BITS

TRUTH = {"peak": 9e10, "bandwidth": 2e10, "overhead_s": 1e-5}


def test_ratios_rows_and_bits_are_all_among_the_chosen(profile: Device) -> None:
    ratios, rows, _ = CLASSES["csr"].axes
    benches = chosen(profile, "fp32", STORED_COUNTS)
    assert len(benches) == sum(STORED_COUNTS.values())
    csr = [b.op for b in benches if b.op.kind == "csr"]
    assert {op.dims[0] for op in csr} == set(rows)
    k = {op.dims: op.activation_bytes // (4 * op.dims[0]) - op.dims[1] for op in csr}
    found = {round(1 - left / k[m, n, left], 2) for m, n, left in k}
    assert found >= {0.5, 0.95}
    assert found <= set(ratios)
    assert {b.op.dims[1] for b in benches if b.op.kind == "palette"} == set(BITS)


def test_sparse_products_are_timed_in_fp32_alone() -> None:
    assert sparse_rows(2) == []
    assert {b.op.precision for b in sparse_rows(4)} == {"fp32"}


def running(bench: Benchmark) -> cycle:
    """The modules that take turns in a benchmark on a CPU."""
    run = bench.make("cpu", torch.float32)
    cells = (c.cell_contents for c in run.__closure__ or ())
    return next(cell for cell in cells if isinstance(cell, cycle))


def test_a_sparse_benchmark_stores_what_is_counted_and_streams_it() -> None:
    """256 x 256 at 95 %: 13 left of a row, as values and columns of 4 bytes."""
    bench = next(b for b in sparse_rows(4) if b.op.dims == (16, 256, 13))
    turn = running(bench)
    module = next(turn)
    assert module.weight_bytes() == bench.op.weight_bytes == 256 * 13 * 8 + 257 * 4
    assert bench.op.flops == 2 * 16 * len(module.values)
    x = torch.randn(16, 256)
    torch.testing.assert_close(module(x), x @ module.dense().t())
    assert len({id(next(turn)) for _ in range(200)}) == 65
    assert STREAMED // module.weight_bytes() > 64


def test_a_look_up_is_of_the_bytes_that_are_counted() -> None:
    bench = next(b for b in POOLS["palette"](4) if b.op.dims == (256 * 256, 6))
    module = next(running(bench))
    assert module.weight_bytes() == bench.op.weight_bytes
    run = bench.make("cpu", torch.float32)
    assert run().shape == (256, 256)
    assert len(run().unique()) <= 64


def test_a_compiled_look_up_is_the_same_in_one_kernel() -> None:
    """Each copy of the module runs through one graph: 65,536 weights, 4 B written."""
    bench = next(b for b in POOLS["palette-compiled"](4) if b.op.dims == (256 * 256, 3))
    assert bench.op.kind == "palette-compiled"
    assert bench.op.bytes == 3 * 256 * 32 + 8 * 4 + 4 * 256 * 256
    assert compiles("cpu")
    graphs = counters["stats"]["unique_graphs"]
    run = bench.make("cpu", torch.float32)
    cells = [c.cell_contents for c in run.__closure__ or ()]
    module = next(next(c for c in cells if isinstance(c, cycle)))
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(run(), module.dense())
    assert counters["stats"]["unique_graphs"] == graphs + 1


def test_a_compiled_row_is_a_loop_on_each_of_its_weights() -> None:
    """768 x 768 in bf16: the sums that fp32 gives, from one graph for all copies."""
    bench = next(b for b in POOLS["gemv"](2) if b.op.dims == (1, 768, 768))
    assert (bench.op.kind, bench.op.weight_bytes) == ("gemv", 2 * 768 * 768)
    graphs = counters["stats"]["unique_graphs"]
    run = bench.make("cpu", torch.bfloat16)
    cells = [c.cell_contents for c in run.__closure__ or ()]
    weight = next(next(c for c in cells if isinstance(c, cycle)))
    x = next(c for c in cells if isinstance(c, torch.Tensor))
    expected = (x.float() @ weight.float().t()).bfloat16()
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(run(), expected)
    assert counters["stats"]["unique_graphs"] == graphs + 1


def test_compiled_look_ups_are_asked_for_where_a_compiler_works(
    monkeypatch: pytest.MonkeyPatch, profile: Device
) -> None:
    for works in (True, False):
        wanted = fitting._wanted(profile, COUNTS, works)
        assert ("palette-compiled" in wanted["fp32"]) == works
        assert set(STORED_COUNTS) <= set(wanted["fp32"])
        assert wanted["bf16"] == COUNTS | ({"gemv": 6} if works else {})

    def broken(function: object, device: str) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(unpacked, "compiled", broken)
    assert not compiles("cpu")


@pytest.fixture
def calibrated(profile: Device) -> Device:
    """A device whose sparse products and look-ups obey the formula exactly."""
    benches = chosen(profile, "fp32", STORED_COUNTS)
    samples = [Sample.of(b.op, 1.0, "fp32", profile.name) for b in benches]
    fits = []
    for kind in STORED_COUNTS:
        mine = [s for s in samples if s.kind == kind]
        seconds = formula(TRUTH, work_of(mine)).tolist()
        timed = [replace(s, seconds=t) for s, t in zip(mine, seconds, strict=True)]
        fits.append(fit(timed, profile))
    return replace(profile, fits=Profile(tuple(fits)))


def test_fits_find_the_rates_that_made_the_times(calibrated: Device) -> None:
    assert calibrated.fits is not None
    for one in calibrated.fits.fits:
        for name in ("bandwidth", *(["peak"] if one.kind == "csr" else [])):
            assert one.parameters[name] == pytest.approx(TRUTH[name], rel=0.25)
    again = Device.from_dict(json.loads(json.dumps(calibrated.to_dict())))
    assert again == calibrated


def test_a_look_up_of_any_dense_precision_takes_the_one_fit(
    calibrated: Device,
) -> None:
    fits = calibrated.fits
    assert fits is not None
    assert fits.find("palette", "bf16") == fits.find("palette", "fp32") is not None
    assert fits.find("csr", "bf16") is None
    assert not fits.holds("fp32")  # no plain products


def test_more_zeros_are_estimated_to_take_less(calibrated: Device) -> None:
    """Of the products of one row; and so are fewer bits of a look-up."""
    fits = calibrated.fits
    assert fits is not None
    linear = replace(fits.fits[0], kind="linear")
    device = replace(calibrated, fits=replace(fits, fits=(*fits.fits, linear)))
    s = {"family": "llama", "layers": 2, "hidden": 768, "phase": "decode"}
    sparse = [
        point_of(**s, sparse_ratio=r, sparse_storage="csr") for r in (0.5, 0.8, 0.9)
    ]
    shared = [point_of(**s, share_bits=b) for b in (6, 4, 3, 2)]
    for points in (sparse, shared):
        seconds = [e.seconds for e in estimate(points, device)]
        assert np.all(np.diff(seconds) < 0)
    assert datasheet(device, "fp32")["peak"] == device.peak("fp32")

"""Timings made by a known model, for the tests of fits and scores."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from fastlab.cost import ops
from fastlab.cost.ops import Operation
from fastlab.latency.devices import Device
from fastlab.latency.fit import fit
from fastlab.latency.profile import ClassFit, Profile, formula
from fastlab.latency.samples import Sample, work_of

TRUTH = {
    "peak": 0.8e12,
    "bandwidth": 0.7e11,
    "sharpness": 1.2,
    "overhead_s": 6e-6,
    "depth_s": 2e-9,
}
OTHERS = {"bandwidth": 0.7e11, "overhead_s": 6e-6}


def timed(ops: Iterator[Operation], precision: str = "fp32") -> list[Sample]:
    """Samples whose seconds are those of TRUTH, to the last digit."""
    bare = [Sample.of(op, 1.0, precision, "round numbers") for op in ops]
    known = TRUTH if bare[0].flops else OTHERS
    seconds = formula(known, work_of(bare)).tolist()
    return [replace(s, seconds=t) for s, t in zip(bare, seconds, strict=True)]


def products() -> list[Sample]:
    """27 matrix products from 8 to 2048 wide."""
    sizes = product((8, 128, 2048), repeat=3)
    return timed(ops.linear("gemm", size, 4) for size in sizes)


def attentions(phase: str) -> list[Sample]:
    """36 attention kernels, one new position each in decode."""
    sizes = product((1, 8), (16, 128, 1024), (2, 16), (2,), (32, 64, 128))
    spans = {"prefill": lambda n: (n, 0), "decode": lambda n: (1, n)}[phase]
    return timed(
        ops.attention("a", (batch, *spans(n), heads, kv, d), 4)
        for batch, n, heads, kv, d in sizes
    )


def elementwise() -> list[Sample]:
    """12 pointwise kernels from 1 kB to 80 MB."""
    sizes = np.logspace(2, 7, 12).astype(int).tolist()
    return timed(ops.elementwise("e", n, 4, 2, 1) for n in sizes)


def calibrated(device: Device, dispatch_s: float = 0.0) -> Device:
    """The device with a profile fitted to those timings."""
    samples = [products(), attentions("prefill"), attentions("decode"), elementwise()]
    fits: list[ClassFit] = [fit(some, device) for some in samples]
    made = Profile(tuple(fits), dispatch_s, 20e-6, {"seconds": 41.0})
    return replace(device, fits=made)

"""At most 100 timed operations a precision, spread over the sizes that models have.

In fp32 a third more: of weights stored sparse or shared.

What `fastlab calibrate` fits its profile to. Each operation is run as transformers'
eager code runs it, and counted by the same function of `cost/kinds.py` as the models'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlab.clock.clocks import Clock
from fastlab.clock.microbenchmarks import CANDIDATES, Benchmark
from fastlab.clock.stored_benchmarks import STORED_CANDIDATES, packed_products
from fastlab.clock.timing import Settings, time_call
from fastlab.cost.classes import CLASSES
from fastlab.latency.devices import Device
from fastlab.latency.samples import Sample, work_of
from fastlab.models import DTYPES, numerics
from fastlab.spec.formats import FORMATS, QUANTIZED

LONGEST_S = {"cuda": 0.02, "cpu": 0.06}  # by the roofline; larger ones are left out
LARGEST_BYTES = {"cuda": 2**33, "cpu": 2**29}
POOLS = CANDIDATES | STORED_CANDIDATES


def counts(*needs: str) -> dict[str, int]:
    """How many benchmarks of each class that needs just this; see `cost.classes`."""
    asked = {name: one.timed for name, one in CLASSES.items() if one.needs == needs}
    return {name: count for name, count in asked.items() if count}


COUNTS = counts() | counts("cpu")  # 100 in all, with those of compiled code
PACKED_COUNTS = {"linear": 24}  # of a quantized precision, whose rest runs dense
# Of weights stored sparse or shared, timed in fp32: sparse products know no other on a
# CPU, and a look-up is one of whole numbers.
STORED_COUNTS = counts("fp32")
# Of compiled code: a second or so each to compile on a CPU.
COMPILED_COUNTS, COMPILED_STORED = counts("compiler"), counts("fp32", "compiler")


@dataclass
class Work:
    """A plain function as a call that a clock can time."""

    run: Callable[[], Any]

    def reset(self) -> None:
        """Nothing to undo."""


def settings_for(kind: str) -> Settings:
    """Timing settings of one microbenchmark: about 0.3 s, cold L2 on a GPU."""
    budget = {"budget_s": 0.25, "warmup_s": 0.03, "warmup_cap_s": 0.3}
    fewest = {"n_min": 20, "target": 0.01} if kind == "cuda" else {"n_min": 5}
    return Settings.for_device(kind, warmup_calls=2, **budget, **fewest)


def timed(
    bench: Benchmark,
    device: Device,
    precision: str,
    clock: Clock,
    settings: Settings | None = None,
) -> Sample:
    """One benchmark, made and timed on the device at hand; its median as a sample."""
    settings = settings or settings_for(device.kind)
    with numerics(precision):
        work = Work(bench.make(device.kind, DTYPES[FORMATS[precision].dense]))
        seconds = time_call(work, settings, clock).seconds
    return Sample.of(bench.op, seconds, precision, device.name)


def chosen(device: Device, precision: str, counts: dict[str, int]) -> list[Benchmark]:
    """The benchmarks of a precision: of each class, `counts` far apart from another."""
    rate = device.product_rate(precision)
    longest, largest = LONGEST_S[device.kind], LARGEST_BYTES[device.kind]
    picked = []
    for name, count in counts.items():
        if precision in QUANTIZED:
            pool = packed_products(precision)
        else:
            pool = POOLS[name](DTYPES[precision].itemsize)
        pool = [
            b
            for b in pool
            if b.op.flops_causal / rate + b.op.bytes / device.bandwidth <= longest
            and b.op.bytes <= largest
        ]
        places = work_of([Sample.of(b.op, 1.0, precision) for b in pool]).places
        picked += [pool[n] for n in spread(places, count)]
    return picked


def spread(places: np.ndarray, count: int) -> list[int]:
    """Indices of `count` rows of places [n, d], each farthest from those before it.

    The first is the one nearest to the middle (Gonzalez 1985, farthest-first).
    """
    scaled = (places - places.mean(axis=0)) / np.maximum(places.std(axis=0), 1e-9)
    picked = [int((scaled**2).sum(axis=1).argmin())]
    nearest = ((scaled - scaled[picked[0]]) ** 2).sum(axis=1)
    while len(picked) < min(count, len(places)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((scaled - scaled[picked[-1]]) ** 2).sum(axis=1))
    return picked

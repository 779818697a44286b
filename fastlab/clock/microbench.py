"""At most 100 timed operations a precision, spread over the sizes that models have.

What `fastlab calibrate` fits its profile to. Each operation is run as transformers'
eager code runs it, and counted by the same function of `cost/kinds.py` as the models'.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fastlab.clock.clocks import Clock
from fastlab.clock.timing import Settings, time_call
from fastlab.cost import kinds
from fastlab.cost.devices import Device
from fastlab.cost.kinds import Operation
from fastlab.cost.samples import Sample, work_of
from fastlab.models import DTYPES, numerics

# A benchmark: its operation as counted, and what builds the function that runs it.
Make = Callable[[str, torch.dtype], Callable[[], Any]]
LONGEST_S = {"cuda": 0.02, "cpu": 0.06}  # by the roofline; larger ones are left out
LARGEST_BYTES = {"cuda": 2**33, "cpu": 2**29}
STREAMED = (
    2**26
)  # on a CPU weights are cycled through so many bytes: no model's are hot

WIDTHS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 14336)
VOCABULARIES = (2048, 8192, 32000, 128256)
ROWS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192)
HEADS = ((4, 4), (8, 2), (12, 12), (16, 16), (16, 8), (32, 8), (32, 32))
# How many of each class: 98 in all.
COUNTS = {
    "linear": 40,
    "prefill": 16,
    "decode": 16,
    "norm": 8,
    "elementwise": 10,
    "embedding": 3,
    "copy": 5,
}


@dataclass(frozen=True)
class Benchmark:
    """One operation to time: how it is counted, and how it is made and run."""

    op: Operation
    make: Make = field(repr=False)


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
        work = Work(bench.make(device.kind, DTYPES[precision]))
        seconds = time_call(work, settings, clock).seconds
    return Sample.of(bench.op, seconds, precision, device.name)


def chosen(device: Device, precision: str, counts: dict[str, int]) -> list[Benchmark]:
    """The benchmarks of a precision: of each class, `counts` far apart from another."""
    a = torch.empty(0, dtype=DTYPES[precision]).element_size()
    picked = []
    for name, count in counts.items():
        pool = [b for b in CANDIDATES[name](a) if _bearable(b.op, device, precision)]
        places = work_of([Sample.of(b.op, 1.0, precision) for b in pool]).places
        picked += [pool[n] for n in spread(places, count)]
    return picked


def _bearable(op: Operation, device: Device, precision: str) -> bool:
    seconds = op.flops_causal / device.peak(precision) + op.bytes / device.bandwidth
    short = seconds <= LONGEST_S.get(device.kind, LONGEST_S["cpu"])
    return short and op.bytes <= LARGEST_BYTES.get(device.kind, LARGEST_BYTES["cpu"])


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


def _random(*size: int) -> Callable[[str, torch.dtype], torch.Tensor]:
    return lambda device, dtype: torch.randn(*size, device=device, dtype=dtype)


def _linears(a: int) -> list[Benchmark]:
    sizes = [
        *itertools.product(WIDTHS, WIDTHS),
        *itertools.product(VOCABULARIES, WIDTHS),
    ]
    return [
        Benchmark(kinds.linear("linear", m, n, k, a, a), _linear(m, n, k))
        for m in ROWS
        for n, k in sizes
    ]


def _linear(m: int, n: int, k: int) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x = torch.randn(m, k, device=device, dtype=dtype)
        weight = torch.randn(n, k, device=device, dtype=dtype)
        copies = min(STREAMED // weight.nbytes, 64) if device == "cpu" else 0
        turn = itertools.cycle([weight, *(weight.clone() for _ in range(copies))])
        return lambda: F.linear(x, next(turn))

    return make


def _prefills(a: int) -> list[Benchmark]:
    lengths = (32, 128, 256, 512, 1024, 2048, 4096)
    return list(_attentions(a, [(n, 0) for n in lengths]))


def _decodes(a: int) -> list[Benchmark]:
    return list(
        _attentions(a, [(1, n) for n in (16, 128, 512, 1024, 2048, 4096, 8192)])
    )


def _attentions(a: int, lengths: Sequence[tuple[int, int]]) -> Iterator[Benchmark]:
    for batch, (new, past), (q, kv), d in itertools.product(
        (1, 2, 8), lengths, HEADS, (64, 128)
    ):
        op = kinds.attention("attention", batch, new, past, q, kv, d, a)
        yield Benchmark(op, _attention(batch, new, past, q, kv, d))


def _attention(batch: int, new: int, past: int, q: int, kv: int, d: int) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        query = torch.randn(batch, q, new, d, device=device, dtype=dtype)
        keys = torch.randn(batch, kv, past + new, d, device=device, dtype=dtype)
        values = torch.randn_like(keys)
        options: dict[str, Any] = {"is_causal": new > 1, "enable_gqa": q != kv}
        return lambda: F.scaled_dot_product_attention(query, keys, values, **options)

    return make


def _norms(a: int) -> list[Benchmark]:
    return [
        bench
        for rows in ROWS
        for width in (256, 768, 2048, 4096)
        for bench in (_layer_norm(rows, width, a), _rms_norm(rows, width, a))
    ]


def _layer_norm(rows: int, width: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x = torch.randn(1, rows, width, device=device, dtype=dtype)
        weight = torch.ones(width, device=device, dtype=dtype)
        return lambda: F.layer_norm(x, (width,), weight, weight)

    return Benchmark(kinds.layer_norm("norm", rows, width, a, a), make)


def _rms_norm(rows: int, width: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        x = torch.randn(1, rows, width, device=device, dtype=dtype)
        norm = LlamaRMSNorm(width).to(device, dtype)
        return lambda: norm(x)

    return Benchmark(kinds.rms_norm("norm", rows, width, a, a), make)


def _elementwises(a: int) -> list[Benchmark]:
    sizes = [2**n for n in range(8, 25, 2)]
    made = (_residual_add, _gelu_tanh, _swiglu)
    return [make(size, a) for size in sizes for make in made]


def _residual_add(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x, y = (torch.randn(1, size, device=device, dtype=dtype) for _ in range(2))
        return lambda: x + y

    return Benchmark(kinds.residual_add("add", size, a), make)


def _gelu_tanh(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        from transformers.activations import NewGELUActivation

        x, gelu = _random(1, size)(device, dtype), NewGELUActivation()
        return lambda: gelu(x)

    return Benchmark(kinds.gelu_tanh("gelu", size, a), make)


def _swiglu(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        gate, up = (_random(1, size)(device, dtype) for _ in range(2))
        return lambda: F.silu(gate) * up

    return Benchmark(kinds.swiglu("swiglu", size, a), make)


def _embeddings(a: int) -> list[Benchmark]:
    sizes = itertools.product(ROWS, (256, 1024, 4096))
    return [_embedding(rows, width, a) for rows, width in sizes]


def _embedding(rows: int, width: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        table = torch.randn(8192, width, device=device, dtype=dtype)
        ids = torch.randint(8192, (1, rows), device=device)
        return lambda: F.embedding(ids, table)

    return Benchmark(kinds.embedding("embed", rows, width, a, a), make)


def _copies(a: int) -> list[Benchmark]:
    sizes = itertools.product((1, 8), (0, 128, 1024, 4096), HEADS)
    return [_append(batch, past, kv, a) for batch, past, (_, kv) in sizes]


def _append(batch: int, past: int, kv: int, a: int) -> Benchmark:
    new = 1 if past else 512

    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        old = torch.randn(batch, kv, past, 64, device=device, dtype=dtype)
        row = torch.randn(batch, kv, new, 64, device=device, dtype=dtype)
        return lambda: (torch.cat([old, row], -2), torch.cat([old, row], -2))

    return Benchmark(kinds.cache_append("cache", batch, new, past, kv, 64, a), make)


CANDIDATES: dict[str, Callable[[int], list[Benchmark]]] = {
    "linear": _linears,
    "prefill": _prefills,
    "decode": _decodes,
    "norm": _norms,
    "elementwise": _elementwises,
    "embedding": _embeddings,
    "copy": _copies,
}

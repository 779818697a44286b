"""The operations that a calibration can time, as transformers' eager code runs them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from fastlab.cost import ops
from fastlab.cost.ops import Operation

# A benchmark: its operation as counted, and what builds the function that runs it.
Make = Callable[[str, torch.dtype], Callable[[], Any]]
STREAMED = (
    2**26
)  # on a CPU weights are cycled through so many bytes: no model's are hot

WIDTHS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 14336)
VOCABULARIES = (2048, 8192, 32000, 128256)
WIDEST = 8  # outputs of a layer's product for each input, or inputs for each output
ROWS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192)
SIZES = [
    (n, k)
    for n, k in itertools.product(WIDTHS, WIDTHS)
    if max(n, k) <= WIDEST * min(n, k)
]
HEADS = ((4, 4), (8, 2), (12, 12), (16, 16), (16, 8), (32, 8), (32, 32))


@dataclass(frozen=True)
class Benchmark:
    """One operation to time: how it is counted, and how it is made and run."""

    op: Operation
    make: Make = field(repr=False)


def _random(*size: int) -> Callable[[str, torch.dtype], torch.Tensor]:
    return lambda device, dtype: torch.randn(*size, device=device, dtype=dtype)


def _products(kind: str) -> Callable[[int], list[Benchmark]]:
    sizes = [
        *SIZES,
        *(itertools.product(VOCABULARIES, WIDTHS) if kind == "linear" else ()),
    ]

    def all_of(a: int) -> list[Benchmark]:
        return [
            Benchmark(
                ops.linear(kind, m, n, k, a, a, kind != "linear", kind),
                _product(m, n, k, kind),
            )
            for m in ROWS
            for n, k in sizes
        ]

    return all_of


def _product(m: int, n: int, k: int, kind: str) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x = torch.randn(m, k, device=device, dtype=dtype)
        size = (k, n) if kind == "conv1d" else (n, k)
        weight = torch.randn(*size, device=device, dtype=dtype)
        bias = torch.randn(n, device=device, dtype=dtype)
        turn = in_turn(weight, weight.nbytes, device)
        run = {
            "linear": lambda: F.linear(x, next(turn)),
            "biased": lambda: F.linear(x, next(turn), bias),
            "conv1d": lambda: torch.addmm(bias, x, next(turn)),
        }
        return run[kind]

    return make


def _strided(a: int) -> list[Benchmark]:
    """Heads on the last of 16 positions of each sequence."""
    sizes = itertools.product((1, 4), (2048, 8192, 32000), (256, 1024))
    return [
        Benchmark(
            ops.linear("head", batch, n, k, a, a, kind="strided"),
            _last(batch, n, k),
        )
        for batch, n, k in sizes
        if batch * n * k <= 2**25  # a second each, where they are slow
    ]


def _last(batch: int, n: int, k: int) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x = torch.randn(batch, 16, k, device=device, dtype=dtype)[:, -1:]
        weight = torch.randn(n, k, device=device, dtype=dtype)
        turn = in_turn(weight, weight.nbytes, device)
        return lambda: F.linear(x, next(turn))

    return make


def in_turn(first: Any, size: int, device: str) -> Iterator[Any]:
    """A weight or module of `size` bytes and copies of it, without end.

    On a CPU none is hot in the caches when it is used.
    """
    copies = min(STREAMED // size, 64) if device == "cpu" else 0
    return itertools.cycle([first, *(copy.deepcopy(first) for _ in range(copies))])


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
        op = ops.attention("attention", batch, new, past, q, kv, d, a)
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

    return Benchmark(ops.layer_norm("norm", rows, width, a, a), make)


def _rms_norm(rows: int, width: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        x = torch.randn(1, rows, width, device=device, dtype=dtype)
        norm = LlamaRMSNorm(width).to(device, dtype)
        return lambda: norm(x)

    return Benchmark(ops.rms_norm("norm", rows, width, a, a), make)


def _elementwises(a: int) -> list[Benchmark]:
    sizes = [2**n for n in range(8, 25, 2)]
    made = (_residual_add, _gelu_tanh, _swiglu)
    return [make(size, a) for size in sizes for make in made]


def _gelus(a: int) -> list[Benchmark]:
    return [_gelu(2**n, a) for n in range(8, 25, 4)]


def _residual_add(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x, y = (torch.randn(1, size, device=device, dtype=dtype) for _ in range(2))
        return lambda: x + y

    return Benchmark(ops.residual_add("add", size, a), make)


def _gelu_tanh(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        from transformers.activations import NewGELUActivation

        x, gelu = _random(1, size)(device, dtype), NewGELUActivation()
        return lambda: gelu(x)

    return Benchmark(ops.gelu_tanh("gelu", size, a), make)


def _gelu(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x = _random(1, size)(device, dtype)
        return lambda: F.gelu(x)

    return Benchmark(ops.gelu("gelu", size, a), make)


def _swiglu(size: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        gate, up = (_random(1, size)(device, dtype) for _ in range(2))
        return lambda: F.silu(gate) * up

    return Benchmark(ops.swiglu("swiglu", size, a), make)


def _embeddings(a: int) -> list[Benchmark]:
    sizes = itertools.product(ROWS, (256, 1024, 4096))
    return [_embedding(rows, width, a) for rows, width in sizes]


def _embedding(rows: int, width: int, a: int) -> Benchmark:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        table = torch.randn(8192, width, device=device, dtype=dtype)
        ids = torch.randint(8192, (1, rows), device=device)
        return lambda: F.embedding(ids, table)

    return Benchmark(ops.embedding("embed", rows, width, a, a), make)


def _copies(a: int) -> list[Benchmark]:
    sizes = itertools.product((1, 8), (0, 128, 1024, 4096), HEADS)
    return [_append(batch, past, kv, a) for batch, past, (_, kv) in sizes]


def _append(batch: int, past: int, kv: int, a: int) -> Benchmark:
    new = 1 if past else 512

    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        old = torch.randn(batch, kv, past, 64, device=device, dtype=dtype)
        row = torch.randn(batch, kv, new, 64, device=device, dtype=dtype)
        return lambda: (torch.cat([old, row], -2), torch.cat([old, row], -2))

    return Benchmark(ops.cache_append("cache", batch, new, past, kv, 64, a), make)


CANDIDATES: dict[str, Callable[[int], list[Benchmark]]] = {
    "linear": _products("linear"),
    "biased": _products("biased"),
    "conv1d": _products("conv1d"),
    "strided": _strided,
    "prefill": _prefills,
    "decode": _decodes,
    "norm": _norms,
    "elementwise": _elementwises,
    "gelu": _gelus,
    "embedding": _embeddings,
    "copy": _copies,
}

"""The operations that a calibration can time, as transformers' eager code runs them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from fastlab.clock.timing import Settings
from fastlab.cost import ops
from fastlab.cost.classes import CLASSES
from fastlab.cost.ops import Operation

Run = Callable[[], Any]
Pool = Callable[[int], list["Benchmark"]]  # by the bytes of a value
DRAWN = 2**18  # numbers drawn at most: more take longer to draw than to time
STREAMED = 2**26  # on a CPU weights take turns over so many bytes: no model's are hot


def settings_for(kind: str) -> Settings:
    """Timing settings of one benchmark: about 0.3 s, cold L2 on a GPU."""
    budget = {"budget_s": 0.25, "warmup_s": 0.03, "warmup_cap_s": 0.3}
    fewest = {"n_min": 20, "target": 0.01} if kind == "cuda" else {"n_min": 5}
    return Settings.for_device(kind, warmup_calls=2, **budget, **fewest)


@dataclass(frozen=True)
class New:
    """New tensors of a benchmark: normal numbers on a device, in a dtype.

    After DRAWN of them the same come again.
    """

    device: str
    dtype: torch.dtype

    def __call__(self, *size: int) -> torch.Tensor:
        like: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        count = math.prod(size)
        if count <= DRAWN:
            return torch.randn(*size, **like)
        repeated = torch.randn(DRAWN, **like).repeat(-(-count // DRAWN))
        return repeated[:count].clone().view(size)

    def turn(self, first: Any, size: int | None = None) -> Iterator[Any]:
        """A weight or module of `size` bytes and copies of it, without end.

        On a CPU none is hot in the caches when it is used.
        """
        size = first.nbytes if size is None else size
        copies = min(STREAMED // size, 64) if self.device == "cpu" else 0
        return itertools.cycle([first, *(copy.deepcopy(first) for _ in range(copies))])


@dataclass(frozen=True)
class Benchmark:
    """One operation to time: how it is counted, and what builds the call that runs it.

    build(new) takes a `New` and returns a function without arguments.
    """

    op: Operation
    build: Callable[[New], Run] = field(repr=False)

    def make(self, device: str, dtype: torch.dtype) -> Run:
        """What a clock can time: the operation's inputs are made, and it is ready."""
        return self.build(New(device, dtype))


def over(make: Callable[..., Benchmark], *axes: Iterable[Any]) -> Pool:
    """A benchmark for each combination of the values on the axes."""
    cases = list(itertools.product(*axes))
    return lambda a: [make(*case, a) for case in cases]


def product(kind: str, m: int, size: tuple[int, int], a: int) -> Benchmark:
    """y[m, n] = x[m, k] W[k, n] (+ b), as nn.Linear or GPT-2's Conv1D runs it."""
    n, k = size

    def build(new: New) -> Run:
        x, bias = new(m, k), new(n)
        turn = new.turn(new(k, n) if kind == "conv1d" else new(n, k))
        return {
            "linear": lambda: F.linear(x, next(turn)),
            "biased": lambda: F.linear(x, next(turn), bias),
            "conv1d": lambda: torch.addmm(bias, x, next(turn)),
        }[kind]

    return Benchmark(ops.linear(kind, (m, n, k), a, kind != "linear", kind), build)


def strided(sizes: tuple[int, int, int], a: int) -> Benchmark:
    """A head on the last of 16 positions of each sequence; sizes = (batch, n, k)."""
    batch, n, k = sizes

    def build(new: New) -> Run:
        x, turn = new(batch, 16, k)[:, -1:], new.turn(new(n, k))
        return lambda: F.linear(x, next(turn))

    return Benchmark(ops.linear("head", sizes, a, kind="strided"), build)


def attention(
    batch: int, pair: tuple[int, int], heads: tuple[int, int], d: int, a: int
) -> Benchmark:
    """Fused attention of (new, past) positions with (query, KV) heads of width d."""
    (new_rows, past), (q, kv) = pair, heads

    def build(new: New) -> Run:
        query, keys = new(batch, q, new_rows, d), new(batch, kv, past + new_rows, d)
        values = torch.randn_like(keys)
        how: dict[str, Any] = {"is_causal": new_rows > 1, "enable_gqa": q != kv}
        return lambda: F.scaled_dot_product_attention(query, keys, values, **how)

    op = ops.attention("attention", (batch, new_rows, past, q, kv, d), a)
    return Benchmark(op, build)


def norm(rows: int, width: int, kind: str, a: int) -> Benchmark:
    """torch's layer norm of (1, rows, width), or transformers' RMS norm ("rms")."""

    def build(new: New) -> Run:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        x, rms = new(1, rows, width), LlamaRMSNorm(width).to(new.device, new.dtype)
        ones = torch.ones_like(new(width))
        layer = lambda: F.layer_norm(x, (width,), ones, ones)  # noqa: E731
        return layer if kind == "layer" else lambda: rms(x)

    count = ops.layer_norm if kind == "layer" else ops.rms_norm
    return Benchmark(count("norm", rows, width, a), build)


def elementwise(size: int, name: str, a: int) -> Benchmark:
    """On so many values: "add", GPT-2's "gelu", "swiglu" or the exact "erf" gelu."""

    def build(new: New) -> Run:
        from transformers.activations import NewGELUActivation

        x, y, gelu = new(1, size), new(1, size), NewGELUActivation()
        return {
            "add": lambda: x + y,
            "gelu": lambda: gelu(x),
            "swiglu": lambda: F.silu(x) * y,
            "erf": lambda: F.gelu(x),
        }[name]

    count, called = ELEMENTWISE[name]
    return Benchmark(count(called, size, a), build)


ELEMENTWISE: dict[str, tuple[Callable[..., Operation], str]] = {
    "add": (ops.residual_add, "add"),
    "gelu": (ops.gelu_tanh, "gelu"),
    "swiglu": (ops.swiglu, "swiglu"),
    "erf": (ops.gelu, "gelu"),
}


def embedding(rows: int, width: int, a: int) -> Benchmark:
    """Rows looked up in a table of 8,192."""

    def build(new: New) -> Run:
        table, ids = new(8192, width), torch.randint(8192, (1, rows), device=new.device)
        return lambda: F.embedding(ids, table)

    return Benchmark(ops.embedding("embed", rows, width, a), build)


def cache_append(batch: int, past: int, kv: int, a: int) -> Benchmark:
    """Keys and values of new positions joined to those of the past, by copying."""
    added = 1 if past else 512

    def build(new: New) -> Run:
        old, row = new(batch, kv, past, 64), new(batch, kv, added, 64)
        return lambda: (torch.cat([old, row], -2), torch.cat([old, row], -2))

    return Benchmark(ops.cache_append("cache", batch, added, past, kv, 64, a), build)


RUNS: dict[str, Callable[..., Benchmark]] = {
    **{kind: partial(product, kind) for kind in ("linear", "biased", "conv1d")},
    **{"strided": strided, "prefill": attention, "decode": attention, "norm": norm},
    **{"elementwise": elementwise, "gelu": elementwise, "embedding": embedding},
    "copy": cache_append,
}
CANDIDATES = {name: over(make, *CLASSES[name].axes) for name, make in RUNS.items()}

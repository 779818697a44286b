"""Products with quantized weights that a calibration can time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from fastlab.clock.microbenchmarks import (
    SIZES,
    VOCABULARIES,
    WIDTHS,
    Benchmark,
    Make,
    in_turn,
)
from fastlab.cost import ops
from fastlab.cost.products import PACKED_ROWS, SCALE_BYTES
from fastlab.shrink import linears, rounding
from fastlab.spec.precision import FORMATS, Format, stored_bytes

# One group of int4 stands for the others, which differ in bytes alone.
TIMED = ("int8", "int8-dynamic", "int4-g128", "fp8-dynamic")
ROWS = (1, 4, 16, 64, 256, 1024)
MOST = 2**25  # weights of one product: more take long to quantize


def packed_products(precision: str) -> list[Benchmark]:
    """Products of a quantized precision, over rows and widths of models.

    int8 weights alone are multiplied as stored up to PACKED_ROWS rows only.
    """
    most = {"int8": PACKED_ROWS, "int4": 256}.get(precision.partition("-g")[0], 1024)
    sizes = (*SIZES, *itertools.product(VOCABULARIES, WIDTHS))
    return [
        _packed(precision, m, n, k)
        for n, k in sizes
        for m in ROWS
        if n * k <= MOST and m <= most
    ]


def _packed(precision: str, m: int, n: int, k: int) -> Benchmark:
    made, a = FORMATS[precision], 2
    moved = a * m * (k + n)
    if made.dynamic:
        moved = m * (k + SCALE_BYTES) + (4 if made.weights == "int8" else a) * m * n
    op = ops.linear("packed", m, n, k, a, a)._replace(
        weight_bytes=stored_bytes(made, n, k, a),
        activation_bytes=moved,
        precision=precision,
    )
    return Benchmark(op, _running(made, m, n, k))


def _running(made: Format, m: int, n: int, k: int) -> Make:
    def make(device: str, dtype: torch.dtype) -> Callable[[], Any]:
        x = torch.randn(m, k, device=device, dtype=dtype)
        weight = torch.randn(n, k, device=device, dtype=dtype)
        first = linears.quantized_linear(weight, None, made)
        turn = in_turn(first, _bytes(first), device)
        if made.dynamic:
            return _of_codes(turn, x, made)
        return lambda: next(turn).product(x)

    return make


def _of_codes(turn: Iterator[Any], x: torch.Tensor, made: Format) -> Callable[[], Any]:
    """The product alone of rows that are codes already: all around it is counted apart.

    As the modules do it: few rows of int8 on a CPU go through the weight-only product.
    """
    if made.weights == "fp8":
        codes, scales = rounding.fp8_activations(x)
        return lambda: next(turn).of_codes(codes, scales, x.dtype)
    codes, _ = rounding.int8_activations(x)
    dense = codes.to(x.dtype)
    if len(x) <= linears.DYNAMIC_ROWS and x.device.type == "cpu":
        return lambda: linears.Int8Linear.product(next(turn), dense)
    return lambda: linears.int_product(codes, next(turn).weight)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())

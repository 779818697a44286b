"""int8 and int4 products in Triton, their loop unrolled 1 to 16 times, on a GPU.

    python benchmarks/unroll.py [--out results/gpu] [--rows 1 16]

One line for each kernel, size and factor: trips of the loop, microseconds, GB/s of
stored weights, and the time over that of factor 1. Lines also go to OUT/unroll.csv. On
a machine without triton or an NVIDIA GPU it says so, and times nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fastlab.clock.clocks import clock_for
from fastlab.clock.timing import Settings, time_call
from fastlab.shrink.kernels import int4, int8
from fastlab.spec.formats import FORMATS

FACTORS = (1, 2, 4, 8, 16)
SIZES = ((4864, 896), (896, 4864), (4096, 4096), (4096, 14336))  # outputs, inputs
GROUP = 64


def products(x: Any, weight: Any) -> Iterator[tuple[str, int, int, Any]]:
    """(kernel, inputs in a block, bytes of the weight, product of a factor)."""
    from fastlab.shrink.kernels import unrolled

    eight = int8.rounded(weight, FORMATS["int8"])
    four = int4.rounded(weight, FORMATS[f"int4-g{GROUP}"])
    size = {name: sum(t.nbytes for t in held.values()) for name, held in
            (("int8", eight), ("int4", four))}  # fmt: skip
    by_eight = partial(unrolled.int8_product, x, eight["weight"], eight["scales"])
    by_four = partial(unrolled.int4_product, x, *four.values(), len(weight))
    yield "int8", unrolled.INPUTS, size["int8"], by_eight
    yield f"int4-g{GROUP}", GROUP, size["int4"], by_four


def times(
    device: str,
    settings: Settings,
    rows: Sequence[int] = (1, 16),
    sizes: Sequence[tuple[int, int]] = SIZES,
    factors: Sequence[int] = FACTORS,
    dtype: torch.dtype = torch.bfloat16,
) -> pd.DataFrame:
    """The table, a line for each factor."""
    lines, like = [], {"device": device, "dtype": dtype}
    for m in rows:
        for n, k in sizes:
            x, weight = torch.randn(m, k, **like), torch.randn(n, k, **like)
            for kernel, block, size, product in products(x, weight):
                for unroll in factors:
                    timed = partial(product, unroll)
                    seconds = time_call(timed, settings, clock_for(device)).seconds
                    line = {"kernel": kernel, "rows": m, "outputs": n, "inputs": k}
                    line |= {
                        "unroll": unroll,
                        "trips": -(-k // (block * unroll)),
                    }
                    lines.append(
                        line | {"us": seconds * 1e6, "GB/s": size / seconds / 1e9}
                    )
    found = pd.DataFrame(lines)
    keys = ["kernel", "rows", "outputs", "inputs"]
    found["over factor 1"] = found.us / found.groupby(keys).us.transform("first")
    return found


def main() -> int:
    """Time, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--budget-s", type=float, default=0.3)
    options = parser.parse_args()
    if find_spec("triton") is None:
        print("unroll: triton is not installed")
        return 0
    from fastlab.shrink.kernels import unrolled

    if not unrolled.has_gpu():
        print("unroll: needs an NVIDIA GPU that triton finds")
        return 0
    settings = Settings.for_device("cuda", budget_s=options.budget_s)
    found = times("cuda", settings, options.rows)
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "unroll.csv", index=False)
    print(found.round(2).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

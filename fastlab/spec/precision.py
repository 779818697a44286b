"""The precisions a recipe can name, and what each is made of. No torch."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """What a precision stores, and what it computes in.

    dense: the precision of activations, of the KV cache and of every weight that is not
    quantized. autocast: what torch.autocast runs matrix products in, "" without it.
    weights: the stored format of quantized weights, "" for none; group: inputs that
    share one scale, 0 = a whole output row. dynamic: activations are quantized too, row
    by row, as the call runs.
    """

    dense: str
    autocast: str = ""
    weights: str = ""
    group: int = 0
    dynamic: bool = False


FORMATS = {
    "fp32": Format("fp32"),
    "tf32": Format("tf32"),
    "fp16": Format("fp16"),
    "bf16": Format("bf16"),
    "autocast-fp16": Format("fp32", autocast="fp16"),
    "autocast-bf16": Format("fp32", autocast="bf16"),
    "int8": Format("bf16", weights="int8"),
    "int8-dynamic": Format("bf16", weights="int8", dynamic=True),
    "int4-g32": Format("bf16", weights="int4", group=32),
    "int4-g64": Format("bf16", weights="int4", group=64),
    "int4-g128": Format("bf16", weights="int4", group=128),
    "fp8": Format("bf16", weights="fp8"),
    "fp8-dynamic": Format("bf16", weights="fp8", dynamic=True),
}
PRECISIONS = tuple(FORMATS)
DENSE = ("fp32", "tf32", "fp16", "bf16")
QUANTIZED = tuple(name for name, made in FORMATS.items() if made.weights)

ROWS = 16  # an int4 weight's rows are filled up to a multiple: torch's kernels want it


def stored_bytes(made: Format, n: int, k: int, value: int = 2) -> int:
    """Bytes of one weight (n outputs, k inputs) as stored, its scales included.

    `value` = bytes of one dense value. Dense: n k value. int8: n k, and one dense
    value per row as its scale. fp8: n k, and an fp32 scale per row. int4: two weights
    a byte, and two dense values (scale and zero point) for every group of a row; n is
    rounded up to a multiple of 16. Biases are not in it.
    """
    if made.weights == "int8":
        return n * k + n * value
    if made.weights == "fp8":
        return n * k + n * 4
    if made.weights == "int4":
        filled = -(-n // ROWS) * ROWS
        return filled * k // 2 + filled * (k // made.group) * 2 * value
    return n * k * value


def table_bytes(made: Format, rows: int, width: int, value: int = 2) -> int:
    """Bytes of a token embedding that scope "all" quantizes: int8 in every format.

    A look-up gathers whole rows: int8 with one dense value per row as its scale.
    """
    return rows * width + rows * value if made.weights else rows * width * value

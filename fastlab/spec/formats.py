"""The formats that a recipe's precision can name, one row each. No torch.

Whoever needs a fact of a format asks its row: bytes, costs, estimates, refusals, looks.
What quantizes to it and multiplies by it is a class in shrink/kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ANY = 2**62  # rows: any number of them
TABLE = "int8"  # the format of a token table that scope "all" quantizes


@dataclass(frozen=True)
class Format:
    """What a precision stores, what it computes in, what runs it, and how it looks.

    dense: the precision of activations, of the KV cache and of every weight that is not
    quantized; autocast: what torch.autocast runs matrix products in, "" without it.

    Of quantized weights: weights names their file in shrink/kernels; a group of inputs
    shares its scales (0 = a whole output row), so many of so many bytes (0 = as a dense
    value); rows are filled up to a multiple. dynamic: activations are quantized too,
    row by row, as the call runs; sum_bytes: of each of a product's integer sums that
    are rescaled afterwards, 0 = there are none.
    """

    name: str
    bits: int  # of one stored weight
    color: str  # in figures
    fill: str = "full"  # of marks: what shares its colour with another is half-filled
    dense: str = ""  # itself, where none is given
    autocast: str = ""
    dtype: str = ""  # torch's name of a dense format

    weights: str = ""
    group: int = 0
    scales: int = 1
    scale_bytes: int = 0
    row_multiple: int = 1
    dynamic: bool = False
    sum_bytes: int = 0
    packed_rows: int = ANY  # of products that read weights as stored; with more rows
    compiled_rows: int = 0  # (and in compiled code these) they are written out dense

    gpu_only: bool = False
    cpu_only: bool = False  # one kernel quantizes rows and multiplies them
    capability: tuple[int, ...] = ()  # the least compute capability of an NVIDIA GPU
    cpu_flags: frozenset[str] = frozenset()  # a CPU without any of them only emulates
    operators: Mapping[str, str] = field(default_factory=dict, hash=False)
    needs_peak: bool = False  # only for devices with a peak for its weights' format

    calibration: str = ""  # the format whose timed products stand for its own
    timed_rows: int = 1024  # of a timed product, at most

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", self.dense or self.name)

    @property
    def value(self) -> int:
        """Bytes of one dense weight or activation."""
        return FORMATS[self.dense].bits // 8

    @property
    def narrow(self) -> int:
        """Bytes of what a matrix product writes: less than `value` under autocast."""
        return FORMATS[self.autocast or self.dense].bits // 8

    @property
    def shares_table(self) -> bool:
        """Whether a tied head reads a quantized token table as it is."""
        return self.weights == TABLE

    @property
    def linear(self) -> str:
        """Its class in that file: Int8Linear, Int8DynamicLinear, ..."""
        return f"{self.weights.title()}{'Dynamic' * self.dynamic}Linear"

    def dequantizes(self, m: int, compiled: bool) -> bool:
        """Whether weights are written out dense before a product of m rows."""
        return m > max(self.packed_rows, self.compiled_rows if compiled else 0)

    def check_group(self, width: int, of: str) -> None:
        """Raise ValueError where groups do not divide a width, which is `of`."""
        if self.group and width % self.group:
            groups = f"groups of {self.group} do not divide {of}"
            raise ValueError(f"precision={self.name!r}: {groups}")


# Operators have private names in torch: one that a release drops makes a format
# unsupported, and nothing else.
INT8 = Format(
    *("int8", 8, "#D55E00", "full", "bf16"),
    weights="int8",
    # On a CPU, up to so many rows torch's product of dense activations wins: over
    # widening the weight, and over the integer product (4096 x 4096, 2 threads, AMX).
    packed_rows=16,
    operators={"cpu": "_weight_int8pack_mm"},
    calibration="int8",
)
INT4 = Format(
    *("int4-g128", 4, "#7a21dd", "full", "bf16"),
    weights="int4",
    group=128,
    scales=2,  # a scale and a zero point
    row_multiple=16,  # torch's kernels want it
    capability=(8, 0),
    operators={"cpu": "_weight_int4pack_mm_for_cpu", "cuda": "_weight_int4pack_mm"},
    calibration="int4-g128",  # groups differ in bytes alone
    timed_rows=256,
)
INT4_GROUPS = {32: "bottom", 64: "left", 128: "full", 256: "top"}  # and their marks
FP8 = Format(
    *("fp8", 8, "#601860", "full", "bf16"),
    weights="fp8",
    scale_bytes=4,
    packed_rows=0,
    compiled_rows=1,  # a compiler fuses the widening into the product
    gpu_only=True,
    capability=(8, 9),
    needs_peak=True,
)

# A row for each. Colours are told apart under protan, deutan and tritan simulation: the
# worst pair of the dense formats, int8 and int4 is 34 apart, the others 25 from one
# another and from those (CIE76, Machado 2009).
_ROWS = (
    Format("fp32", 32, "#000000", dtype="float32"),
    Format("tf32", 32, "#a96b59", dtype="float32", gpu_only=True, capability=(8, 0)),
    Format(
        *("fp16", 16, "#0072B2", "left"),
        dtype="float16",
        cpu_flags=frozenset({"avx512_fp16", "amx_fp16", "avx10_2", "asimdhp"}),
    ),
    Format(
        *("bf16", 16, "#0072B2"),
        dtype="bfloat16",
        capability=(8, 0),
        cpu_flags=frozenset({"avx512_bf16", "amx_bf16", "avx10_2", "bf16"}),
    ),
    Format("autocast-fp16", 32, "#9090a8", "left", "fp32", "fp16"),
    Format("autocast-bf16", 32, "#9090a8", "full", "fp32", "bf16"),
    INT8,
    replace(
        INT8,
        name="int8-dynamic",
        color="#781800",
        dynamic=True,
        sum_bytes=4,
        packed_rows=ANY,
        operators={"cpu": "_int_mm", "cuda": "_int_mm"},
        calibration="int8-dynamic",
    ),
    *(
        replace(INT4, name=f"int4-g{group}", group=group, fill=fill)
        for group, fill in INT4_GROUPS.items()
    ),
    *(
        replace(
            INT4,
            name=f"int4-g{group}-dynamic",
            color="#180078",
            fill=fill,
            group=group,
            dynamic=True,
            cpu_only=True,
            operators={},
            calibration="int4-g128-dynamic",
            timed_rows=1024,
        )
        for group, fill in INT4_GROUPS.items()
    ),
    FP8,
    replace(
        FP8,
        name="fp8-dynamic",
        fill="left",
        dynamic=True,
        packed_rows=ANY,
        operators={"cuda": "_scaled_mm"},
        calibration="fp8-dynamic",
    ),
)
FORMATS = {form.name: form for form in _ROWS}
PRECISIONS = tuple(FORMATS)
DENSE = tuple(form.name for form in _ROWS if form.dtype)
QUANTIZED = tuple(form.name for form in _ROWS if form.weights)
TIMED = tuple(dict.fromkeys(form.calibration for form in _ROWS if form.calibration))


def calibrated_alike(precision: str) -> tuple[str, ...]:
    """The precision, and others whose timed products stand for its own."""
    own = FORMATS[precision].calibration
    alike = (form.name for form in _ROWS if own and form.calibration == own)
    return tuple(dict.fromkeys((precision, *alike)))


def stored_bytes(form: Format, n: int, k: int, value: int = 2) -> int:
    """Bytes of one weight (n outputs, k inputs) as stored; biases are not in it.

    `value` = bytes of one dense value. Quantized: each row's codes, and the scales of
    each of its groups; n is rounded up to the format's multiple.
    """
    if not form.weights:
        return n * k * value
    rows = -(-n // form.row_multiple) * form.row_multiple
    scales = form.scales * (k // form.group if form.group else 1)
    return rows * (k * form.bits // 8 + scales * (form.scale_bytes or value))


def table_bytes(form: Format, rows: int, width: int, value: int = 2) -> int:
    """Bytes of a token embedding that scope "all" quantizes: int8 in every format.

    A look-up gathers whole rows: int8 with one dense value per row as its scale. Rows
    of int4 lie apart in torch's own orders, and a table of them costs quality.
    """
    stored = FORMATS[TABLE] if form.weights else form
    return stored_bytes(stored, rows, width, value)

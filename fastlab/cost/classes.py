"""Classes of operations: all that is known of one beside its cost, which ops.py counts.

How it is calibrated, fitted and estimated, and what a compiler makes of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from fastlab.spec.storage import BITS

DIMS = {"product": 3, "attention": 6, "look-up": 2, "bytes": 0}  # sizes of each form


class OpClass(NamedTuple):
    """How operations of a class are timed, fitted, and replaced where they were not.

    form: what their time goes by, one of DIMS: the sizes in `Operation.dims`, or the
    bytes alone. timed: microbenchmarks in a calibration of one precision; needs: they
    are only timed on a "cpu", in "fp32", with a "compiler"; axes: their sizes, in all
    combinations. like: the class whose fit serves where this one was not timed. peak:
    the prior share of the device's, and the sd of its log; depth_s: the typical one, 0
    where results wait for nothing. compiled: the class in code that is compiled.
    generated: a compiler wrote the kernel, so that a call of its own is no part of it.
    """

    form: str = "bytes"
    timed: int = 0
    axes: tuple[Iterable[Any], ...] = ()
    needs: tuple[str, ...] = ()
    like: str = ""
    peak: tuple[float, float] = (0.75, 0.5)
    depth_s: float = 0.0
    compiled: str = ""
    generated: bool = False


_ROWS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192)
_WIDTHS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 14336)
# At most 8 outputs of a layer's product for each input, or inputs for each output.
_SIZES = tuple((n, k) for n, k in product(_WIDTHS, _WIDTHS) if n <= 8 * k <= 64 * n)
SIZES = (*_SIZES, *product((2048, 8192, 32000, 128256), _WIDTHS))  # and those of heads
_HEADS = ((4, 4), (8, 2), (12, 12), (16, 16), (16, 8), (32, 8), (32, 32))
_LENGTHS = (128, 512, 1024, 2048, 4096)
_PROMPTS = [(n, 0) for n in sorted((32, 256, *_LENGTHS))]  # new rows, and past ones
_STEPS = [(1, n) for n in (16, *_LENGTHS, 8192)]
_STRIDED = [  # a second each, where they are slow: no larger ones
    (m, n, k)
    for m, n, k in product((1, 4), (2048, 8192, 32000), (256, 1024))
    if m * n * k <= 2**25
]
_STORED = (256, 256), (768, 768), (3072, 768), (768, 3072), (2048, 2048), (4096, 2048)
_SPARSE = ((0.5, 0.8, 0.9, 0.95), (1, 16, 128), _STORED)  # zeros, rows, (n, k)
# (n, k) of one row: from the widths of small models to the heads of large ones.
_ONE_ROW = (
    *((256, 256), (768, 768), (2048, 512), (768, 2048), (2048, 2048), (8192, 768)),
    *((32000, 1024), (4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096)),
)
_VALUES = [2**n for n in range(8, 25, 2)]
_CALLS = (_HEADS, (64, 128))  # of attention: heads, and their width

_plain = partial(OpClass, "product", like="linear", depth_s=1e-9)
_attends = partial(OpClass, "attention", depth_s=1e-11)
_moves = partial(OpClass, "bytes", like="elementwise")
_SLOW = (0.1, 1.5)  # a share of the peak that is less, and little known
# Where a class was not timed, the one most like it serves: kinds that only move bytes
# are much alike, and so are products. Not the sparse rows of a CPU, which are far
# slower, nor look-ups (on a CPU, a third of the rate of elementwise kernels).
CLASSES = {
    "linear": _plain(21, (_ROWS, SIZES), compiled="gemv"),
    "biased": _plain(7, (_ROWS, _SIZES), compiled="gemv"),
    "conv1d": _plain(10, (_ROWS, _SIZES)),  # GPT-2's: the weight is transposed
    # Of each sequence's last position, cut out of all: on a CPU a class of its own,
    # whose few samples tell no depth.
    "strided": _plain(
        6, (_STRIDED,), ("cpu",), peak=_SLOW, depth_s=0.0, compiled="gemv"
    ),
    "matmul": _plain(),  # of two activations
    "gemv": _plain(6, (_ONE_ROW,), ("compiler",), generated=True),  # of one row
    # Weights in compressed sparse rows (fp32 on a CPU), and with 2 of 4 left.
    "csr": _plain(16, _SPARSE, ("fp32",), like="", peak=_SLOW),
    "semi": _plain(),
    "prefill": _attends(14, ((1, 2, 8), _PROMPTS, *_CALLS)),
    "decode": _attends(12, ((1, 2, 8), _STEPS, *_CALLS)),
    "plain": OpClass("attention"),  # several kernels, the score matrix in memory
    # Look-ups of whole weights, of whole numbers in any precision: eager kernels, and
    # one that is compiled, whose work is not in its bytes.
    "palette": OpClass(
        "look-up", 12, (BITS, _STORED), ("fp32",), compiled="palette-compiled"
    ),
    "palette-compiled": OpClass(
        "look-up", 6, (BITS, _STORED), ("fp32", "compiler"), generated=True
    ),
    "norm": _moves(7, (_ROWS, (256, 768, 2048, 4096), ("layer", "rms"))),
    "elementwise": _moves(8, (_VALUES, ("add", "gelu", "swiglu"))),
    "gelu": _moves(3, (_VALUES[::2], ("erf",))),
    "embedding": _moves(3, (_ROWS, (256, 1024, 4096))),
    "copy": _moves(3, ((1, 8), (0, 128, 1024, 4096), [kv for _, kv in _HEADS])),
}


def of_form(form: str) -> tuple[str, ...]:
    """The names of the classes whose time goes by such sizes."""
    return tuple(name for name, one in CLASSES.items() if one.form == form)

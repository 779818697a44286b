"""What a product costs whose weight is stored sparse, or as indices into tables.

Kernel by kernel as the modules of shrink/stored.py run them: compressed rows (csr),
2:4 for sparse tensor cores, and palettes, which are looked up into a dense weight that
is then multiplied. FLOPs are those really done: zeros that are not stored cost none. A
bias is added afterwards, by a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastlab.cost import ops
from fastlab.cost.ops import Dims, Operation
from fastlab.cost.passes import ForwardPass
from fastlab.spec.storage import (
    Sharing,
    Sparsity,
    palette_bytes,
    sparse_bytes,
    zeros_per_row,
)

WIDE = 4  # bytes of a number in CSR products: torch's CPU one wants fp32
CODE, INDEX = 1, 8  # bytes of an unpacked code, and of the index torch gathers by
SEMI_MULTIPLE = 8  # of rows in a 2:4 product of 16-bit values; others are filled up
# A CSR product comes out transposed and pointwise work leaves it so: of the products
# that take such a result, none has to transpose it.
TRANSPOSED = ("mlp.down",)


def stored_product(
    step: ForwardPass, name: str, dims: Dims, bias: bool
) -> Iterator[Operation]:
    """y[m, n] = x[m, k] W[k, n] (+ b) with W as the recipe stores it."""
    builders = {"palette": _looked_up, "csr": _csr, "2:4": _semi}
    for op in builders[step.storage](step, name, dims):
        read = step.value * dims[1] if bias and op.name == name else 0
        yield op._replace(weight_bytes=op.weight_bytes + read) if read else op
    if bias:
        yield ops.elementwise(f"{name}.bias", dims[0] * dims[1], step.value, 2, 1, 0)


def csr_product(name: str, dims: Dims, sparsity: Sparsity) -> Operation:
    """y^T[n, m] = W[n, k] x^T[k, m] in fp32, with `left` weights in each row of W.

    2 m n left FLOPs, and dims those of the dense product with as many.
    """
    m, n, k = dims
    left = k - zeros_per_row(sparsity, k)
    flops, moved = 2 * m * n * left, WIDE * m * (k + n)
    costs = (1, flops, flops, sparse_bytes(sparsity, n, k), moved)
    return Operation(name, "csr", *costs, dims=(m, n, left), precision="fp32")


def _csr(step: ForwardPass, name: str, dims: Dims) -> Iterator[Operation]:
    """x widened and transposed, the product, its result narrowed."""
    sparsity, cast, (m, n, k) = step.recipe.sparsity, step.value != WIDE, dims
    assert sparsity is not None
    both = step.value + WIDE
    if cast:
        yield ops.pointwise(f"{name}.widen", m * k * both, 0)
    if m > 1 and name not in TRANSPOSED:
        yield Operation(f"{name}.transpose", "copy", activation_bytes=2 * WIDE * m * k)
    yield csr_product(name, dims, sparsity)
    if cast:
        yield ops.pointwise(f"{name}.narrow", m * n * both, 0)


def _semi(step: ForwardPass, name: str, dims: Dims) -> Iterator[Operation]:
    """Half of the multiplications, half of the values and where they were.

    By cuSPARSELt, which writes the result untransposed (torch/sparse/
    semi_structured.py, cusparselt_mm); x is filled up with rows of zeros before.
    """
    sparsity, a, (m, n, k) = step.recipe.sparsity, step.value, dims
    assert sparsity is not None
    rows, flops = -(-m // SEMI_MULTIPLE) * SEMI_MULTIPLE, m * n * k
    if rows > m:  # zeros written, x read and written over them
        moved = a * k * (rows + 2 * m)
        yield Operation(f"{name}.fill", "copy", activation_bytes=moved, launches=2)
    stored, moved = sparse_bytes(sparsity, n, k, a), a * rows * (k + n)
    yield Operation(name, "semi", 1, flops, flops, stored, moved, dims=dims)


def _looked_up(step: ForwardPass, name: str, dims: Dims) -> Iterator[Operation]:
    """The weight looked up, and a dense product of what was just written."""
    sharing, a = step.recipe.sharing, step.value
    assert sharing is not None
    yield lookup(f"{name}.lookup", sharing, *dims[1:], a)
    yield ops.of_written(ops.linear(name, dims, a))


def lookup(name: str, sharing: Sharing, n: int, k: int, a: int) -> Operation:
    """A weight (n, k) of `a` bytes a value from its packed indices and its tables.

    Codes of zeros are written (1 pass of one byte a weight); then for each bit a plane
    is shifted apart (1 pass), masked (2), shifted into place (2), joined (3); the codes
    become 8-byte indices and those values. One kernel once compiled.
    """
    bits, filled = sharing.bits, -(-n * k // 8) * 8
    unpacked = CODE * filled * (1 + 8 * bits)
    moved = unpacked + n * k * (CODE + INDEX + INDEX + a)
    launches = 4 * bits + 4  # and the numbers of the bits, the zeros, cast, gather
    stored = palette_bytes(sharing, n, k, a)
    cost = ops.pointwise(name, moved, a * n * k, launches, stored, "palette")
    return cost._replace(dims=(n * k, bits))

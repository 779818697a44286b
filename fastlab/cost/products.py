"""What a matrix product costs under each precision: dense, autocast, quantized.

Weights that are stored sparse or shared are in stored.py.

Weights of few rows' products are counted as the packed operators of a CPU, and compiled
kernels, read them: as stored, once. (Eager kernels of a GPU widen int8 through memory
first at any number of rows.) The operation "linear" is the product alone; what casts,
quantizes, widens or rescales around it is told apart, at the dense precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastlab.cost import ops
from fastlab.cost.ops import Dims, Operation
from fastlab.cost.passes import ForwardPass
from fastlab.cost.stored import stored_product
from fastlab.spec.formats import Format, stored_bytes

QUANTIZE_LAUNCHES, RESCALE_LAUNCHES = 8, 3  # of rows of x, of the int32 result
SCALE_BYTES = 4  # of one row of activations


def product(
    step: ForwardPass,
    name: str,
    dims: Dims,
    bias: bool = False,
    narrow: bool = False,
    kind: str = "linear",
) -> Iterable[Operation]:
    """y[m, n] = x[m, k] W[k, n] (+ b) of a layer, under the step's precision.

    narrow: under autocast x comes in 16 bit, since a product made it. kind: "conv1d"
    for a dense weight that is kept transposed.
    """
    if step.storage != "dense":
        return stored_product(step, name, dims, bias)
    if step.format.weights:
        return _quantized(step, name, dims, bias)
    # GPT-2 keeps the weights of its layers transposed, and all of them have biases.
    if bias and step.shape.family == "gpt2":
        kind = "conv1d"
    core = ops.linear(name, dims, step.narrow, bias, kind)
    return _autocast(step, core, narrow) if step.format.autocast else (core,)


def head_product(
    step: ForwardPass, name: str, dims: Dims, bias: bool = False
) -> Iterable[Operation]:
    """The same of what follows the layers: never sparse or shared, nor quantized
    where the recipe's scope leaves it dense.
    """
    left = step.storage != "dense" or step.recipe.scope == "layers"
    if (step.format.weights and not left) or step.format.autocast:
        return product(step, name, dims, bias)
    # Of many rows the last: transformers cuts them out where they lie. Our own
    # runtimes copy them first.
    ours = (step.static or step.compiled) and step.recipe.runtime != "transformers"
    kind = "strided" if step.scored < step.new and not ours else "linear"
    return (ops.linear(name, dims, step.value, bias, kind),)


def _autocast(step: ForwardPass, core: Operation, narrow: bool) -> Iterator[Operation]:
    """A product in 16 bit of weights in fp32, which are cast in each call.

    torch keeps a cast for the rest of its region only of weights that require
    gradients (aten/src/ATen/autocast_mode.cpp, cached_cast), and ours do not.
    """
    name, (m, n, k) = core.name, core.dims
    if not narrow:
        yield ops.pointwise(f"{name}.cast", m * k * (step.value + step.narrow), 0)
    written = core.weight_bytes
    read = written // step.narrow * step.value
    launches = 2 if read > step.value * n * k else 1  # of a bias too
    yield ops.pointwise(f"{name}.weight.cast", written, written, launches, read)
    yield ops.of_written(core)._replace(precision=step.format.autocast)


def packed_product(form: Format, name: str, dims: Dims, a: int) -> Operation:
    """The product alone, by weights as stored; of rows that are codes if dynamic."""
    m, n, k = dims
    moved = a * m * (k + n)
    if form.cpu_only:  # rows of codes, and their scales, written and read beside x
        moved += 2 * m * (k + SCALE_BYTES)
    elif form.dynamic:
        moved = m * (k + SCALE_BYTES) + (form.sum_bytes or a) * m * n
    return ops.linear(name, dims, a)._replace(
        weight_bytes=stored_bytes(form, n, k, a),
        activation_bytes=moved,
        precision=form.name,
    )


def _quantized(
    step: ForwardPass, name: str, dims: Dims, bias: bool
) -> Iterator[Operation]:
    """A product with quantized weights, by what its format makes of it."""
    form, a, (m, n, k) = step.format, step.value, dims
    packed = packed_product(form, name, dims, a)
    stored = packed.weight_bytes + (a * n if bias else 0)
    if form.dequantizes(m, step.compiled):
        # To the dense precision, a dense product, times the scales.
        yield ops.pointwise(f"{name}.widen", a * n * k, a * n * k, weights=stored)
        yield ops.of_written(ops.linear(name, dims, a))
        yield ops.elementwise(f"{name}.rescale", m * n, a, 2, 1, 0)
    else:
        packed = packed._replace(weight_bytes=stored)
        yield from _dynamic(form, packed, a) if form.dynamic else (packed,)
    if bias:
        yield ops.elementwise(f"{name}.bias", m * n, a, 2, 1, 0)


def _dynamic(form: Format, packed: Operation, a: int) -> Iterator[Operation]:
    """Rows of x quantized, multiplied as such; integer sums are rescaled.

    All in one kernel where the format has one.
    """
    if form.cpu_only:
        yield packed
        return
    name, (m, n, k) = packed.name, packed.dims
    # One byte a number and a scale a row, by way of fp32: cast (16 bit only), abs,
    # amax, clamp, scale, divide, round, clamp, cast.
    rows, cast = m * (k + SCALE_BYTES), a == 2
    moved = (4 * 10 + (a + 4) * cast) * m * k + rows
    launches = QUANTIZE_LAUNCHES + cast
    yield ops.pointwise(f"{name}.quantize", moved, a * m * k + rows, launches)
    yield packed
    if sums := form.sum_bytes:  # times both scales in fp32; fused, sums stay
        moved, fused = m * n * (4 * 5 + a), m * n * (sums - a)
        yield ops.pointwise(f"{name}.rescale", moved, fused, RESCALE_LAUNCHES)

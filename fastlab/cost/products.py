"""What a matrix product costs under each precision: dense, autocast, quantized.

Weights that are stored sparse or shared are in stored.py.

Weights of few rows' products are counted as the packed operators of a CPU, and compiled
kernels, read them: as stored, once. (Eager kernels of a GPU widen int8 through memory
first at any number of rows.) The operation "linear" is the product alone; what casts,
quantizes, widens or rescales around it is told apart, at the dense precision.
"""

from __future__ import annotations

from fastlab.cost import ops
from fastlab.cost.ops import Operation
from fastlab.cost.passes import ForwardPass
from fastlab.cost.stored import stored_product
from fastlab.spec.precision import stored_bytes

QUANTIZE_LAUNCHES, RESCALE_LAUNCHES = 8, 3  # of rows of x, of the int32 result
SCALE_BYTES = 4  # of one row of activations
PACKED_ROWS = 16  # with more, int8 weights are widened: shrink.linears.INT8_ROWS


def product(
    step: ForwardPass,
    name: str,
    m: int,
    n: int,
    k: int,
    bias: bool = False,
    narrow: bool = False,
) -> tuple[Operation, ...]:
    """y[m, n] = x[m, k] W[k, n] (+ b) of a layer, under the step's precision.

    narrow: under autocast x comes in 16 bit, since a product made it.
    """
    if step.storage != "dense":
        return tuple(stored_product(step, name, m, n, k, bias))
    if step.format.weights:
        return quantized(step, name, m, n, k, bias)
    if step.format.autocast:
        return autocast(step, name, m, n, k, bias, narrow)
    a = step.value
    return (ops.linear(name, m, n, k, a, a, bias, _kind(step, bias)),)


def _kind(step: ForwardPass, bias: bool) -> str:
    """GPT-2 keeps the weights of its layers transposed, and all of them have biases."""
    return "conv1d" if bias and step.shape.family == "gpt2" else "linear"


def head_product(
    step: ForwardPass, name: str, m: int, n: int, k: int, bias: bool = False
) -> tuple[Operation, ...]:
    """The same of what follows the layers: never sparse or shared, nor quantized
    where the recipe's scope leaves it dense.
    """
    made = step.format
    left = step.storage != "dense" or step.recipe.scope == "layers"
    if (made.weights and not left) or made.autocast:
        return product(step, name, m, n, k, bias)
    kind = "strided" if _cut_out(step) else "linear"
    return (ops.linear(name, m, n, k, step.value, step.value, bias, kind),)


def _cut_out(step: ForwardPass) -> bool:
    """Whether the head's rows are the last of many: transformers cuts them out where
    they lie. Our own runtimes copy them first.
    """
    ours = (step.static or step.compiled) and step.recipe.runtime != "transformers"
    return step.scored < step.new and not ours


def autocast(
    step: ForwardPass, name: str, m: int, n: int, k: int, bias: bool, narrow: bool
) -> tuple[Operation, ...]:
    """A product in 16 bit of weights in fp32, which are cast in each call.

    torch keeps a cast for the rest of its region only of weights that require
    gradients (aten/src/ATen/autocast_mode.cpp, cached_cast), and ours do not.
    """
    weights, a = k * n + (n if bias else 0), step.narrow
    cast = Operation(
        f"{name}.weight.cast",
        "elementwise",
        weight_bytes=step.value * weights,
        activation_bytes=a * weights,
        launches=2 if bias else 1,
        fused_bytes=a * weights,
    )
    made = ops.linear(name, m, n, k, a, a, bias, _kind(step, bias))._replace(
        weight_bytes=0,
        activation_bytes=a * (m * (k + n) + weights),
        precision=step.format.autocast,
    )
    return (cast, made) if narrow else (activation_cast(step, name, m * k), cast, made)


def activation_cast(step: ForwardPass, name: str, elements: int) -> Operation:
    """fp32 activations written once more in 16 bit."""
    moved = elements * (step.value + step.narrow)
    return Operation(
        f"{name}.cast", "elementwise", activation_bytes=moved, fused_bytes=0
    )


def quantized(
    step: ForwardPass, name: str, m: int, n: int, k: int, bias: bool
) -> tuple[Operation, ...]:
    """A product with quantized weights, by what its format makes of it."""
    form, a = step.format, step.value
    stored = stored_bytes(form, n, k, a) + (a * n if bias else 0)
    if form.dynamic:
        listed = _dynamic(step, name, m, n, k, stored)
    elif dequantizes(step, m):
        listed = _wide(step, name, m, n, k, stored)
    else:
        core = ops.linear(name, m, n, k, a, a)
        listed = (core._replace(weight_bytes=stored, precision=step.recipe.precision),)
    if not bias:
        return listed
    return (*listed, ops.elementwise(f"{name}.bias", m * n, a, 2, 1, 0))


def dequantizes(step: ForwardPass, m: int) -> bool:
    """Whether weights are written out dense before a product of m rows.

    int4 products never do, int8 ones with more rows than the packed operator takes;
    fp8 has none, but a compiler fuses the widening into a product of one row.
    """
    if step.format.dynamic:
        return False
    if step.format.weights == "fp8":
        return m > 1 or not step.compiled
    return step.format.weights == "int8" and m > PACKED_ROWS


def _wide(
    step: ForwardPass, name: str, m: int, n: int, k: int, stored: int
) -> tuple[Operation, ...]:
    """Weights to the dense precision, a dense product of them, times their scales."""
    a = step.value
    core = ops.linear(name, m, n, k, a, a)
    widen = Operation(
        f"{name}.widen",
        "elementwise",
        weight_bytes=stored,
        activation_bytes=a * n * k,
        fused_bytes=a * n * k,
    )
    moved = core.activation_bytes + core.weight_bytes
    product = core._replace(weight_bytes=0, activation_bytes=moved)
    return widen, product, ops.elementwise(f"{name}.rescale", m * n, a, 2, 1, 0)


def _dynamic(
    step: ForwardPass, name: str, m: int, n: int, k: int, stored: int
) -> tuple[Operation, ...]:
    """Rows of x quantized, multiplied as such; int8 sums are int32 and rescaled."""
    a, whole = step.value, step.format.weights == "int8"
    core = ops.linear(name, m, n, k, a, a)
    product = core._replace(
        weight_bytes=stored,
        activation_bytes=m * (k + SCALE_BYTES) + (4 if whole else a) * m * n,
        precision=step.recipe.precision,
    )
    quantize = _quantize(name, m, k, a)
    return (
        (quantize, product, _rescale(name, m, n, a)) if whole else (quantize, product)
    )


def _quantize(name: str, m: int, k: int, a: int) -> Operation:
    """x[m, k] in one byte a number and a scale a row, by way of fp32.

    Cast (16 bit only), abs, amax, clamp, scale, divide, round, clamp, cast.
    """
    stored, cast = m * (k + SCALE_BYTES), a == 2
    return Operation(
        f"{name}.quantize",
        "elementwise",
        activation_bytes=(4 * 10 + (a + 4) * cast) * m * k + stored,
        launches=QUANTIZE_LAUNCHES + cast,
        fused_bytes=a * m * k + stored,
    )


def _rescale(name: str, m: int, n: int, a: int) -> Operation:
    """int32 y[m, n] times the scales of its row and column in fp32, and cast back."""
    return Operation(
        f"{name}.rescale",
        "elementwise",
        activation_bytes=m * n * (4 * 5 + a),
        launches=RESCALE_LAUNCHES,
        fused_bytes=m * n * (4 - a),  # what follows reads int32
    )

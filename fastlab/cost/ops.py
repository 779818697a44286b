"""What one operation of each kind costs: FLOPs, bytes and kernels launched.

One small function per kind. Adding an operation is adding a function here and its class
to classes.py, naming it in the family's layer (`operations.py`), and what runs it in
clock/microbenchmarks.py. FLOPs = 2 x MACs, and only matrix products have any;
everything else costs bytes and launches. `a` = bytes of one value, an activation's or a
weight's; other letters are element counts or sizes.

Bytes of elementwise work are those that transformers' eager code moves, kernel by
kernel, since that is the runtime they are compared with.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from fastlab.cost.classes import of_form

PRODUCTS = of_form("product")  # matrix products; libraries run them at many speeds
Dims = tuple[int, int, int]  # (m, n, k) of a product: rows, outputs, inputs


class Operation(NamedTuple):
    """One kind of work in a model, and how often the call does it.

    All costs are those of one execution; multiply by `times`. flops treats attention
    as dense, flops_causal as a causal kernel would. dims = (m, n, k) of a product, k =
    inputs left of each output where rows are compressed; (batch, new, past, heads,
    kv_heads, head_dim) of an attention; (weights, bits) of a look-up. precision: what
    it computes in, "" for the recipe's dense precision. fused_bytes: activation bytes
    once a compiler has fused it: each input read once, the output written once, and
    nothing of what the kernel it joins has at hand; -1 where it stays as it is.
    compiled: it runs so.
    """

    name: str
    kind: str
    times: int = 1
    flops: int = 0
    flops_causal: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    kv_read_bytes: int = 0
    kv_write_bytes: int = 0
    launches: int = 1
    dims: tuple[int, ...] = ()
    precision: str = ""
    fused_bytes: int = -1
    compiled: bool = False

    @property
    def bytes(self) -> int:
        """All bytes moved to or from memory by one execution."""
        activations = self.weight_bytes + self.activation_bytes
        return activations + self.kv_read_bytes + self.kv_write_bytes


def linear(
    name: str, dims: Dims, a: int, bias: bool = False, kind: str = "linear"
) -> Operation:
    """y[m, n] = x[m, k] W[k, n] (+ b): 2 m n k FLOPs; kind: one of PRODUCTS."""
    m, n, k = dims
    kind = "biased" if bias and kind == "linear" else kind
    flops, weights = 2 * m * n * k, a * n * (k + bias)
    return Operation(name, kind, 1, flops, flops, weights, a * m * (k + n), dims=dims)


def of_written(product: Operation) -> Operation:
    """A product of a weight that was just written: it is no weight that is read."""
    moved = product.activation_bytes + product.weight_bytes
    return product._replace(weight_bytes=0, activation_bytes=moved)


def attention(
    name: str, dims: tuple[int, ...], a: int, causal: bool = True
) -> Operation:
    """Fused attention: q k^T and p v, 4 d FLOPs for each (query, key) pair and head.

    dims as in Operation. Scores never leave the chip; keys and values are read once for
    each kv head.
    """
    batch, new, past, heads, kv_heads, d = dims
    pairs = new * (past + new)
    # a causal mask lets query i see past + i + 1 keys
    kept = new * past + new * (new + 1) // 2 if causal else pairs
    per_pair = 4 * batch * heads * d
    queries, keys = 2 * batch * new * heads * d, 2 * batch * (past + new) * kv_heads * d
    costs = (1, per_pair * pairs, per_pair * kept, 0, a * queries, a * keys)
    return Operation(name, "attention", *costs, dims=dims)


def plain_attention(fused: Operation, a: int, masked: bool, upcast: bool) -> Operation:
    """The same attention as separate kernels: the score matrix goes through memory.

    q k^T writes it, the scale takes 2 passes, the mask 3 (it is read too), softmax 2
    (in fp32 where `upcast`, cast back from there) and p v reads it. No causal saving.
    Grouped keys and values are first copied out to all heads.
    """
    batch, new, past, heads, kv_heads, d = fused.dims
    scores = batch * heads * new * (past + new)
    soft = 4 if upcast else a
    cast = soft + a if soft != a else 0
    per_score = a * (1 + 2 + (3 if masked else 0) + 1 + 1) + soft + cast
    copied = 0 if heads == kv_heads else 6 * a * batch * (past + new) * heads * d
    return fused._replace(
        flops_causal=fused.flops,
        activation_bytes=fused.activation_bytes + scores * per_score + copied,
        launches=4 + masked + (cast > 0) + 2 * (copied > 0),
    )


def pointwise(
    name: str,
    moved: int,
    fused: int,
    launches: int = 1,
    weights: int = 0,
    kind: str = "elementwise",
) -> Operation:
    """Pointwise kernels by their bytes: activations that eager ones move, those left
    when all is one kernel, and weights that are read.
    """
    costs = (1, 0, 0, weights, moved)
    return Operation(name, kind, *costs, launches=launches, fused_bytes=fused)


def layer_norm(name: str, rows: int, width: int, a: int) -> Operation:
    """One fused kernel: read, write, scale and shift."""
    moved = 2 * a * rows * width
    return pointwise(name, moved, moved, weights=2 * a * width, kind="norm")


def rms_norm(name: str, rows: int, width: int, a: int) -> Operation:
    """transformers' RMSNorm: pow, mean, add, rsqrt, mul, mul, in fp32.

    pow (r, w), mean (r), mul (r, w) move 4-byte values, the last mul (r, w) the
    activation's; 16-bit input is cast there and back by two more kernels.
    """
    elements, cast = rows * width, a == 2
    moved = elements * (5 * 4 + 2 * a + 2 * (a + 4) * cast)
    return pointwise(name, moved, 2 * a * elements, 6 + 2 * cast, a * width, "norm")


def elementwise(
    name: str, elements: int, a: int, passes: int, launches: int, fused: int = 2
) -> Operation:
    """Pointwise kernels that read or write `elements` values `passes` times in all.

    fused: passes that are left when all is one kernel.
    """
    one = a * elements
    return pointwise(name, one * passes, one * fused, launches)


# Each of (name, elements, a). x + y: read two, write one. Fused into a norm, which has
# one of them at hand.
residual_add = partial(elementwise, passes=3, launches=1)
# x cos + rotate_half(x) sin on q or k: mul, neg (of half), cat, mul, add.
rope = partial(elementwise, passes=10, launches=5)
# GPT-2's gelu_new written out: pow, tanh, 4 mul, 2 add = 8 kernels, 18 passes.
gelu_tanh = partial(elementwise, passes=18, launches=8)
# silu(gate) * up: two kernels, five passes; read two, write one when fused.
swiglu = partial(elementwise, passes=5, launches=2, fused=3)


def gelu(name: str, elements: int, a: int) -> Operation:
    """The fused GELU: read, write. A kind of its own: on CPUs it is no light kernel."""
    return pointwise(name, 2 * a * elements, 2 * a * elements, kind="gelu")


def embedding(name: str, rows: int, width: int, a: int) -> Operation:
    """Table look-up: only the rows that are asked for are read."""
    size = a * rows * width
    return Operation(name, "embedding", weight_bytes=size, activation_bytes=size)


def cache_append(
    name: str, batch: int, new: int, past: int, kv_heads: int, d: int, a: int
) -> Operation:
    """transformers' DynamicCache: `cat` copies all old keys and values with the new."""
    row = 2 * a * batch * kv_heads * d
    moved = (row * new, row * past, row * (past + new))
    return Operation(name, "copy", 1, 0, 0, 0, *moved, launches=2)

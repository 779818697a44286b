"""Point -> its operations, parameters, KV cache and peak memory. Exact, no torch.

T = batch x new positions, H = hidden, q and kv heads of width d, F = ffn, V = vocab.
One dense layer of llama or qwen3 costs
2T H d (q + 2 kv) + 2T q d H + 6T H F + 4 B q S (P + S) d FLOPs, the head 2T H V.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby

from fastlab.cost import ops
from fastlab.cost.attention import attention
from fastlab.cost.fusion import fuse_all, fused
from fastlab.cost.kv_cache import reuse
from fastlab.cost.ops import Operation
from fastlab.cost.passes import COMPILED_BY_US, ForwardPass, passes
from fastlab.cost.products import head_product, product
from fastlab.spec.point import Point
from fastlab.spec.precision import table_bytes
from fastlab.spec.recipe import PLAIN


def operations(point: Point) -> list[Operation]:
    """Every operation of the point's call, in order; `times` says how often each.

    Decode steps that are all alike, as on a static cache, are told once.
    """
    steps = passes(point)
    if len(steps) == 1:
        return list(forward(steps[0]))
    alike = groupby(steps)
    return [op for step, same in alike for op in forward(step, len(list(same)))]


def forward(step: ForwardPass, times: int = 1) -> Iterator[Operation]:
    """The operations of one forward pass that is done so many times."""
    begin, layer, end = _FAMILIES[step.shape.family]
    yield from reuse(step)
    first = _begun(step, begin(step))
    last = (*end(step), *_sampling(step))
    if not step.compiled:
        yield from first if times == 1 else _repeated(first, times)
        yield from _repeated(layer(step), times * step.shape.layers)
        yield from _repeated(last, times)
    else:
        loops = step.recipe.runtime in COMPILED_BY_US
        yield from _repeated(first, times, True)
        inner = fused(layer(step), loops)
        yield from _repeated(inner, times * step.shape.layers, True)
        yield from _repeated(fused(last, loops), times, True)


def _repeated(
    ops: Iterable[Operation], times: int, compiled: bool = False
) -> list[Operation]:
    # _replace, at 4 times the cost of this, was a tenth of an estimate.
    new, count = tuple.__new__, (times,)
    if compiled:
        return [new(Operation, op[:2] + count + op[3:-1] + (True,)) for op in ops]
    return [new(Operation, op[:2] + count + op[3:]) for op in ops]


def _begun(step: ForwardPass, ops: Iterator[Operation]) -> Iterable[Operation]:
    if step.masked:
        ops = chain(ops, [_mask(step)])
    return fuse_all(ops) if step.compiled else ops


def _mask(step: ForwardPass) -> Operation:
    """Which rows of the cache a query sees; for eager attention, as added numbers."""
    a, launches = (1, 2) if step.fused else (step.value, 5)
    return ops.elementwise("mask", step.new * step.keys, a, 2, launches)


def _sampling(step: ForwardPass) -> Iterator[Operation]:
    """The largest logit's token, noted; and the position moved on."""
    if step.samples:
        values = step.batch * step.scored * step.shape.vocab
        yield ops.elementwise("sample", values, step.narrow, 1, 7, fused=1)


def products_of(point: Point) -> list[tuple[str, int, int]]:
    """(name, outputs, inputs) of the matrix products of one layer, as if dense."""
    step = passes(point)[0]._replace(format=PLAIN.format, storage="dense")
    _, layer, _ = _FAMILIES[step.shape.family]
    products = (op for op in layer(step) if op.kind in ops.PRODUCTS)
    return [(op.name, op.dims[1], op.dims[2]) for op in products]


def _embedding(step: ForwardPass) -> Operation:
    """The rows of the token table, unpacked where it is quantized too."""
    h, a, rows = step.shape.hidden, step.value, step.rows
    plain = ops.embedding("embed.tokens", rows, h, a, a)
    if step.recipe.scope != "all":
        return plain
    return plain._replace(
        weight_bytes=table_bytes(step.format, rows, h, a),
        activation_bytes=a * rows * h * 4,
        launches=4,
        fused_bytes=a * rows * h,
    )


def _gpt2_begin(step: ForwardPass) -> Iterator[Operation]:
    h, a = step.shape.hidden, step.value
    yield _embedding(step)
    yield ops.embedding("embed.positions", step.new, h, a, a)
    yield ops.residual_add("embed.add", step.rows * h, a)


def _gpt2_layer(step: ForwardPass) -> Iterator[Operation]:
    s, t, a = step.shape, step.rows, step.value
    h, f = s.hidden, s.ffn
    yield ops.layer_norm("norm1", t, h, a, a)
    yield from product(step, "qkv", t, 3 * h, h, True)
    yield from attention(step)
    yield from product(step, "out", t, h, h, True, narrow=True)
    yield ops.residual_add("residual1", t * h, a)
    yield ops.layer_norm("norm2", t, h, a, a)
    yield from product(step, "mlp.up", t, f, h, True)
    yield ops.gelu_tanh("mlp.gelu", t * f, a)
    yield from product(step, "mlp.down", t, h, f, True)
    yield ops.residual_add("residual2", t * h, a)


def _gpt2_end(step: ForwardPass) -> Iterator[Operation]:
    yield ops.layer_norm("norm", step.rows, step.shape.hidden, step.value, step.value)
    yield from _head(step)


def _head(step: ForwardPass, bias: bool = False) -> tuple[Operation, ...]:
    rows, s = step.batch * step.scored, step.shape
    return head_product(step, "head", rows, s.vocab, s.hidden, bias)


def _llama_begin(step: ForwardPass) -> Iterator[Operation]:
    s = step.shape
    yield _embedding(step)
    # Angles of the new positions, in fp32: outer product, cat, cos, sin, two scales,
    # two casts; the position ids and the mask's bookkeeping take about as many again.
    yield ops.elementwise("rope.angles", step.new * s.head_dim, 4, 10, 11)


def _llama_layer(step: ForwardPass) -> Iterator[Operation]:
    s, t, a = step.shape, step.rows, step.value
    h, f = s.hidden, s.ffn
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    yield ops.rms_norm("norm1", t, h, a, a)
    yield from product(step, "q", t, q, h)
    yield from product(step, "k", t, kv, h)
    yield from product(step, "v", t, kv, h)
    if s.family == "qwen3":
        yield ops.rms_norm("q.norm", t * s.heads, s.head_dim, a, a)
        yield ops.rms_norm("k.norm", t * s.kv_heads, s.head_dim, a, a)
    yield ops.rope("rope.q", t * q, a)
    yield ops.rope("rope.k", t * kv, a)
    yield from attention(step)
    yield from product(step, "out", t, h, q, narrow=True)
    yield ops.residual_add("residual1", t * h, a)
    yield ops.rms_norm("norm2", t, h, a, a)
    yield from product(step, "mlp.gate", t, f, h)
    yield from product(step, "mlp.up", t, f, h)
    yield ops.swiglu("mlp.swiglu", t * f, step.narrow)
    yield from product(step, "mlp.down", t, h, f, narrow=True)
    yield ops.residual_add("residual2", t * h, a)


def _llama_end(step: ForwardPass) -> Iterator[Operation]:
    yield ops.rms_norm("norm", step.rows, step.shape.hidden, step.value, step.value)
    yield from _head(step)


def _bert_begin(step: ForwardPass) -> Iterator[Operation]:
    h, t, a = step.shape.hidden, step.rows, step.value
    yield _embedding(step)
    yield ops.embedding("embed.types", t, h, a, a)
    yield ops.embedding("embed.positions", step.new, h, a, a)
    yield ops.elementwise("embed.add", t * h, a, passes=6, launches=2)
    yield ops.layer_norm("embed.norm", t, h, a, a)


def _bert_layer(step: ForwardPass) -> Iterator[Operation]:
    s, t, a = step.shape, step.rows, step.value
    h, f = s.hidden, s.ffn
    for name in ("q", "k", "v"):
        yield from product(step, name, t, h, h, True)
    yield from attention(step)
    yield from product(step, "out", t, h, h, True, narrow=True)
    yield ops.residual_add("residual1", t * h, a)
    yield ops.layer_norm("norm1", t, h, a, a)
    yield from product(step, "mlp.up", t, f, h, True)
    yield ops.gelu("mlp.gelu", t * f, step.narrow)
    yield from product(step, "mlp.down", t, h, f, True, narrow=True)
    yield ops.residual_add("residual2", t * h, a)
    yield ops.layer_norm("norm2", t, h, a, a)


def _bert_end(step: ForwardPass) -> Iterator[Operation]:
    h, t, a = step.shape.hidden, step.rows, step.value
    yield from head_product(step, "head.transform", t, h, h, True)
    yield ops.gelu("head.gelu", t * h, step.narrow)
    yield ops.layer_norm("head.norm", t, h, a, a)
    yield from _head(step, bias=True)


_FAMILIES = {
    "gpt2": (_gpt2_begin, _gpt2_layer, _gpt2_end),
    "llama": (_llama_begin, _llama_layer, _llama_end),
    "qwen3": (_llama_begin, _llama_layer, _llama_end),
    "bert": (_bert_begin, _bert_layer, _bert_end),
}


PARTS = ("projections", "attention", "MLP", "head")
BYTES = {
    "weights": "weight_bytes",
    "activations": "activation_bytes",
    "KV read": "kv_read_bytes",
    "KV written": "kv_write_bytes",
}


def part_of(op: Operation) -> str | None:
    """Which of PARTS an operation's FLOPs belong to; None for those without any.

    projections = queries, keys, values and output; attention = scores and their use.
    """
    if not op.flops:
        return None
    if op.kind == "attention":
        return "attention"
    whole = {"mlp": "MLP", "head": "head"}
    return whole.get(op.name.partition(".")[0], "projections")


def total(point: Point, field: str) -> int:
    """Sum of one field of Operation ("flops", "weight_bytes", ...) over the call."""
    return sum(op.times * getattr(op, field) for op in operations(point))


def flops_by_part(point: Point) -> dict[str, int]:
    """Dense FLOPs of the call, by part of the model, in the order of PARTS."""
    found = dict.fromkeys(PARTS, 0)
    for op in operations(point):
        if part := part_of(op):
            found[part] += op.times * op.flops
    return found


def bytes_by_kind(point: Point) -> dict[str, int]:
    """Bytes that the call moves through memory, by what they are."""
    return {kind: total(point, field) for kind, field in BYTES.items()}

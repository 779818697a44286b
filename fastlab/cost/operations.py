"""Point -> its operations, parameters, KV cache and peak memory. Exact, no torch.

T = batch x new positions, H = hidden, q and kv heads of width d, F = ffn, V = vocab.
One dense layer of llama or qwen3 costs
2T H d (q + 2 kv) + 2T q d H + 6T H F + 4 B q S (P + S) d FLOPs, the head 2T H V.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from fastlab.cost import ops, program
from fastlab.cost.attention import attention, reuse
from fastlab.cost.fusion import fuse_all, fused
from fastlab.cost.ops import Operation
from fastlab.cost.passes import ForwardPass, passes
from fastlab.cost.products import head_product, product
from fastlab.spec.formats import table_bytes
from fastlab.spec.point import Point
from fastlab.spec.shape import GROUPED


def operations(point: Point) -> list[Operation]:
    """Every operation of the point's call, in order; `times` says how often each.

    Decode steps that are all alike, as on a static cache, are told once.
    """
    alike = groupby(passes(point))
    return [op for step, same in alike for op in forward(step, len(list(same)))]


def forward(step: ForwardPass, times: int = 1) -> Iterator[Operation]:
    """The operations of one forward pass that is done so many times."""
    yield from reuse(step)
    if step.shape.config:
        yield from _traced(step, times)
        return
    first: Iterable[Operation] = _begin(step)
    if step.masked:
        first = (*first, _mask(step))
    layer: Iterable[Operation] = _layer(step)
    last: Iterable[Operation] = (*_end(step), *_sampling(step))
    if step.compiled:
        loops = step.recipe.engine.ours
        first, layer, last = fuse_all(first), fused(layer, loops), fused(last, loops)
    parts = (first, times), (layer, times * step.shape.layers), (last, times)
    yield from _often(parts, step.compiled)


def _often(parts: Iterable[Any], compiled: bool) -> Iterator[Operation]:
    for part, often in parts:
        for op in part:
            # _replace, at 4 times the cost of this, was a tenth of an estimate.
            yield tuple.__new__(Operation, (*op[:2], often, *op[3:-1], compiled))


def _traced(step: ForwardPass, times: int) -> Iterator[Operation]:
    """The same of a model whose operations were found by watching it."""
    parts = [(made, times * often) for often, made in program.parts(step)]
    if step.masked:
        parts.insert(0, ([_mask(step)], times))
    if sampling := [*_sampling(step)]:
        parts.append((sampling, times))
    if step.compiled:
        loops = step.recipe.engine.ours
        parts = [(fused(made, loops), often) for made, often in parts]
    yield from _often(parts, step.compiled)


def _mask(step: ForwardPass) -> Operation:
    """Which rows of the cache a query sees; for eager attention, as added numbers."""
    a, launches = (1, 2) if step.fused else (step.value, 5)
    return ops.elementwise("mask", step.new * step.keys, a, 2, launches)


def _sampling(step: ForwardPass) -> Iterator[Operation]:
    """The largest logit's token, noted; and the position moved on."""
    if step.samples:
        values = step.batch * step.scored * step.shape.vocab
        yield ops.elementwise("sample", values, step.narrow, 1, 7, fused=1)


def _embedding(step: ForwardPass) -> Operation:
    """The rows of the token table, unpacked where it is quantized too."""
    h, a, rows = step.shape.hidden, step.value, step.rows
    plain = ops.embedding("embed.tokens", rows, h, a)
    if step.recipe.scope != "all":
        return plain
    return plain._replace(
        weight_bytes=table_bytes(step.format, rows, h, a),
        activation_bytes=a * rows * h * 4,
        launches=4,
        fused_bytes=a * rows * h,
    )


def _begin(step: ForwardPass) -> Iterator[Operation]:
    """Token rows and positions, up to the first layer."""
    s, t, a = step.shape, step.rows, step.value
    yield _embedding(step)
    if s.family in GROUPED:
        # Angles of the new positions, in fp32: outer product, cat, cos, sin, two
        # scales, two casts; the position ids and the mask's bookkeeping take about as
        # many again.
        yield ops.elementwise("rope.angles", step.new * s.head_dim, 4, 10, 11)
        return
    if s.family == "bert":
        yield ops.embedding("embed.types", t, s.hidden, a)
    yield ops.embedding("embed.positions", step.new, s.hidden, a)
    if s.family == "gpt2":
        yield ops.residual_add("embed.add", t * s.hidden, a)
    else:
        yield ops.elementwise("embed.add", t * s.hidden, a, passes=6, launches=2)
        yield _norm(step, "embed.norm")


def _norm(step: ForwardPass, name: str) -> Operation:
    kind = ops.rms_norm if step.shape.family in GROUPED else ops.layer_norm
    return kind(name, step.rows, step.shape.hidden, step.value)


def _layer(step: ForwardPass) -> Iterator[Operation]:
    """One layer: norms go before its halves, in bert behind them."""
    s, t, before = step.shape, step.rows, step.shape.family != "bert"
    biased = s.family not in GROUPED
    if before:
        yield _norm(step, "norm1")
    yield from _projections(step, biased)
    yield from attention(step)
    heads = s.heads * s.head_dim
    yield from product(step, "out", (t, s.hidden, heads), biased, narrow=True)
    yield ops.residual_add("residual1", t * s.hidden, step.value)
    yield _norm(step, "norm2" if before else "norm1")
    yield from _mlp(step, biased)
    yield ops.residual_add("residual2", t * s.hidden, step.value)
    if not before:
        yield _norm(step, "norm2")


def _projections(step: ForwardPass, biased: bool) -> Iterator[Operation]:
    """Queries, keys and values: normed in qwen3, rotated but in gpt2 and bert."""
    s, t, a, h = step.shape, step.rows, step.value, step.shape.hidden
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    apart = (("q", q), ("k", kv), ("v", kv))
    for name, width in (("qkv", 3 * h),) if s.family == "gpt2" else apart:
        yield from product(step, name, (t, width, h), biased)
    if s.family == "qwen3":
        yield ops.rms_norm("q.norm", t * s.heads, s.head_dim, a)
        yield ops.rms_norm("k.norm", t * s.kv_heads, s.head_dim, a)
    if s.family in GROUPED:
        yield ops.rope("rope.q", t * q, a)
        yield ops.rope("rope.k", t * kv, a)


def _mlp(step: ForwardPass, biased: bool) -> Iterator[Operation]:
    s, t, h, f = step.shape, step.rows, step.shape.hidden, step.shape.ffn
    if s.family in GROUPED:
        yield from product(step, "mlp.gate", (t, f, h))
    yield from product(step, "mlp.up", (t, f, h), biased)
    if s.family in GROUPED:
        yield ops.swiglu("mlp.swiglu", t * f, step.narrow)
    elif s.family == "bert":
        yield ops.gelu("mlp.gelu", t * f, step.narrow)
    else:
        yield ops.gelu_tanh("mlp.gelu", t * f, step.value)
    yield from product(step, "mlp.down", (t, h, f), biased, s.family != "gpt2")


def _end(step: ForwardPass) -> Iterator[Operation]:
    """What follows the layers: bert transforms all rows before the head."""
    s, t, encoder = step.shape, step.rows, step.shape.family == "bert"
    if encoder:
        yield from head_product(step, "head.transform", (t, s.hidden, s.hidden), True)
        yield ops.gelu("head.gelu", t * s.hidden, step.narrow)
    yield _norm(step, "head.norm" if encoder else "norm")
    dims = (step.batch * step.scored, s.vocab, s.hidden)
    yield from head_product(step, "head", dims, encoder)


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

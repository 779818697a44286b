"""Point -> its operations, parameters, KV cache and peak memory. Exact, no torch.

T = batch x new positions, H = hidden, q and kv heads of width d, F = ffn, V = vocab.
One dense layer of llama or qwen3 costs
2T H d (q + 2 kv) + 2T q d H + 6T H F + 4 B q S (P + S) d FLOPs, the head 2T H V.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastlab.cost import kinds
from fastlab.cost.kinds import Operation
from fastlab.spec.point import Point
from fastlab.spec.shape import GROUPED, ModelShape

VALUE_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Step:
    """One forward pass: `new` positions after `past` cached ones, head on `scored`."""

    shape: ModelShape
    batch: int
    new: int
    past: int
    scored: int  # positions per sequence whose logits are computed
    value: int  # bytes of one weight, and of one activation
    cached: bool
    fused: bool  # attention in one kernel

    @property
    def rows(self) -> int:
        """T: batch x new positions."""
        return self.batch * self.new


def operations(point: Point) -> list[Operation]:
    """Every operation of the point's call, in order; `times` says how often each."""
    return [op for step in steps(point) for op in _forward(step)]


def steps(point: Point) -> list[Step]:
    """The forward passes of a call: one, or prefill and new_tokens - 1 decode steps.

    Without a cache a decode step runs over the whole sequence again.
    """
    work, n = point.workload, point.workload.prompt_len
    if work.phase == "prefill":
        return [_step(point, n, 0, n if work.logits == "all" else 1)]
    if work.phase == "decode":
        return [_decode_step(point, n)]
    later = [_decode_step(point, n + i) for i in range(work.new_tokens - 1)]
    return [_step(point, n, 0, 1), *later]


def _decode_step(point: Point, past: int) -> Step:
    if point.recipe.cache == "none":
        return _step(point, past + 1, 0, 1)
    return _step(point, 1, past, 1)


def _step(point: Point, new: int, past: int, scored: int) -> Step:
    recipe = point.recipe
    return Step(
        point.shape,
        point.workload.batch,
        new,
        past,
        scored,
        VALUE_BYTES[recipe.format.dense],
        recipe.cache != "none",
        recipe.attention != "eager",
    )


def _forward(step: Step) -> Iterator[Operation]:
    begin, layer, end = _FAMILIES[step.shape.family]
    yield from begin(step)
    layers = (step.shape.layers,)
    for op in layer(step):
        # _replace, at 4 times the cost, was a tenth of an estimate.
        yield tuple.__new__(Operation, op[:2] + layers + op[3:])
    yield from end(step)


def _attention(step: Step) -> Iterator[Operation]:
    s, a = step.shape, step.value
    if step.cached:
        sizes = (step.batch, step.new, step.past, s.kv_heads, s.head_dim, a)
        yield kinds.cache_append("cache", *sizes)
    causal = s.family != "bert"
    heads = (s.heads, s.kv_heads, s.head_dim)
    fused = kinds.attention(
        "attention", step.batch, step.new, step.past, *heads, a, causal
    )
    if step.fused:
        yield fused
    else:  # llama and qwen3 take the softmax in fp32
        masked, upcast = causal and step.new > 1, s.family in GROUPED
        yield kinds.plain_attention(fused, a, masked, upcast)


def _gpt2_begin(step: Step) -> Iterator[Operation]:
    h, a = step.shape.hidden, step.value
    yield kinds.embedding("embed.tokens", step.rows, h, a, a)
    yield kinds.embedding("embed.positions", step.new, h, a, a)
    yield kinds.residual_add("embed.add", step.rows * h, a)


def _gpt2_layer(step: Step) -> Iterator[Operation]:
    s, t, a = step.shape, step.rows, step.value
    h, f = s.hidden, s.ffn
    yield kinds.layer_norm("norm1", t, h, a, a)
    yield kinds.linear("qkv", t, 3 * h, h, a, a, bias=True)
    yield from _attention(step)
    yield kinds.linear("out", t, h, h, a, a, bias=True)
    yield kinds.residual_add("residual1", t * h, a)
    yield kinds.layer_norm("norm2", t, h, a, a)
    yield kinds.linear("mlp.up", t, f, h, a, a, bias=True)
    yield kinds.gelu_tanh("mlp.gelu", t * f, a)
    yield kinds.linear("mlp.down", t, h, f, a, a, bias=True)
    yield kinds.residual_add("residual2", t * h, a)


def _gpt2_end(step: Step) -> Iterator[Operation]:
    yield kinds.layer_norm("norm", step.rows, step.shape.hidden, step.value, step.value)
    yield _head(step)


def _head(step: Step, bias: bool = False) -> Operation:
    rows, s, a = step.batch * step.scored, step.shape, step.value
    return kinds.linear("head", rows, s.vocab, s.hidden, a, a, bias)


def _llama_begin(step: Step) -> Iterator[Operation]:
    s, a = step.shape, step.value
    yield kinds.embedding("embed.tokens", step.rows, s.hidden, a, a)
    # Angles of the new positions, in fp32: outer product, cat, cos, sin, two scales,
    # two casts; the position ids and the mask's bookkeeping take about as many again.
    yield kinds.elementwise("rope.angles", step.new * s.head_dim, 4, 10, 11)


def _llama_layer(step: Step) -> Iterator[Operation]:
    s, t, a = step.shape, step.rows, step.value
    h, f = s.hidden, s.ffn
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    yield kinds.rms_norm("norm1", t, h, a, a)
    yield kinds.linear("q", t, q, h, a, a)
    yield kinds.linear("k", t, kv, h, a, a)
    yield kinds.linear("v", t, kv, h, a, a)
    if s.family == "qwen3":
        yield kinds.rms_norm("q.norm", t * s.heads, s.head_dim, a, a)
        yield kinds.rms_norm("k.norm", t * s.kv_heads, s.head_dim, a, a)
    yield kinds.rope("rope.q", t * q, a)
    yield kinds.rope("rope.k", t * kv, a)
    yield from _attention(step)
    yield kinds.linear("out", t, h, q, a, a)
    yield kinds.residual_add("residual1", t * h, a)
    yield kinds.rms_norm("norm2", t, h, a, a)
    yield kinds.linear("mlp.gate", t, f, h, a, a)
    yield kinds.linear("mlp.up", t, f, h, a, a)
    yield kinds.swiglu("mlp.swiglu", t * f, a)
    yield kinds.linear("mlp.down", t, h, f, a, a)
    yield kinds.residual_add("residual2", t * h, a)


def _llama_end(step: Step) -> Iterator[Operation]:
    yield kinds.rms_norm("norm", step.rows, step.shape.hidden, step.value, step.value)
    yield _head(step)


def _bert_begin(step: Step) -> Iterator[Operation]:
    h, t, a = step.shape.hidden, step.rows, step.value
    yield kinds.embedding("embed.tokens", t, h, a, a)
    yield kinds.embedding("embed.types", t, h, a, a)
    yield kinds.embedding("embed.positions", step.new, h, a, a)
    yield kinds.elementwise("embed.add", t * h, a, passes=6, launches=2)
    yield kinds.layer_norm("embed.norm", t, h, a, a)


def _bert_layer(step: Step) -> Iterator[Operation]:
    s, t, a = step.shape, step.rows, step.value
    h, f = s.hidden, s.ffn
    for name in ("q", "k", "v"):
        yield kinds.linear(name, t, h, h, a, a, bias=True)
    yield from _attention(step)
    yield kinds.linear("out", t, h, h, a, a, bias=True)
    yield kinds.residual_add("residual1", t * h, a)
    yield kinds.layer_norm("norm1", t, h, a, a)
    yield kinds.linear("mlp.up", t, f, h, a, a, bias=True)
    yield kinds.gelu("mlp.gelu", t * f, a)
    yield kinds.linear("mlp.down", t, h, f, a, a, bias=True)
    yield kinds.residual_add("residual2", t * h, a)
    yield kinds.layer_norm("norm2", t, h, a, a)


def _bert_end(step: Step) -> Iterator[Operation]:
    h, t, a = step.shape.hidden, step.rows, step.value
    yield kinds.linear("head.transform", t, h, h, a, a, bias=True)
    yield kinds.gelu("head.gelu", t * h, a)
    yield kinds.layer_norm("head.norm", t, h, a, a)
    yield _head(step, bias=True)


_FAMILIES = {
    "gpt2": (_gpt2_begin, _gpt2_layer, _gpt2_end),
    "llama": (_llama_begin, _llama_layer, _llama_end),
    "qwen3": (_llama_begin, _llama_layer, _llama_end),
    "bert": (_bert_begin, _bert_layer, _bert_end),
}

"""Evaluates what tracing found: a model's operations at any batch and length. No torch.

A program holds the operations of a pass with their sizes as sums of monomials (see
sizes.py); here they become the Operations that the closed forms would give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from fastlab.cost import ops
from fastlab.cost.attention import attend, row_bytes, unpack, write
from fastlab.cost.columns import most
from fastlab.cost.ops import Dims, Operation
from fastlab.cost.passes import ForwardPass
from fastlab.cost.products import head_product, product
from fastlab.spec.kept import program_of
from fastlab.tracing.sizes import Terms, monomial, symbols

Made = Iterable[Operation]


class Heads(NamedTuple):
    """What attention needs to know of a shape."""

    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    rotates: bool = True
    family: str = ""


def phase_of(step: ForwardPass) -> dict[str, Any]:
    """What a program knows of such a pass, at the width of its activations."""
    program, width = program_of(step.shape), str(step.value)
    if width in program["faults"]:
        raise ValueError(program["faults"][width])
    calls = program["calls"][width]
    alone = step.new == 1 and step.past > 0
    if step.past and "decode" not in calls:
        raise ValueError(f"{program['class']} keeps nothing of the past: cache=none")
    decodes = step.source > 0 or (alone and "decode" in calls)
    phase: dict[str, Any] = calls["decode" if decodes else "prefill"]
    return phase


class Values(dict[int, int]):
    """The monomials of a program at the sizes of one pass; `values_of` keeps some."""

    def __init__(self, step: ForwardPass) -> None:
        sizes = step.batch, step.new, step.past, step.scored, step.source
        self.known = symbols(*sizes)
        self.known["N"] = step.keys
        if step.masked:  # the whole cache is read
            self.known["P"] = step.keys - step.new
        self.whole = step.masked and step.recipe.runtime != "transformers"
        self.program = program_of(step.shape)
        packed = self.program.get("published") or {"numbers": 0}
        dense = packed["numbers"] * step.value
        # Bytes of the weights of layers as others packed them, in those of dense ones.
        self.packed = packed["bytes"] / dense if dense else 1.0

    def __missing__(self, i: int) -> int:
        name = self.program["monomials"][i]
        name = re.sub(r"M\d+", "N", name) if self.whole else name
        self[i] = monomial(name, self.known)
        return self[i]

    def __call__(self, terms: Terms) -> int:
        if len(terms) == 1:
            (c, i), *_ = terms
            return c * self[i]
        return sum([c * self[i] for c, i in terms])


values_of = lru_cache(maxsize=16)(Values)


def parts(step: ForwardPass) -> Iterator[tuple[int, list[Operation]]]:
    """(times, operations) of one forward pass of a traced model, in order."""
    value = values_of(step)
    for times, listed in phase_of(step)["parts"]:
        found: list[Operation] = []
        for kind, name, *facts in listed:
            found += MAKERS[kind](step, name, value, *facts)
        yield times, found


def _product(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    """apart: by a weight of no linear (a router's), which stays dense."""
    rows, n, k, many, bias, turned, apart = of
    dims = (value(rows), n, k)
    if apart and (step.format.weights or step.storage != "dense"):
        alone = [ops.linear(name, dims, step.value, bool(bias))]
        return alone if many == 1 else _repeated(alone, many, 1)
    if name.startswith("head."):
        return head_product(step, "head", dims, bool(bias))
    kind = "conv1d" if turned else "linear"
    made = product(step, name, dims, bool(bias), kind=kind)
    share = many * value.packed
    return made if share == 1 else _repeated(made, share, 1)


def _repeated(made: Iterable[Operation], times: float, calls: int) -> list[Operation]:
    """Weights of so many matrices, in `calls` kernels, of the rows of all together."""
    return [
        op._replace(
            weight_bytes=round(op.weight_bytes * times), launches=op.launches * calls
        )
        for op in made
    ]


def _matmul(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    flops, moved, times, weights, n, k = of
    total, outputs, inner = value(flops), value(n) or 1, value(k) or 1
    dims = (max(1, total // (2 * outputs * inner)), outputs, inner)
    costs = (1, total, total, value(weights), value(moved))
    return [Operation(name, "matmul", *costs, launches=value(times), dims=dims)]


def _experts(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    """The top_k experts of each token; E (1 - (1 - k/E)^T) are read at random."""
    tokens, top_k, experts, sizes = of
    rows, a = value(tokens), step.value
    touched = experts * (1 - (1 - top_k / experts) ** rows)
    for n, k in sizes:
        yield from _by_expert(step, name, (rows * top_k, n, k), touched, value.packed)
    # Tokens are sorted by expert and copied, gated, weighted, and added up.
    (n, k), *_ = sizes
    moved = a * rows * top_k * (5 * min(n, k) + 2 * max(n, k))
    yield ops.pointwise(f"{name}.gate", moved, moved, 12)


def _by_expert(
    step: ForwardPass, name: str, dims: Dims, touched: float, packed: float
) -> Iterable[Operation]:
    """Products of all rows by so many experts: one that is grouped, if they are dense.

    Stored ones each take their own rows, in a product each.
    """
    rows, n, k = dims
    if not step.format.weights and step.storage == "dense":
        return _repeated(product(step, name, dims), touched * packed, 1)
    own = max(1, round(rows / touched))
    made = product(step, name, (own, n, k))
    return [
        op._replace(
            flops=op.flops * rows // own,
            flops_causal=op.flops_causal * rows // own,
            activation_bytes=round(op.activation_bytes * touched),
            fused_bytes=round(max(op.fused_bytes * touched, -1)),
            dims=(rows, *op.dims[1:]) if op.flops else op.dims,
        )
        for op in _repeated(made, touched, max(1, round(touched)))
    ]


def _cache(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    """A window keeps one position less of the past than it holds."""
    kv_heads, d, dv, window = of
    if step.cached:
        past = min(step.past, window - 1) if window else step.past
        changed = {"shape": Heads(kv_heads, kv_heads, (d + dv) // 2, True)}
        step = step._replace(past=past, **changed)  # type: ignore[arg-type]
        yield from write(step)
        yield from unpack(step)


def _attention(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    """Heads of width d, values of width dv; a window that is full needs a mask."""
    heads, kv_heads, d, dv, keys, causal, window = of
    seen = value(keys)
    masked = step.masked or bool(window and causal and step.new > 1 and seen > window)
    sizes = Heads(heads, kv_heads, (d + dv) // 2, bool(causal))
    fused = step.fused and value.program["sdpa"]
    changed: dict[str, Any] = {
        "shape": sizes,
        "keys": seen,
        "masked": masked,
        "fused": fused,
    }
    return attend(step._replace(**changed))


def _bytes(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    kind, moved, fused, launches, weights = of
    told = value(moved), value(fused), value(launches), value(weights)
    return [ops.pointwise(name, *told, kind)]


def _embedding(step: ForwardPass, name: str, value: Values, *of: Any) -> Made:
    rows, width = of
    return [ops.embedding(name, value(rows), width, step.value)]


MAKERS: dict[str, Any] = {
    "product": _product,
    "matmul": _matmul,
    "experts": _experts,
    "cache": _cache,
    "attention": _attention,
    "bytes": _bytes,
    "embedding": _embedding,
}


def _found(phase: dict[str, Any], wanted: str) -> list[tuple[int, Any]]:
    """(times, facts) of each operation of a kind."""
    parts = phase["parts"]
    return [(n, facts) for n, ops in parts for kind, _, *facts in ops if kind == wanted]


def cache_bytes(step: ForwardPass, rows: int) -> int:
    """Bytes that the cache holds after a pass: keys, values, states of all layers.

    rows: of each layer of a static one; transformers' keeps no more than a window.
    """
    phase, theirs = phase_of(step), step.recipe.runtime == "transformers"
    if not step.static:
        value = values_of(step)
        return sum(times * value(terms) for times, terms, _ in phase["cache"])
    total = 0
    for times, (kv_heads, d, dv, window) in _found(phase, "cache"):
        heads = Heads(kv_heads, kv_heads, (d + dv) // 2, True)
        own = step._replace(shape=heads)  # type: ignore[arg-type]
        kept = min(rows, window) if window and theirs else rows
        total += times * step.batch * kept * row_bytes(own)
    return total


def live_bytes(step: ForwardPass) -> int:
    """The most bytes that are alive at once in a pass, beside weights and cache.

    Activations; the old keys of a layer, which outlive their longer copy (with a window
    so do the values); and what windows no longer need but is not let go, since they are
    views.
    """
    value, phase = values_of(step), phase_of(step)
    fused = step.fused and value.program["sdpa"]
    alive = phase["live"] if fused else phase["live"] + phase["eager"]
    live = most(map(value, alive))
    if not fused:
        attends = [facts for _, facts in _found(phase, "attention")]
        masks = {facts[6]: value(facts[4]) for facts in attends if facts[5]}
        live += step.value * step.new * sum(masks.values())
    if step.static or not step.cached:
        return live
    for times, kept, stored in phase["cache"]:
        live += times * (value(stored) - value(kept))
    old = [
        kv_heads * (min(step.past, window - 1) * (d + dv) if window else step.past * d)
        for _, (kv_heads, d, dv, window) in _found(phase, "cache")
    ]
    return live + step.batch * step.value * most(old)

"""Watched passes of several sizes -> the operations of a program, sizes as expressions.

An operation is a list: its kind, a name and what its function in cost/program.py takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from typing import Any

from fastlab.tracing.sizes import Fitter, Terms
from fastlab.tracing.watch import Event, Part, Seen

Together = tuple[Event, ...]  # the same event in passes of several sizes
MATRIX = ("mm", "addmm", "bmm", "baddbmm", "convolution")
MLP_WORDS = ("mlp", "ffn", "feed", "moe", "expert", "fc", "intermediate", "ff")


def operations_of(passes: Sequence[Sequence[Part]], fitter: Fitter) -> list[Any]:
    """[[times, operations], ...] of one pass at several sizes, layers alike once."""
    found: list[Any] = []
    for parts in zip(*passes, strict=True):
        ops = _part(parts, fitter)
        same = next((part for part in found if part[1] == ops), None)
        if same:
            same[0] += parts[0].calls
        elif ops:
            found.append([parts[0].calls, ops])
    return found


def _part(parts: Sequence[Part], fitter: Fitter) -> list[Any]:
    events = [part.events for part in parts]
    names = [[(e.where, e.name) for e in one] for one in events]
    layer = parts[0].layer
    if all(one == names[0] for one in names):
        return _joined(zip(*events, strict=True), layer, fitter)
    # Loops over positions: what happens as often at each size in order, then the rest.
    counts = [Counter(one) for one in names]
    same = {key for key in counts[0] if all(c[key] == counts[0][key] for c in counts)}
    kept = [[e for e in one if (e.where, e.name) in same] for one in events]
    kept = [sorted(one, key=lambda e: (e.where, e.name)) for one in kept]
    order = {(e.where, e.name): i for i, e in reversed([*enumerate(events[0])])}
    lined = sorted(
        zip(*kept, strict=True), key=lambda es: order[es[0].where, es[0].name]
    )
    ops = _joined(lined, layer, fitter)
    for key in sorted(set().union(*counts) - same):
        loops = [[e for e in one if (e.where, e.name) == key] for one in events]
        ops.append(_summed(key[1], loops, layer, fitter))
    return ops


def _summed(name: str, loops: list[list[Event]], layer: str, fitter: Fitter) -> Any:
    """Events that happen more often in longer passes, as one operation."""
    moved = fitter.terms([sum(map(_moved, one)) for one in loops])
    times = fitter.terms([len(one) for one in loops])
    if name not in MATRIX:
        return ["bytes", name, "elementwise", moved, [], times, []]
    flops = fitter.terms([sum(map(_flops, one)) for one in loops], exact=True)
    _, n, k = _sizes(loops[0][0])
    sizes = fitter.constant(n), fitter.constant(k)
    return ["matmul", name, flops, moved, times, [], *sizes]


def _joined(events: Iterable[Together], layer: str, fitter: Fitter) -> list[Any]:
    """Operations in order, pointwise kernels of one class that follow as one."""
    lined = [(_class(es[0]), es) for es in events]
    attends = [e.where for _, (e, *_) in lined if e.name in ("attention", "cache")]
    place = Place(layer, attends)
    ops: list[Any] = []
    for kind, group in groupby(lined, key=lambda one: one[0]):
        together = [es for _, es in group]
        if kind in ("norm", "elementwise", "gelu"):
            ops.append(_pointwise(kind, together, place, fitter))
        else:
            makers = {"matrix": _matrix, "attention": _attention}
            make = makers.get(kind) or globals()[f"_{kind}"]
            ops += [op for es in together if (op := make(es, place, fitter))]
    return ops


class Place:
    """Names of operations: where in a layer, or outside of all, they are."""

    def __init__(self, layer: str, attends: list[str]) -> None:
        self.layer = layer
        self.mixers = {self._child(where) for where in attends}

    def _child(self, where: str) -> str:
        return where.removeprefix(f"{self.layer}.").partition(".")[0]

    def name(self, where: str) -> str:
        """ "mlp.x" of what is beside attention in a layer, "head.x" outside of all."""
        leaf, child = where.rpartition(".")[2], self._child(where)
        if not self.layer:
            return f"head.{leaf}"
        beside = any(
            word in where.removeprefix(self.layer).lower() for word in MLP_WORDS
        )
        return f"mlp.{leaf}" if beside and child not in self.mixers else leaf


def _class(event: Event) -> str:
    if event.name in MATRIX:
        return "matrix"
    if event.name in ("attention", "cache", "experts"):
        return event.name
    if event.name == "embedding":
        return "embedding"
    if event.name == "gelu":
        return "gelu"
    last = event.where.rpartition(".")[2].lower()
    return "norm" if "norm" in last or "layer_norm" in event.name else "elementwise"


def _bytes(seen: Iterable[Seen]) -> int:
    return sum(x.elements * x.itemsize for x in seen)


def _moves(event: Event) -> list[int]:
    """Bytes of each tensor of activations that a kernel reads or writes."""
    looks = event.name in ("index", "index_select", "gather")  # reads what it writes
    reads = event.writes + event.reads[1:] if looks else event.reads
    return [_bytes([x]) for x in (*reads, *event.writes) if not x.weight]


def _moved(event: Event) -> int:
    return sum(_moves(event))


def _pointwise(kind: str, together: Any, place: Place, fitter: Fitter) -> Any:
    passes = list(zip(*together, strict=True))
    moved = _added(fitter, [[b for e in one for b in _moves(e)] for one in passes])
    weights = fitter.terms(
        [_bytes({x for e in one for x in e.reads if x.weight}) for one in passes]
    )
    fused = _added(fitter, [_outside(one) for one in passes])
    name = place.name(together[0][0].where)
    return ["bytes", name, kind, moved, fused, fitter.constant(len(together)), weights]


def _outside(events: Sequence[Event]) -> list[int]:
    """Bytes of what a run of kernels reads that it did not write, and of its result."""
    made = {x.storage for e in events for x in e.writes}
    reads = {x.storage: x for e in events for x in e.reads if not x.weight}
    outer = [_bytes([x]) for number, x in reads.items() if number not in made]
    return [*outer, _bytes(events[-1].writes)]


def _added(fitter: Fitter, each: Sequence[Sequence[int]]) -> Terms:
    """Terms of sums, one number of each kernel after the other."""
    if len({len(one) for one in each}) > 1:
        return fitter.terms([sum(one) for one in each])
    total: Counter[int] = Counter()
    for values in zip(*each, strict=True):
        for c, name in fitter.terms(values):
            total[name] += c
    return [[c, name] for name, c in sorted(total.items())]


def _operands(event: Event) -> tuple[Seen, Seen]:
    last = event.name in ("addmm", "baddbmm")
    one, two = event.reads[-2:] if last else event.reads[:2]
    return one, two


def _sizes(event: Event) -> tuple[int, int, int]:
    """(rows, outputs, inputs) of a product: FLOPs are twice what they multiply to."""
    one, two = _operands(event)
    if event.name == "convolution":
        inputs = prod(two.shape[1:])
        return prod(event.writes[0].shape) // two.shape[0], two.shape[0], inputs
    return prod(one.shape[:-1]), two.shape[-1], one.shape[-1]


def _flops(event: Event) -> int:
    return 2 * prod(_sizes(event))


def _matrix(es: Together, place: Place, fitter: Fitter) -> Any:
    """A product of a weight ("product"), or of two activations ("matmul")."""
    e, name = es[0], place.name(es[0].where)
    one, two = _operands(e)
    flops = fitter.terms([_flops(e) for e in es], exact=True)
    if e.name == "convolution" or not (one.weight or two.weight):
        moved = _added(fitter, [*map(_moves, es)])
        read = _bytes([two] * bool(two.weight))
        sizes = [fitter.terms(one) for one in zip(*map(_sizes, es), strict=True)][1:]
        once, weights = fitter.constant(1), fitter.constant(read)
        return ["matmul", name, flops, moved, once, weights, *sizes]
    weight = two if two.weight else one
    k, n = (weight.shape[-2:]) if two.weight else weight.shape[-2:][::-1]
    rows = fitter.terms([_flops(e) // (2 * n * k) for e in es])
    many = weight.elements // (n * k)  # matrices of a stack, each with its own rows
    bias = e.name == "addmm" and bool(e.reads[0].weight)
    stored = not weight.transposed and e.name != "bmm"  # as Conv1D: inputs x outputs
    kinds = int(bias), int(stored and bias), int(not e.facts[0])
    return ["product", name, rows, n, k, many, *kinds]


def _attention(es: Together, place: Place, fitter: Fitter) -> Any:
    query, key, value = es[0].reads
    keys = fitter.terms([e.reads[1].shape[2] for e in es])
    (_, heads, _, d), kv_heads, dv = query.shape, key.shape[1], value.shape[-1]
    causal, window = es[0].facts
    sizes = heads, kv_heads, d, dv, keys, int(causal), window
    return ["attention", place.name(es[0].where), *sizes]


def _cache(es: Together, place: Place, fitter: Fitter) -> Any:
    keys, values = es[0].reads
    sizes = keys.shape[1], keys.shape[-1], values.shape[-1]
    return ["cache", "cache", *sizes, *es[0].facts]


def _embedding(es: Together, place: Place, fitter: Fitter) -> Any:
    rows = fitter.terms([prod(e.reads[1].shape) for e in es])
    return ["embedding", place.name(es[0].where), rows, es[0].reads[0].shape[-1]]


def _experts(es: Together, place: Place, fitter: Fitter) -> Any:
    """Experts: of T tokens k each; [outputs, inputs] of each product."""
    tokens = fitter.terms([prod(e.reads[1].shape[:-1]) for e in es])
    top_k, experts, sizes = es[0].facts
    name = place.name(es[0].where)
    return ["experts", name, tokens, top_k, experts, [*map(list, sizes)]]

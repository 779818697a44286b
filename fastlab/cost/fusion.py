"""What a compiler makes of eager kernels: fewer, each reading and writing once.

Matrix products and attention stay as they are. What lies between two of them becomes
few kernels: a residual goes into the norm after it, the norms of queries and keys into
RoPE, casts and the quantizing of an input into the kernel that made it. Compared with
the calls in code that torch's inductor generates, in tests.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastlab.cost.classes import CLASSES
from fastlab.cost.ops import PRODUCTS, Operation

JOINING = ("residual1", "residual2", "q.norm", "k.norm")  # what comes next takes these


def fused(ops: Iterable[Operation], loops: bool = True) -> list[Operation]:
    """The operations of one layer (or of the end of a model) as a compiler runs them.

    What waits at the end goes into the first norm: that of the next layer. loops: a
    dense weight times one row need not be a library call, as in code that we compile.
    """
    kept: list[Operation] = []
    waiting = 0
    for op in ops:
        if op.name in JOINING or op.name.endswith(".rescale"):
            waiting += op.weight_bytes + op.fused_bytes
        elif op.fused_bytes == 0 or (op.name.endswith(".quantize") and _at_hand(kept)):
            continue
        elif op.kind in ("norm", "elementwise", "gelu"):
            kept.append(alone(op, waiting))
            waiting = 0
        else:
            kept.append(alone(op) if loops or not _may_loop(op) else op)
    where = next((i for i, op in enumerate(kept) if op.kind == "norm"), None)
    if where is not None:
        moved = kept[where].activation_bytes + waiting
        kept[where] = kept[where]._replace(activation_bytes=moved)
    return kept


def _at_hand(kept: list[Operation]) -> bool:
    """Whether what a product takes was made by a kernel that can quantize it too.

    Attention is none; before a layer there is the norm of another.
    """
    before = (op.kind for op in reversed(kept) if op.kind not in PRODUCTS)
    return next(before, "norm") in ("norm", "elementwise", "gelu")


def alone(op: Operation, more: int = 0) -> Operation:
    """One operation as one kernel, with `more` bytes of what joins it."""
    if op.kind == "attention":
        if op.launches == 1:
            return op
        # Scores through memory: written, read and written by one softmax, read. A
        # product of one row is no library call: it goes into the kernel beside it.
        launches = 2 if op.dims[1] == 1 else 3
        return op._replace(activation_bytes=op.fused_bytes, launches=launches)
    kind = CLASSES[op.kind].compiled or op.kind
    if _may_loop(op) and op.dims[0] == 1 and not op.precision:
        return op._replace(kind=kind)
    if op.fused_bytes < 0:
        return op
    return op._replace(kind=kind, activation_bytes=op.fused_bytes + more, launches=1)


def _may_loop(op: Operation) -> bool:
    """Whether a compiler may write a product of one row as a loop of its own."""
    return op.kind in PRODUCTS and bool(CLASSES[op.kind].compiled)


def fuse_all(ops: Iterable[Operation]) -> list[Operation]:
    """All operations as one kernel: what a model begins with, up to its first norm."""
    first, *rest = ops
    begun = alone(first)
    weights = begun.weight_bytes + sum(alone(op).weight_bytes for op in rest)
    moved = first.activation_bytes
    return [begun._replace(weight_bytes=weights, activation_bytes=moved, launches=1)]

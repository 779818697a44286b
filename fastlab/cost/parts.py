"""Totals of a point's operations: FLOPs by part of the model, bytes by kind. No torch.

FLOPs are dense (attention over all pairs), as torch's own counter takes them.
"""

from __future__ import annotations

from fastlab.cost.operations import operations
from fastlab.cost.ops import Operation
from fastlab.spec.point import Point

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

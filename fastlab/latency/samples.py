"""Timed operations, and the columns in which a fit reads operations of one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastlab.cost.classes import CLASSES, DIMS, of_form
from fastlab.cost.ops import Operation
from fastlab.spec.checks import check_number

ATTENTION = of_form("attention")
TILE = 16  # rows that a GPU's matrix units take at a time
BLOCK = 128  # queries of a head that one block of threads takes
# Heads beyond which TensorRT-LLM 1.3 takes as long as if they shared no keys, and keys
# that a block goes through in the time that it takes to begin: aiconfigurator's times.
SHARING, STARTED = 32, 150
STEP, OUT_OF_STEP = 4, 1.5  # quantized rows; how far off others are, in log space
QUANTIZER_BYTES = 3  # of a value that is quantized: read in 16 bit, written in 8
GENERATED = tuple(name for name, one in CLASSES.items() if one.generated)


@dataclass(frozen=True)
class Sample:
    """One timed operation; flops as its kernel does them (causal), times in seconds."""

    kind: str
    dims: tuple[int, ...]
    flops: float
    bytes: float
    seconds: float
    precision: str
    launches: int = 1
    device: str = ""

    @classmethod
    def of(
        cls, op: Operation, seconds: float, precision: str, device: str = ""
    ) -> Sample:
        """The sample of one execution of `op` that took `seconds`."""
        cost = (op.flops_causal, op.bytes, seconds)
        return cls(op.kind, op.dims, *cost, precision, op.launches, device)

    def fault(self) -> str:
        """Why this sample cannot be used; "" if it can."""
        try:
            for name in ("seconds", "bytes", "flops"):
                check_number(name, getattr(self, name), zero=name == "flops")
        except ValueError as error:
            return str(error)
        form = CLASSES[ATTENTION[0] if self.kind == "attention" else self.kind].form
        needed = DIMS[form] or len(self.dims)
        past = 2 if self.kind == "attention" else None  # the one that may be 0
        whole = all(n > 0 for i, n in enumerate(self.dims) if i != past)
        if len(self.dims) != needed or not whole:
            return f"dims={self.dims} must be {needed} numbers > 0"
        return "" if self.launches > 0 else f"launches={self.launches} must be > 0"


class Work(NamedTuple):
    """Operations of one class as columns: what the formula and the residual read.

    depth: what one result waits for, the k of a product, keys x head_dim of attention.
    rows: those that are quantized, or blocks: BLOCK queries of a head, or of a step a
    head of keys for each TILE heads that share it. scores: of attention, each an exp;
    tiled: FLOPs with each head's queries rounded up to a TILE; alone: keys of steps
    that some kernels go through for each head, as more than SHARING share them.
    """

    flops: np.ndarray
    bytes: np.ndarray
    launches: np.ndarray
    depth: np.ndarray
    rows: np.ndarray
    places: np.ndarray  # [n, d], log space
    scores: np.ndarray | float = 0.0
    tiled: np.ndarray | float = 0.0
    alone: np.ndarray | float = 0.0


def class_of(op: Operation | Sample) -> str:
    """The class whose fit holds for `op`: its kind, or prefill, decode or plain.

    Those three are attention; plain = several kernels, the score matrix in memory.
    """
    if op.kind != "attention":
        return op.kind
    if op.launches > 1:
        return "plain"
    return "decode" if op.dims[1] == 1 and op.dims[2] > 0 else "prefill"


def work(
    kind: str,
    flops: np.ndarray,
    moved: np.ndarray,
    launches: np.ndarray,
    dims: np.ndarray,
) -> Work:
    """The columns of operations of one class; dims [n, DIMS], else unread."""
    form, none = CLASSES[kind].form, np.zeros(len(flops))
    if form == "attention":
        return _attention(flops, moved, launches, dims)
    if form == "product":
        places, depth, rows = dims[:, :3], dims[:, 2], dims[:, 0]
    elif form == "look-up":
        places, depth, rows = dims[:, :2], none, none
    else:
        places, depth, rows = (moved / launches)[:, None], none, none
    return Work(flops, moved, launches, depth, rows, np.log(places))


def _attention(
    flops: np.ndarray, moved: np.ndarray, launches: np.ndarray, dims: np.ndarray
) -> Work:
    batch, new, past, heads, kv_heads, d = dims.T
    keys, alike = past + new, heads / kv_heads
    steps = kv_heads * np.ceil(alike / TILE)
    rows = batch * np.where(new > 1, heads * np.ceil(new / BLOCK), steps)
    alone = batch * heads * (keys + STARTED) * ((new == 1) & (alike > SHARING))
    tiled = flops * np.ceil(alike * new / TILE) * TILE / (alike * new)
    places = np.log(np.stack([batch, keys, heads, kv_heads, d], 1))
    own = keys * d, rows, places, flops / (4 * d), tiled, alone
    return Work(flops, moved, launches, *own)


def with_steps(work: Work) -> np.ndarray:
    """Places of products [n, 4]: rows that are no whole STEPs have other kernels."""
    odd = np.exp(work.places[:, :1]).round() % STEP != 0
    return np.hstack([work.places, OUT_OF_STEP * odd])


def work_of(samples: Sequence[Sample]) -> Work:
    """The columns of samples of one class."""
    costs = np.array([(s.flops, s.bytes, s.launches) for s in samples], dtype=float)
    flops, moved, launches = costs.T
    dims = np.array([s.dims for s in samples], dtype=float)
    return work(class_of(samples[0]), flops, moved, launches, dims)

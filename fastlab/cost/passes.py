"""Point -> the forward passes of its call, and what each of them works with. No torch.

Prefill, then decode steps. What runs compiled is told here too: a prefill or a decode
step by itself; of a generation the decode steps, after an eager prefill.
"""

from __future__ import annotations

from typing import NamedTuple

from fastlab.spec.engines import STATIC
from fastlab.spec.formats import Format
from fastlab.spec.point import Point
from fastlab.spec.recipe import Recipe, bucket
from fastlab.spec.shape import ModelShape


class ForwardPass(NamedTuple):
    """One forward pass: `new` positions after `past` cached ones, head on `scored`.

    value: bytes of one weight that is not quantized, and of one activation; narrow: of
    what a matrix product writes, less under autocast. keys: rows that attention reads;
    masked: it does so under a mask, which saves no work, and not causally.
    """

    shape: ModelShape
    recipe: Recipe
    format: Format
    batch: int
    new: int
    past: int
    scored: int  # positions per sequence whose logits are computed
    value: int
    narrow: int
    cached: bool
    static: bool
    fused: bool  # attention in one kernel
    keys: int
    masked: bool
    compiled: bool
    samples: bool  # the next token is chosen and noted within the step
    storage: str  # of the weights of layers
    source: int = 0  # positions that an encoder read, in a step of its decoder

    @property
    def rows(self) -> int:
        """T: batch x new positions."""
        return self.batch * self.new

    @property
    def packed_cache(self) -> bool:
        """Whether keys and values are kept in int8 or fp8."""
        return self.recipe.cache not in ("none", "dynamic", "static")


def passes(point: Point, ends: bool = False) -> list[ForwardPass]:
    """The forward passes of a call: one, or prefill and new_tokens - 1 decode steps.

    ends: of the steps the first and the last alone, between which only the cache grows.

    Without a cache a decode step runs over the whole sequence again. With a prefix the
    prefill computes what comes after it. Unrolled steps run in whole calls: the last
    may take more steps than there are tokens wanted.
    """
    work, n = point.workload, point.workload.prompt_len
    new, count = n - work.prefix_len, calls(point) * point.recipe.unroll
    scored = new if work.logits == "all" else 1
    prefills = work.phase != "decode"
    first = [_step(point, new, work.prefix_len, scored)] if prefills else []
    if point.shape.kind == "encoder-decoder":
        pasts = [n] if work.phase == "decode" else range(work.new_tokens)
        steps = (
            [] if work.phase == "prefill" else [_step(point, 1, p, 1) for p in pasts]
        )
        return first + [step._replace(source=n) for step in steps]
    if point.recipe.cache in STATIC:  # all alike: attention reads the whole cache
        return first + [_decode_step(point, n)] * count
    pace = max(1, count - 1) if ends else 1
    return first + [_decode_step(point, n + i) for i in range(0, count, pace)]


def calls(point: Point) -> int:
    """How often the call runs its decode steps: each time `unroll` of them."""
    work, k = point.workload, point.recipe.unroll
    if work.phase == "prefill":
        return 0
    return 1 if work.phase == "decode" else -(-(work.new_tokens - 1) // k)


def static_rows(point: Point) -> int:
    """Rows of a static cache: transformers' has as many as the call fills."""
    positions = point.workload.positions
    theirs = point.recipe.runtime == "transformers"
    return positions if theirs else bucket(positions)


def _decode_step(point: Point, past: int) -> ForwardPass:
    if point.recipe.cache == "none":
        return _step(point, past + 1, 0, 1, decodes=True)
    return _step(point, 1, past, 1, decodes=True)


def _step(
    point: Point, new: int, past: int, scored: int, decodes: bool = False
) -> ForwardPass:
    recipe, batch = point.recipe, point.workload.batch
    made, static = recipe.format, recipe.cache in STATIC
    # A prefill reads the rows that are filled, a decode step all of a static cache.
    filled = not (static and decodes)
    keys = past + new if filled else static_rows(point)
    # A CSR product of several rows comes out transposed. Fused attention wants each
    # head's numbers side by side: torch falls back to plain products and a softmax.
    strided = recipe.storage == "csr" and batch * new > 1
    alone = decodes or point.workload.phase == "prefill"
    return ForwardPass(
        *(point.built_shape, recipe, made, batch, new, past, scored),
        *(made.value, made.narrow, recipe.cache != "none", static),
        fused=recipe.attention != "eager" and not strided,
        keys=keys,
        masked=static and past > 0,
        compiled=recipe.engine.compiled and alone,
        samples=static and decodes,
        storage=recipe.storage,
    )

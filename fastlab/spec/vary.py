"""One point in many sizes: another width, another prompt length, all else in step."""

from __future__ import annotations

import math
from dataclasses import replace

from fastlab.spec.point import Point
from fastlab.spec.shape import ModelShape, override


def vary(point: Point, field: str, value: int) -> Point:
    """The point with prompt_len, hidden or another field of its shape changed.

    Raises ValueError where the value does not fit the other sizes.
    """
    if field == "prompt_len":
        return lengthened(point, value)
    if field == "hidden":
        return replace(point, shape=widened(point.shape, value))
    return replace(point, shape=override(point.shape, {field: value}))


def widened(shape: ModelShape, hidden: int) -> ModelShape:
    """The shape at another width: more heads of the same size, the MLP in proportion.

    Raises ValueError where that gives no whole number of heads.
    """
    heads, odd = divmod(shape.heads * hidden, shape.hidden)
    if odd or not heads:
        step = shape.hidden // math.gcd(shape.heads, shape.hidden)
        raise ValueError(f"hidden={hidden} must be a multiple of {step}: whole heads")
    kv_heads = math.gcd(heads, max(1, shape.kv_heads * hidden // shape.hidden))
    ffn = max(1, shape.ffn * hidden // shape.hidden)
    return replace(shape, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn)


def lengthened(point: Point, prompt_len: int) -> Point:
    """The point with another prompt length, and positions enough for it."""
    most = max(point.shape.max_positions, prompt_len + 1)
    shape = replace(point.shape, max_positions=most)
    work = replace(point.workload, prompt_len=prompt_len)
    return replace(point, shape=shape, workload=work)

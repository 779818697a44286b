"""Pruning: what is cut out of a model, and the shape it leaves. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fastlab.spec.checks import Spec, choice, count, given
from fastlab.spec.shape import GROUPED, ModelShape

IMPORTANCES = ("magnitude", "activation", "taylor", "random")
LAYER_CHOICES = ("uniform", "first", "last", "influence", "loss", "magnitude", "random")
NEED_TEXT = ("activation", "taylor", "influence", "loss")  # token ids, to be measured
WIDTHS = ("heads", "ffn", "hidden")
RATIOS = ("layers", *WIDTHS)


@dataclass(frozen=True)
class Pruning(Spec):
    """What is cut: the share of the layers, heads, FFN channels, width and experts.

    heads: whole groups, a key / value head with all query heads that read it. In gpt2,
    bert and others whose heads fill the hidden width, heads and hidden are cut by one
    share. multiple: of 8 where experts are run together, who want widths of 16 bytes.
    importance: which heads, channels, units and experts stay: those of the largest
    magnitude, activation or first-order Taylor term, or random ones. layer_choice:
    which layers go: the first, the last, those between evenly spaced ones ("uniform"),
    or those of the least block influence, loss without them, or magnitude.

    Every layer loses as much, so that a config can say what is left. A field that
    decides nothing here takes its default: equal prunings are equal. Raises ValueError
    naming field, value and what is allowed.
    """

    layers: float = given("share of the layers that is cut", 0.0)
    heads: float = given("share of the heads, in whole groups", 0.0)
    ffn: float = given("share of the FFN channels", 0.0)
    hidden: float = given("share of the hidden width", 0.0)
    experts: float = given("share of the experts", 0.0)
    importance: str = choice("what makes a unit stay", IMPORTANCES, "magnitude")
    layer_choice: str = choice("which layers go", LAYER_CHOICES, "uniform")
    multiple: int = count("ffn and hidden are rounded to it", 1, high=2**20)
    seed: int = count("of random choices", 0, low=0)

    def __post_init__(self) -> None:
        for name in (*RATIOS, "experts"):
            check_ratio(name, getattr(self, name))
        self._check_fields()
        narrower = any(getattr(self, name) for name in (*WIDTHS, "experts"))
        ways = self.layers and self.layer_choice, narrower and self.importance
        decides = {"layer_choice": self.layers, "importance": narrower}
        decides |= {"multiple": self.ffn or self.hidden, "seed": "random" in ways}
        idle = [field for field in fields(self) if not decides.get(field.name, True)]
        self._set(**{field.name: field.default for field in idle})

    @property
    def needs_text(self) -> str:
        """The field and value that need token ids to measure, "" where none does."""
        for name in ("layer_choice", "importance"):
            if getattr(self, name) in NEED_TEXT:
                return f"{name}={getattr(self, name)!r}"
        return ""


def check_ratio(field: str, value: object) -> None:
    """Raise ValueError unless `value` is a number from 0 up to, but not, 1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:  # type: ignore[operator]
        rule = "must be the share that is cut: 0 (nothing), or more and below 1"
        raise ValueError(f"{field}={value!r} {rule}")


NOTHING_CUT = Pruning()


def pruned_shape(shape: ModelShape, pruning: Pruning) -> ModelShape:
    """The exact shape of a model after pruning, before it is built.

    Counts are rounded to the nearest whole number (a half upwards), at least 1 is left.
    All but qwen3 may want heads to divide hidden, as llama does: hidden is rounded to a
    multiple of both. Of other families the config is cut. Raises ValueError where a
    share cuts nothing or nothing fits.
    """
    if shape.config:
        from fastlab.spec.configs import pruned_traced

        return pruned_traced(shape, pruning)
    if pruning.experts:
        raise ValueError(f"experts={pruning.experts}: {shape.family} has no experts")
    layers = left("layers", shape.layers, pruning.layers)
    ffn = left("ffn", shape.ffn, pruning.ffn, pruning.multiple)
    apart = shape.family in GROUPED
    sizes: Any = pruned_heads(vars(shape), pruning, shape.family, apart)
    return replace(shape, layers=layers, ffn=ffn, **sizes)


def pruned_heads(
    sizes: Mapping[str, int], pruning: Pruning, family: str, apart: bool
) -> dict[str, int]:
    """hidden, heads and kv_heads that are left of these and of head_dim.

    apart: whether heads have a width of their own, or fill the hidden width. Raises
    ValueError as `pruned_shape` does.
    """
    if not apart and pruning.heads != pruning.hidden:
        raise ValueError(
            f"heads={pruning.heads} and hidden={pruning.hidden} must be equal in "
            f"{family}: its config knows no width of a head, heads x head_dim is "
            "hidden"
        )
    multiple, width = pruning.multiple, sizes["head_dim"]
    # Groups go in steps of so many, where heads make the width that is rounded.
    step = multiple // math.gcd(multiple, width)
    step = 1 if apart or not pruning.hidden else step
    groups = left("heads", sizes["kv_heads"], pruning.heads, step)
    heads = groups * (sizes["heads"] // sizes["kv_heads"])
    hidden = heads * width
    if apart:
        step = math.lcm(multiple, heads if family != "qwen3" else 1)
        hidden = left("hidden", sizes["hidden"], pruning.hidden, step)
    return {"hidden": hidden, "heads": heads, "kv_heads": groups}


def placed(have: int, count: int, choice: str) -> tuple[int, ...]:
    """The layers that a choice by place keeps; any other choice is as "uniform".

    uniform: the first and the last among them: 3 of 6 are 0, 2 and 5.
    """
    if choice in ("first", "last"):
        start = have - count if choice == "first" else 0
        return tuple(range(start, start + count))
    gaps = max(1, count - 1)
    return tuple((2 * n * (have - 1) + gaps) // (2 * gaps) for n in range(count))


def left(name: str, size: int, ratio: float, step: int = 1) -> int:
    """What a share leaves of a size, in whole steps."""
    if not ratio:
        return size
    steps = math.floor(size * (1 - ratio) / step + 0.5 + 1e-9)
    left = max(1, steps) * step
    if left >= size:
        why = f"cuts nothing from {size} in steps of {step}"
        allowed = "allowed: a larger share or smaller steps"
        raise ValueError(f"{name}={ratio!r} {why}; {allowed}")
    return left

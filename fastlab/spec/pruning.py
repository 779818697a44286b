"""Pruning: what is cut out of a model, and the shape it leaves. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from fastlab.spec.checks import Spec, check_choice, check_count
from fastlab.spec.shape import GROUPED, ModelShape

IMPORTANCES = ("magnitude", "activation", "taylor", "random")
LAYER_CHOICES = ("uniform", "first", "last", "influence", "loss", "magnitude", "random")
NEED_TEXT = ("activation", "taylor", "influence", "loss")  # token ids, to be measured
WIDTHS = ("heads", "ffn", "hidden")
RATIOS = ("layers", *WIDTHS)


@dataclass(frozen=True)
class Pruning(Spec):
    """What is cut: the share of the layers, heads, FFN channels and hidden width.

    heads: whole groups, a key / value head with all query heads that read it. In gpt2
    and bert, whose heads fill the hidden width, heads and hidden are cut by one share.
    importance: which heads, channels and hidden units stay: those of the largest
    magnitude, activation or first-order Taylor term, or random ones. layer_choice:
    which layers go: the first, the last, those between evenly spaced ones ("uniform"),
    or those of the least block influence, loss without them, or magnitude. multiple:
    ffn and hidden are rounded to the nearest multiple of it. seed: of "random".

    Every layer loses as much, so that a config can say what is left. A field that
    decides nothing here takes its default: equal prunings are equal. Raises ValueError
    naming field, value and what is allowed.
    """

    layers: float = 0.0
    heads: float = 0.0
    ffn: float = 0.0
    hidden: float = 0.0
    importance: str = "magnitude"
    layer_choice: str = "uniform"
    multiple: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in RATIOS:
            check_ratio(name, getattr(self, name))
        check_choice("importance", self.importance, IMPORTANCES)
        check_choice("layer_choice", self.layer_choice, LAYER_CHOICES)
        check_count("multiple", self.multiple, high=2**20)
        check_count("seed", self.seed, low=0)
        narrower = any(getattr(self, name) for name in WIDTHS)
        by_chance = (self.layers and self.layer_choice == "random") or (
            narrower and self.importance == "random"
        )
        decides = {
            "layer_choice": self.layers,
            "importance": narrower,
            "multiple": self.ffn or self.hidden,
            "seed": by_chance,
        }
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
        raise ValueError(
            f"{field}={value!r} must be the share that is cut: "
            "0 (nothing), or more and below 1"
        )


NOTHING_CUT = Pruning()


def pruned_shape(shape: ModelShape, pruning: Pruning) -> ModelShape:
    """The exact shape of a model after pruning, before it is built.

    Counts are rounded to the nearest whole number (a half upwards), at least 1 is left.
    llama's config wants heads to divide hidden: there hidden is rounded to a multiple
    of both. Raises ValueError where a share cuts nothing or nothing fits.
    """
    if shape.family not in GROUPED and pruning.heads != pruning.hidden:
        raise ValueError(
            f"heads={pruning.heads} and hidden={pruning.hidden} must be equal in "
            f"{shape.family}: its config knows no width of a head, heads x head_dim is "
            "hidden"
        )
    layers = _left("layers", shape.layers, pruning.layers)
    groups = _left("heads", shape.kv_heads, pruning.heads, _head_step(shape, pruning))
    heads = groups * (shape.heads // shape.kv_heads)
    ffn = _left("ffn", shape.ffn, pruning.ffn, pruning.multiple)
    if shape.family in GROUPED:
        step = math.lcm(pruning.multiple, heads if shape.family == "llama" else 1)
        hidden = _left("hidden", shape.hidden, pruning.hidden, step)
    else:
        hidden = heads * shape.head_dim
    return replace(
        shape, layers=layers, hidden=hidden, heads=heads, kv_heads=groups, ffn=ffn
    )


def _head_step(shape: ModelShape, pruning: Pruning) -> int:
    """Groups of heads go in steps of so many: 1, where heads do not make the width."""
    if shape.family in GROUPED or not pruning.hidden:
        return 1
    return pruning.multiple // math.gcd(pruning.multiple, shape.head_dim)


def _left(name: str, size: int, ratio: float, step: int = 1) -> int:
    """What a share leaves of a size, in whole steps."""
    if not ratio:
        return size
    steps = math.floor(size * (1 - ratio) / step + 0.5 + 1e-9)
    left = max(1, steps) * step
    if left >= size:
        raise ValueError(
            f"{name}={ratio!r} cuts nothing from {size} in steps of {step}; "
            "allowed: a larger share or smaller steps"
        )
    return left

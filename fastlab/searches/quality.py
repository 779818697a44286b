"""What a recipe may lose before it is judged: a guess by what is cut, and rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from fastlab.record import Record
from fastlab.searches.beliefs import LOSSES, Beliefs, codes_of
from fastlab.spec.point import Point
from fastlab.spec.recipe import PLAIN
from fastlab.words import percent

LEAST = 1e-5  # a smaller loss is as good as none
LEARNED = 0.1  # of a loss, what learning again leaves
DENSE = None, PLAIN.weights_key, ""  # trained, as they are: they lose nothing
Model = tuple[Any, ...]


def model_of(point: Point) -> Model:
    """What decides the logits but for rounding: no workload, no runtime."""
    cache = point.recipe.cache or ""
    packed = cache if cache.startswith("static-") else ""
    return point.shape, point.weights, *point.recipe.weights_key, packed


def knobs(point: Point) -> tuple[float, ...]:
    """Shares that are cut of layers, heads, FFN, width; of zeros; 2^(2 - bits)."""
    recipe, cut = point.recipe, point.recipe.pruning
    zeros = recipe.sparsity.ratio if recipe.sparsity else 0.0
    bits = recipe.sharing.bits if recipe.sharing else recipe.format.bits
    coarse = 2.0 ** (2 - bits) if bits < 16 else 0.0
    return cut.layers, max(cut.heads, cut.experts), cut.ffn, cut.hidden, zeros, coarse


def guessed(point: Point) -> float:
    """The loss to expect, as a share of bits per byte.

    By eye from 93 rows of a trained model, of which most lie within a factor of two:
    it says what to try first, and what is judged corrects it.
    """
    layers, heads, ffn, hidden, zeros, coarse = knobs(point)
    cut = 1.6 * layers**2 + heads**2 + 1.5 * ffn**3 + 6 * hidden**2
    cut *= LEARNED if point.recipe.distill_steps else 1
    return cut + 3 * zeros**5 + 0.22 * coarse**2 + LEAST


def losses_in(records: Iterable[Record]) -> dict[Model, float]:
    """Of every model that rows judged on a text: rise of bits per byte, as a share."""
    pairs = [(model_of(r.point), r.quality) for r in records if r.quality]
    return {
        model: own.bits_per_byte / own.dense_bits_per_byte - 1
        for model, own in pairs
        if own.bits_per_byte and own.dense_bits_per_byte
    }


class Losses:
    """What is known of the losses of n points, and what follows for a floor.

    known: by model, as judged; `losses_in` adds to it.
    """

    def __init__(self, points: Sequence[Point], floor: float | None) -> None:
        self.floor, self.models = floor, [model_of(point) for point in points]
        one = dict(zip(self.models, points, strict=True))
        self._places = {model: n for n, model in enumerate(one)}
        self.known = {
            model: 0.0
            for model, p in one.items()
            if (p.seed, p.recipe.weights_key, model[-1]) == DENSE
        }
        cuts = [p.recipe.pruning for p in one.values()]
        self._beliefs = Beliefs(
            np.log([guessed(p) for p in one.values()]),
            codes_of([(p.weights, p.recipe.distill_steps > 0) for p in one.values()]),
            codes_of([(cut.importance, cut.layer_choice) for cut in cuts]),
            np.arange(len(one)),
            np.array([knobs(p) for p in one.values()]),
            LOSSES,
        )

    def of(self, i: int) -> float:
        """The loss of a point, NaN where it is not known."""
        return self.known.get(self.models[i], math.nan)

    def chances(self) -> np.ndarray:
        """[n] that each keeps the floor: 0 or 1 where it is known."""
        if self.floor is None:
            return np.ones(len(self.models))
        own = {self._places[m]: s for m, s in self.known.items() if m in self._places}
        lost = {i: math.log(loss) for i, loss in sorted(own.items()) if loss > LEAST}
        after = self._beliefs.after([*lost], [*lost.values()])
        chance = ndtr((math.log(self.floor + LEAST) - after.mean) / after.sd)
        for i, loss in own.items():
            chance[i] = loss <= self.floor
        return chance[[self._places[model] for model in self.models]]

    def misses(self, i: int) -> str:
        """That a point loses more than the floor, in words; "" where it keeps it."""
        if self.floor is None or (loss := self.of(i)) <= self.floor:
            return ""
        if math.isnan(loss):
            return "floor: its loss is not known"
        return f"floor: loses {percent(loss)} of {percent(self.floor)}"

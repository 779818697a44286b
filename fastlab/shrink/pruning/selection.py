"""What stays in a pruned model: chosen on the dense one, before anything changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastlab.shrink.pruning.importance import Scope, layer_magnitudes, scores
from fastlab.shrink.pruning.module_map import parts_of, stack_of
from fastlab.shrink.pruning.probes import block_influence, check_ids, losses_without
from fastlab.spec.pruning import Pruning, pruned_shape
from fastlab.spec.shape import ModelShape


@dataclass(frozen=True)
class Kept:
    """The units that stay, ascending, numbered as in the dense model.

    layers; heads: groups in each layer; ffn: channels in each layer; hidden: units,
    None = all.
    """

    shape: ModelShape
    layers: tuple[int, ...]
    heads: dict[int, Tensor] = field(default_factory=dict)
    ffn: dict[int, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None


def choose(model: Any, pruning: Pruning, ids: Tensor | None = None) -> Kept:
    """What stays of a dense model under a pruning; the model is left as it is.

    ids: token ids (rows, length) on which importances are measured that need a text.
    Raises ValueError as `prune` does.
    """
    parts, shape = parts_of(model), ModelShape.from_config(model.config)
    every = Scope(model, parts, shape, tuple(range(shape.layers)))
    after = pruned_shape(shape, pruning)
    ids = _checked(model, pruning, ids)
    scope = replace(every, layers=_layers(every, pruning, after.layers, ids))
    units: dict[str, dict[int, Tensor]] = {}
    counts = {"heads": after.kv_heads, "ffn": after.ffn, "hidden": after.hidden}
    for axis, count in counts.items():
        if getattr(pruning, axis):
            found = scores(scope, pruning, axis, ids)
            units[axis] = {place: best(s, count) for place, s in found.items()}
    hidden = units.pop("hidden", {-1: None})[-1]
    return Kept(after, scope.layers, **units, hidden=hidden)


def _checked(model: Any, pruning: Pruning, ids: Tensor | None) -> Tensor | None:
    need = pruning.needs_text
    if ids is None:
        if need:
            raise ValueError(f"{need} needs ids: token ids (rows, length) of a text")
        return None
    if model.config.model_type == "bert":
        for name in ("importance", "layer_choice"):
            if (value := getattr(pruning, name)) in ("taylor", "loss"):
                raise ValueError(
                    f"{name}={value!r} needs a next-token loss, which bert has not"
                )
    return check_ids(model, ids)


def _layers(
    scope: Scope, pruning: Pruning, count: int, ids: Tensor | None
) -> tuple[int, ...]:
    """The layers that stay, by the pruning's choice."""
    have = scope.shape.layers
    choice = "last" if count == have else pruning.layer_choice
    if choice == "first":
        return scope.layers[have - count :]
    if choice == "last":
        return scope.layers[:count]
    if choice == "uniform":
        return evenly(have, count)
    return tuple(best(_layer_scores(scope, pruning, ids), count).tolist())


def evenly(have: int, count: int) -> tuple[int, ...]:
    """`count` of `have` layers, the first and the last among them: 6, 3 -> 0, 2, 5."""
    gaps = max(1, count - 1)
    return tuple((2 * n * (have - 1) + gaps) // (2 * gaps) for n in range(count))


def _layer_scores(scope: Scope, pruning: Pruning, ids: Tensor | None) -> Tensor:
    if pruning.layer_choice == "magnitude":
        return layer_magnitudes(scope)
    if pruning.layer_choice == "random":
        source = torch.Generator().manual_seed(pruning.seed)
        return torch.rand(scope.shape.layers, generator=source)
    assert ids is not None
    stack = list(stack_of(scope.model))
    measure = {"influence": block_influence, "loss": losses_without}
    return measure[pruning.layer_choice](scope.model, stack, ids)


def best(score: Tensor, count: int) -> Tensor:
    """The places of the `count` largest scores, ascending; of equal ones the first."""
    if not bool(torch.isfinite(score).all()):
        raise ValueError("the scores of the layers are not finite")
    return score.argsort(descending=True, stable=True)[:count].sort().values

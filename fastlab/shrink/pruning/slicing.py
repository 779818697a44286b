"""Pruning a model: what is to be cut is first proved on a small one of its config."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from fastlab.shrink.pruning.cutting import Kept, cut, places
from fastlab.shrink.pruning.importance import AXES, axes_of, choose
from fastlab.shrink.pruning.module_map import Trial, map_of, trial_of
from fastlab.shrink.pruning.slots import tensors_of
from fastlab.spec import pruned
from fastlab.spec.pruning import Pruning

CLOSE = 1e-3  # of the largest output: what equal models may differ by


def prune(model: Any, pruning: Pruning, ids: Tensor | None = None) -> Any:
    """Cut layers, heads, FFN channels, experts and hidden width out of a model.

    Of any transformers language model with one stack of layers. It is consumed: its
    weights change one at a time where they are, so that memory holds the dense model
    and one more weight at the most. Everything is chosen on the dense model first. ids:
    token ids (rows, length) of a text, for importances that are measured. The result is
    a model of `pruned_config`, which save_pretrained writes and from_pretrained reads.

    Raises ValueError, before anything changes, for shares that cut nothing or leave
    what no config of the family can say, for families whose parts are not seen to
    belong together, for missing or unfit ids, for models that are quantized or have
    modules of their own, and for weights that are not finite.
    """
    name = "scale_attn_by_inverse_layer_idx"
    if pruning.layers and getattr(model.config, name, False):
        raise ValueError(
            f"layers={pruning.layers}: {name}=True of the model makes what a layer "
            "does depend on its number, which pruning changes"
        )
    pruned.pruned_config(model.config, pruning)
    axes = [axis for axis in axes_of(pruning) if getattr(pruning, axis)]
    map_of(model, axes)
    if axes:
        prove(trial_of(model), axes)
    cut(model, choose(model, pruning, ids))
    return model


def prove(trial: Trial, axes: Iterable[str]) -> None:
    """Cut axes out of a trial's model, and refuse those by which it is not the same.

    Without a unit it must give what the dense one gives where that unit's weights are
    zero; and a model made of its config and its weights must give that too.
    """
    together = ("heads", "hidden")
    for axis in axes:
        cut_with = together if axis in together and not trial.apart else (axis,)
        try:
            _prove(trial, cut_with)
        except (RuntimeError, TypeError, KeyError, IndexError) as error:
            raise pruned.refused(
                trial.config, f"{axis} cannot be cut", error
            ) from error


@torch.no_grad()
def _prove(trial: Trial, axes: tuple[str, ...]) -> None:
    kept, why = trial_cut(trial, axes), f"{' and '.join(axes)} cannot be cut"
    small = deepcopy(trial.model)
    cut(small, kept)
    got, again = trial.output(small), trial.build(kept.config)
    again.load_state_dict(small.state_dict())
    if not close(trial.output(again), got):
        raise pruned.refused(kept.config, why, "a model of its config does otherwise")
    names = {type(module).__name__ for module in trial.model.modules()}
    centred = "hidden" in axes and any("LayerNorm" in name for name in names)
    if centred or "experts" in axes:  # a mask would move means, and choices of experts
        equal = close(shuffled(trial, kept), trial.output(trial.model))
    else:
        equal = close(masked(trial, kept), got)
    if not equal:
        raise pruned.refused(kept.config, why, "the rest does not act as before")


def trial_cut(trial: Trial, axes: Iterable[str]) -> Kept:
    """A trial's model without a part of the units of axes, at random."""
    shares = dict.fromkeys(axes, 1 / 4)
    if trial.apart and "hidden" in shares:
        shares["hidden"] = 1 / 2  # heads divide what is left
    if experts := pruned.units(trial.config, "experts") if "experts" in shares else {}:
        shares["experts"] = 1 / max(experts.values())  # tokens choose most of them
    config = pruned.pruned_config(trial.config, Pruning(**shares))
    source, units = torch.Generator().manual_seed(0), {}
    layers = range(-1, trial.config.num_hidden_layers)
    for axis in axes:
        left = pruned.units(config, axis)
        for name, have in pruned.units(trial.config, axis).items():
            stay = torch.randperm(have, generator=source)[: left[name]].sort().values
            units[name] = dict.fromkeys(layers, stay)
    slots = [slot for axis in axes for slot in trial.slots(axis)]
    return Kept(config, tuple(layers[1:]), slots, units)


def masked(trial: Trial, kept: Kept) -> Tensor:
    """What a trial's model says where all weights of units that go are zero."""
    model = deepcopy(trial.model)
    for slot in kept.slots:
        tensor = tensors_of(model)[slot.name]
        size = tensor.shape[slot.dim]
        stay = kept.places(slot, size)
        gone = torch.ones(size, dtype=torch.bool).index_fill_(0, stay, False)
        tensor.index_fill_(slot.dim, gone.nonzero().flatten(), 0)
    out, hidden = trial.output(model), kept.units.get("hidden")
    if hidden and out.shape[-1] == trial.config.hidden_size:
        return out[..., hidden[-1]]
    return out


def shuffled(trial: Trial, kept: Kept) -> Tensor:
    """What a trial's model says where units have changed places, all alike."""
    model, source = deepcopy(trial.model), torch.Generator().manual_seed(1)
    orders = {
        axis: torch.randperm(have, generator=source)
        for kind in AXES
        for axis, have in pruned.units(trial.config, kind).items()
    }
    tensors = tensors_of(model)
    once = {(id(tensors[slot.name]), slot.dim): slot for slot in kept.slots}
    for slot in once.values():
        tensor = tensors[slot.name]
        order = places(orders[slot.axis], slot.widths, tensor.shape[slot.dim])
        tensor.copy_(tensor.index_select(slot.dim, order))
    return trial.output(model)


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are equal but for rounding."""
    error = (one - other).abs().max()
    return one.shape == other.shape and bool(error < CLOSE * other.abs().max())

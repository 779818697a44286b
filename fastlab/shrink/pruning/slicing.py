"""Pruning a model: what is to be cut is first proved on a small one of its config."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastlab.models import stack_of
from fastlab.shrink.parts import stored_modules
from fastlab.shrink.pruning.cutting import Kept, check_layers, cut, refusing
from fastlab.shrink.pruning.importance import axes_of, choose
from fastlab.shrink.pruning.module_map import Trial, trial_of
from fastlab.spec import pruned
from fastlab.spec.pruning import Pruning
from fastlab.tracing.weights import fit_experts

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
    if any(stored_modules(model)):
        raise ValueError("the model is stored packed: prune the dense model before")
    every = range(len(stack_of(model)))
    pruned.pruned_config(model.config, pruning)
    check_layers(model, every)
    if axes := [axis for axis in axes_of(pruning) if getattr(pruning, axis)]:
        prove(trial_of(model), axes)
    cut(model, choose(model, pruning, ids))
    fit_experts(model)
    return model


@torch.no_grad()
def prove(trial: Trial, axes: Iterable[str]) -> None:
    """Cut a trial's model, and refuse axes without which it does otherwise.

    A model made of its config and its weights must give the same; and so must the dense
    one where the weights of units that go are zero, and norms see only the others.
    """
    for axis in (axis for axis in axes if axis not in trial.proved):
        together = axis in ("heads", "hidden") and not trial.apart
        why = f"{axis} cannot be cut"
        with refusing(trial.config, why):
            kept = trial_cut(trial, ("heads", "hidden") if together else (axis,))
            small, again = deepcopy(trial.model), trial.build(kept.config)
            cut(small, kept)
            again.load_state_dict(small.state_dict())
            got = trial.output(small)
            if not close(trial.output(again), got):
                what = "a model of the config that is left does otherwise"
                raise pruned.refused(trial.config, why, what)
            if axis != "experts" and not close(masked(trial, small, kept), got):
                what = "what is left does not act as before"
                raise pruned.refused(trial.config, why, what)
        trial.proved.add(axis)


def trial_cut(trial: Trial, axes: Iterable[str]) -> Kept:
    """A trial's model without a part of the units of axes, at random."""
    shares: Any = dict.fromkeys(axes, 1 / 4)
    if trial.apart and "hidden" in shares:
        shares["hidden"] = 1 / 2  # heads divide what is left
    if experts := pruned.units(trial.config, "experts"):
        shares |= {"experts": 1 / max(experts.values())} if "experts" in shares else {}
    config = pruned.pruned_config(trial.config, Pruning(**shares))
    source, units = torch.Generator().manual_seed(0), {}
    for axis in axes:
        left = pruned.units(config, axis)
        for name, have in pruned.units(trial.config, axis).items():
            stay = torch.randperm(have, generator=source)[: left[name]].sort().values
            units[name] = dict.fromkeys((-1, *range(len(trial.kinds))), stay)
    slots = [slot for axis in axes for slot in trial.slots(axis)]
    return Kept(config, tuple(range(len(trial.kinds))), slots, units)


def masked(trial: Trial, small: Any, kept: Kept) -> Tensor:
    """What a trial's model says where units that go are zero, to norms too.

    small: the cut model, whose norms tell what they would make of the others.
    """
    model, hidden = deepcopy(trial.model), kept.units.get("hidden", {-1: None})[-1]
    for slot in kept.slots:
        tensor = slot.tensor(model)
        gone = torch.ones(tensor.shape[slot.dim], dtype=torch.bool)
        gone[kept.places(slot, len(gone))] = False
        tensor.index_fill_(slot.dim, gone.nonzero().flatten(), 0)
        if slot.role == "norm":
            see = partial(_see, slot.owner(small), hidden)
            slot.owner(model).register_forward_hook(see)
    out = trial.output(model)
    inside = hidden is not None and out.shape[-1] == trial.config.hidden_size
    return out[..., hidden] if inside else out


def _see(norm: Any, stay: Any, _: Any, args: Any, out: Tensor) -> Tensor:
    return torch.zeros_like(out).index_copy_(-1, stay, norm(args[0][..., stay]))


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are equal but for rounding."""
    equal = one.shape == other.shape
    return equal and bool((one - other).abs().max() < CLOSE * other.abs().max())

"""Cutting what does not stay out of a model: in place, one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.models import stack_name, stack_of
from fastlab.shrink.pruning.slots import (
    STATE,
    Slot,
    check_tensors,
    in_layer,
    layer_of,
    settings_of,
    skeleton,
    tensors_of,
)
from fastlab.spec import pruned


@dataclass(frozen=True)
class Kept:
    """The units that stay, ascending, numbered as in the dense model.

    config: the pruned model's; layers: those that stay; slots: where units are, as
    `map_of` says; units: axis -> layer, -1 for "hidden" -> units.
    """

    config: Any
    layers: tuple[int, ...]
    slots: Sequence[Slot] = ()
    units: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def places(self, slot: Slot, size: int) -> Tensor:
        """The places of a slot's dimension of this size that stay."""
        layer = -1 if slot.axis == "hidden" else slot.layer
        return places(self.units[slot.axis][layer], slot.widths, size)


def places(units: Tensor, widths: Sequence[int], size: int) -> Tensor:
    """The places of units: 0 and 2 of size 9, widths (2, 1) -> 0, 1, 4, 5, 6, 8."""
    starts = (start * (size // sum(widths)) for start in accumulate((0, *widths)))
    runs = [
        start + (units[:, None] * width + torch.arange(width).to(units)).flatten()
        for start, width in zip(starts, widths, strict=False)
    ]
    return torch.cat(runs)


def check_cut(model: Any, kept: Kept) -> Any:
    """The pruned model without weights; ValueError where it is not what is left.

    Each tensor that stays must have the size that the config says, and each layer be of
    the kind that the config says for its new number.
    """
    config, stack = model.config, stack_name(model)
    new = {old: place for place, old in enumerate(kept.layers)} | {-1: -1}
    if len(kept.layers) < config.num_hidden_layers:
        _check_kinds(model, kept)
    final = skeleton(type(model), kept.config)
    check_tensors(model, final, stack, new)
    sizes = {name: list(t.shape) for name, t in model.state_dict().items()}
    for slot in (slot for slot in kept.slots if slot.name in sizes):
        size = sizes[slot.name][slot.dim]
        sizes[slot.name][slot.dim] = len(kept.places(slot, size))
    expected = final.state_dict()
    for name, size in sizes.items():
        layer = layer_of(name, stack)
        if layer in new:
            wanted = [*expected.pop(in_layer(name, stack, new[layer])).shape]
            if size != wanted:
                raise pruned.refused(
                    config, f"config says {wanted} for what is left as {size}", name
                )
    if expected:
        raise pruned.refused(config, "config wants more than is left", min(expected))
    return final


def _check_kinds(model: Any, kept: Kept) -> None:
    """Refuse layers that would be of another kind by their new numbers."""
    sizes = pruned.layer_sizes(model.config, kept.layers)
    fewer = skeleton(type(model), pruned.resized(model.config, sizes))
    for old, layer in zip(kept.layers, stack_of(fewer), strict=True):
        its, own = settings_of(layer), settings_of(stack_of(model)[old])
        for name in sorted(its.keys() & own.keys()):
            if its[name] != own[name]:
                why = "config cannot say which layers are left"
                raise pruned.refused(model.config, why, f"{name} of layer {old}")


def cut(model: Any, kept: Kept) -> None:
    """Leave only what is kept, and let the config and the modules say so.

    Raises ValueError, before anything changes, as `check_cut` does.
    """
    final, stack = check_cut(model, kept), stack_name(model)
    layers = stack_of(model)
    for index in reversed(range(len(layers))):
        if index not in kept.layers:
            del layers[index]
    new = {old: place for place, old in enumerate(kept.layers)} | {-1: -1}
    by_name: dict[str, list[Slot]] = {}
    for slot in kept.slots:
        name = in_layer(slot.name, stack, new[slot.layer])
        by_name.setdefault(name, []).append(slot)
    shared: dict[int, list[str]] = {}
    for name, tensor in tensors_of(model).items():
        shared.setdefault(id(tensor), []).append(name)
    for names in shared.values():
        if slots := by_name.get(names[0]):
            _set(model, names, narrowed(model, names[0], slots, kept))
    _tell(model, final, kept.config)


@torch.no_grad()
def narrowed(model: Any, name: str, slots: Sequence[Slot], kept: Kept) -> Tensor:
    """What stays of a tensor.

    A norm's factors are multiplied by sqrt(H / H'): it divides by the root mean square
    over H' units, no longer over H of which the others are zero. So an RMSNorm gives
    what it would in the masked dense model.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = new = getattr(module, leaf)
    for slot in slots:
        stay = kept.places(slot, new.shape[slot.dim]).to(new.device)
        growth = math.sqrt(new.shape[slot.dim] / len(stay))
        new = new.index_select(slot.dim, stay)
        if slot.role == "norm" and growth != 1:
            added = _added(module)
            new = (new + added).mul_(growth) - added
    return (
        nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    )


def _added(norm: nn.Module) -> float:
    """What a norm adds to its weight before it multiplies: 1 in gemma's, usually 0."""
    trial: Any = deepcopy(norm)
    for weight in trial.parameters():
        weight.zero_()
    return float(bool(trial(torch.ones_like(trial.weight).cumsum(0)).any()))


def _set(model: Any, names: Sequence[str], tensor: Tensor) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, tensor)


def _tell(model: Any, final: Any, config: Any) -> None:
    """Let configs and modules know the sizes and numbers of the pruned model."""
    configs = {
        id(m.config): m.config
        for m in model.modules()
        if type(getattr(m, "config", None)) is type(config)
    }
    for old in configs.values():
        for name, value in vars(config).items():
            if name[0] != "_" and vars(old).get(name) != value:
                setattr(old, name, deepcopy(value))
    for name, module in final.named_modules():
        own = model.get_submodule(name)
        for key, value in vars(module).items():
            if key[0] != "_" and isinstance(value, (int, float, str, tuple, list)):
                if key not in STATE and key in vars(own):
                    setattr(own, key, value)

"""Where units lie in a model's tensors, and cutting out those that do not stay.

In place, one tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.models import stack_name, stack_of
from fastlab.spec import pruned
from fastlab.tracing.caches import attends

Place = tuple[int, str, int]  # a layer, a tensor in it, one of its dimensions
STATE = ("training", "gradient_checkpointing")  # of a module, not of its kind


class Slot(NamedTuple):
    """A dimension of a tensor that shrinks with an axis.

    layer: -1 outside of the layers; name: the tensor's, in its layer. axis: "heads",
    "hidden", or the config's field for FFN channels or experts. widths: of what a unit
    has there: (1,) or, where q, k and v of all groups follow each other, (128, 64, 64).
    role: "made" or "read" for a weight that makes or reads the units, "norm" for one
    that scales them, "" for others.
    """

    layer: int
    name: str
    dim: int
    axis: str = ""
    widths: tuple[int, ...] = ()
    role: str = ""

    def owner(self, model: Any) -> Any:
        """The module that the tensor belongs to."""
        return part_of(model, self.layer).get_submodule(self.name.rpartition(".")[0])

    def tensor(self, model: Any) -> Any:
        """The tensor in a model."""
        return getattr(self.owner(model), self.name.rpartition(".")[2])


def part_of(model: Any, layer: int) -> Any:
    """A layer of a model, or the model for -1."""
    return stack_of(model)[layer] if layer >= 0 else model


def places_of(model: Any) -> dict[Place, int]:
    """The size of each dimension of a model's tensors."""
    stack = stack_name(model) + "."
    parts: dict[int, Any] = dict(enumerate(map(tensors_of, stack_of(model))))
    own = tensors_of(model).items()
    parts[-1] = {name: t for name, t in own if not name.startswith(stack)}
    return {
        (layer, name, dim): size
        for layer, tensors in parts.items()
        for name, tensor in tensors.items()
        for dim, size in enumerate(tensor.shape)
    }


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by their dotted names, a shared one by each."""
    each: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return each | dict(model.named_buffers(remove_duplicate=False))


def skeleton(kind: type, config: Any) -> Any:
    """A model of a config, as it would be read from a file, without its weights."""
    again = type(config).from_dict(config.to_dict())
    with torch.device("meta"):
        return kind(again)


def is_transposed(module: Any) -> bool:
    """Whether a matrix is kept as (read, written), not (written, read)."""
    kinds = (Conv1D, nn.Embedding)
    return isinstance(module, kinds) or bool(getattr(module, "is_transposed", False))


def kind_of(layer: nn.Module) -> Any:
    """What layers of one kind have in common: tensors and settings, but no numbers."""
    plain = (bool, str, float, type(None))
    shapes = tuple((name, *t.shape) for name, t in tensors_of(layer).items())
    return shapes, tuple(
        (name, key, value)
        for name, module in layer.named_modules()
        for key, value in sorted(vars(module).items())
        if isinstance(value, plain) and key[0] != "_" and key not in STATE
    )


@contextmanager
def refusing(config: Any, why: str) -> Iterator[None]:
    """Where transformers or torch fail at a family, say so in one line."""
    try:
        yield
    except Exception as error:  # classes have errors of their own
        if str(error).startswith("model_type="):
            raise
        raise pruned.refused(config, why, error) from error


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


def check_layers(model: Any, layers: Sequence[int]) -> None:
    """Refuse layers that a config without the others would make of another kind.

    Also modules with weights that the family does not have, as adapters.
    """
    config = model.config
    fewer = pruned.resized(config, pruned.layer_sizes(config, layers))
    if attends(config) and not attends(fewer):
        raise pruned.refused(config, "layers that attend", "none of them would be left")
    usual = stack_of(skeleton(type(model), fewer))
    for number, new in zip(layers, usual, strict=True):
        old = stack_of(model)[number]
        for name in old.state_dict().keys() - new.state_dict().keys():
            owner = name.rpartition(".")[0]
            kind = type(old.get_submodule(owner)).__name__
            raise ValueError(f"{owner} ({kind}) is not of a {config.model_type}")
        if kind_of(new) != kind_of(old):
            why = "config would make another of what is left"
            raise pruned.refused(config, why, f"layer {number}")


def check_sizes(model: Any, kept: Kept) -> Any:
    """The pruned model without weights; ValueError where it has other sizes."""
    final, left = skeleton(type(model), kept.config), places_of(model)
    for slot in kept.slots:
        left[slot[:3]] = len(kept.places(slot, left[slot[:3]]))
    old = dict(enumerate(kept.layers)) | {-1: -1}
    for (layer, name, dim), size in places_of(final).items():
        if left.get((old[layer], name, dim)) != size:
            why = f"config says {size} for what is left of"
            raise pruned.refused(model.config, why, name)
    return final


@torch.no_grad()
def cut(model: Any, kept: Kept) -> None:
    """Leave only what is kept, and let the config and the modules say so.

    Raises ValueError, before anything changes, as `check_layers` and `check_sizes` do.
    """
    if len(kept.layers) < len(stack_of(model)):
        check_layers(model, kept.layers)
    final = check_sizes(model, kept)
    slots: dict[tuple[int, str], list[Slot]] = {}
    for slot in kept.slots:
        slots.setdefault(slot[:2], []).append(slot)
    shared: dict[int, list[list[Slot]]] = {}
    for own in slots.values():
        shared.setdefault(id(own[0].tensor(model)), []).append(own)
    for same in shared.values():
        new = narrowed(model, same[0], kept)
        for own in same:
            setattr(own[0].owner(model), own[0].name.rpartition(".")[2], new)
    layers = stack_of(model)
    for index in reversed(range(len(layers))):
        if index not in kept.layers:
            del layers[index]
    _tell(model, final, kept.config)


def narrowed(model: Any, slots: Sequence[Slot], kept: Kept) -> Tensor:
    """What stays of a tensor.

    A norm's factors are multiplied by sqrt(H / H'): it divides by the root mean square
    over H' units, no longer over H of which the others are zero. So an RMSNorm gives
    what it would in the masked dense model.
    """
    new = old = slots[0].tensor(model)
    for slot in slots:
        stay = kept.places(slot, new.shape[slot.dim]).to(new.device)
        growth = math.sqrt(new.shape[slot.dim] / len(stay))
        new = new.index_select(slot.dim, stay)
        if slot.role == "norm":
            added = _added(slot.owner(model))
            new = new.add_(added).mul_(growth).sub_(added)
    return (
        nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    )


def _added(norm: nn.Module) -> float:
    """What a norm adds to its weight before it multiplies: 1 in gemma's, usually 0."""
    trial: Any = deepcopy(norm)
    for weight in trial.parameters():
        weight.zero_()
    return float(bool(trial(torch.ones_like(trial.weight).cumsum(0)).any()))


def _tell(model: Any, final: Any, config: Any) -> None:
    """Let configs and modules know the sizes and numbers of the pruned model."""
    for name, new in final.named_modules():
        own = vars(model.get_submodule(name))
        for key, value in vars(new).items():
            plain = isinstance(value, (int, float, str, tuple, list))
            if plain and key in own and key[0] != "_" and key not in STATE:
                own[key] = value
        if type(own.get("config")) is type(config):
            for key, value in vars(config).items():
                if key[0] != "_":
                    vars(own["config"])[key] = deepcopy(value)

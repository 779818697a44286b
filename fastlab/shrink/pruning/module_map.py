"""Which dimensions of a model's tensors shrink together: derived, for any family.

It is seen on a small model of the same config, with one layer of each kind. Where one
size of the config is doubled, what grows follows it. Gradients show in which order
units lie in a tensor, and what makes them: where nothing reads any unit but one, only
what makes that one has a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.models import stack_of
from fastlab.shrink.pruning.cutting import (
    Place,
    Slot,
    is_transposed,
    kind_of,
    places_of,
    refusing,
    skeleton,
)
from fastlab.spec import pruned

GROUPS, CHANNELS, WORDS = 4, 4, 61  # of the small model


def small_sizes(config: Any, kinds: Sequence[int]) -> dict[str, Any]:
    """The fields of a small model with these layers; heads keep their width."""
    groups = GROUPS if pruned.units(config, "heads")["heads"] > 1 else 1
    sizes = pruned.layer_sizes(config, kinds) | pruned.head_width(config)
    sizes |= pruned.group_sizes(config, groups) | {"vocab_size": WORDS}
    sizes |= dict.fromkeys(pruned.units(config, "ffn"), CHANNELS)
    if (getattr(config, "n_group", None) or 1) == 1:
        most = (getattr(config, "num_experts_per_tok", None) or 2) + 2
        experts = pruned.units(config, "experts")
        sizes |= {name: min(count, most) for name, count in experts.items()}
    for name, value in config.to_dict().items():
        if name.endswith("token_id") and value is not None:
            first = value[0] if isinstance(value, list) else value
            sizes[name] = min(first, WORDS - 1)
    return sizes | ({"use_cache": False} if hasattr(config, "use_cache") else {})


class Trial:
    """A small model with one layer of each kind: `kinds` of the one it stands for.

    apart: whether heads have a width of their own, so that hidden can go by itself.
    proved: the axes of which it is known that they can be cut.
    """

    def __init__(self, kind: type, config: Any, kinds: tuple[int, ...]) -> None:
        source = torch.Generator().manual_seed(0)
        self.ids = torch.randint(3, WORDS - 1, (2, 12), generator=source)
        self.kind, self.kinds, self.proved = kind, kinds, set[str]()
        self._found: dict[str, list[Slot]] = {}
        usual = config.hidden_size // config.num_attention_heads
        width = pruned.head_width(config).get("head_dim", usual)
        sizes = small_sizes(config, kinds)
        heads = sizes["num_attention_heads"]
        self.config = pruned.resized(config, sizes | {"hidden_size": heads * width})
        self.model = skeleton(kind, self.config)
        self.apart = False
        with suppress(ValueError):  # where heads cannot be told apart, other axes may
            alone = self._grown("heads") if pruned.head_width(config) else {}
            self.apart = any(layer >= 0 for layer, _, _ in alone)
        full = self.config
        narrow = [{"hidden_size": 6 * heads}] if self.apart else []  # heads divide it
        for size in (*narrow, {}):
            self.config = pruned.resized(full, size)
            self.model, self.apart = self.build(self.config), bool(size)
            with suppress(RuntimeError):  # where heads fill hidden all the same
                self.output(self.model)
                break
        _draw(self.model)

    def build(self, config: Any) -> Any:
        """A model of a config on the CPU in fp32, as it would be read from a file."""
        with torch.random.fork_rng(devices=[]):
            model = self.kind(type(config).from_dict(config.to_dict()))
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # others want even strides
        return model.float().eval()

    def output(self, model: Any) -> Tensor:
        """What a model says to the trial's ids: logits, or the last hidden states."""
        out = model(self.ids)
        value: Tensor = out.logits if "logits" in out else out[0]
        return value

    def slots(self, axis: str) -> list[Slot]:
        """The slots of "heads", "ffn", "experts" or "hidden"; ValueError for none."""
        if axis not in self._found:
            found = self._hidden() if axis == "hidden" else self._units(axis)
            self._found[axis] = found
        return self._found[axis]

    def unclear(self, axis: str, place: Place) -> ValueError:
        """The refusal that names a tensor."""
        return pruned.refused(self.config, f"{axis} cannot be told apart", place[1])

    def _grown(self, *axes: str) -> dict[Place, int]:
        """By how much dimensions grow where axes, or fields of the config, double."""
        sizes: dict[str, int] = pruned.head_width(self.config)
        for axis in axes:
            if axis == "heads":
                groups = pruned.units(self.config, "heads")["heads"]
                sizes |= pruned.group_sizes(self.config, 2 * groups)
            else:
                name = "hidden_size" if axis == "hidden" else axis
                sizes[name] = 2 * getattr(self.config, name)
        new = skeleton(self.kind, pruned.resized(self.config, sizes))
        small, large = places_of(self.model), places_of(new)
        if odd := small.keys() ^ large.keys():
            raise self.unclear(axes[0], min(odd))
        return {p: large[p] - size for p, size in small.items() if large[p] != size}

    def _units(self, axis: str) -> list[Slot]:
        """The slots of heads, experts, or each FFN width."""
        slots = []
        for name, units in pruned.units(self.config, axis).items():
            joint = axis == "heads" and not self.apart
            places = self._grown("heads", "hidden") if joint else self._grown(name)
            if axis == "experts":
                found = [Slot(*place, name, (1,), "") for place in places]
            else:
                found = self._by_gradients(name, places, units, joint)
            missing = places.keys() - {slot[:3] for slot in found}
            if missing and not joint:
                raise self.unclear(axis, min(missing))
            slots += found
        if not slots:
            raise pruned.refused(self.config, "config has no field that says", axis)
        return slots

    def _by_gradients(
        self, axis: str, places: Mapping[Place, int], units: int, alone: bool
    ) -> list[Slot]:
        """Slots of weights that read units, and of what makes what they read.

        alone: each is tried by itself, as places may also be hidden units.
        """
        sizes, found = places_of(self.model), dict[Place, Slot]()
        readers = [
            p for p in places if self._reads(p) and p[0] >= 0 and not sizes[p] % units
        ]
        for tried in ([place] for place in readers) if alone else [readers]:
            made = self._made(tried, units, [p for p in places if p not in tried])
            if any(Slot(*place).tensor(self.model).ndim > 1 for place in made):
                found |= {p: Slot(*p, axis, made[p], "made") for p in made}
                each = {p: (sizes[p] // units,) for p in tried}
                found |= {p: Slot(*p, axis, each[p], "read") for p in tried}
        return list(found.values())

    def _reads(self, place: Place) -> bool:
        """Whether a weight reads by this dimension, and does not make by it."""
        slot, dims = Slot(*place), Slot(*place).tensor(self.model).ndim
        last = dims - (2 if is_transposed(slot.owner(self.model)) else 1)
        return dims > 1 and slot.dim == last

    @torch.enable_grad()
    def _made(
        self, readers: Sequence[Place], units: int, places: Sequence[Place]
    ) -> dict[Place, tuple[int, ...]]:
        """The places of which each part has a gradient where just one unit is read."""
        seen: dict[Place, list[Tensor]] = {place: [] for place in places}
        for unit in range(units):
            model = deepcopy(self.model)
            for reader in readers:
                weight, dim = Slot(*reader).tensor(model), reader[2]
                other = torch.arange(weight.shape[dim])
                other = other[other // (len(other) // units) != unit]
                weight.data.index_fill_(dim, other, 0)
            self.output(model).square().sum().backward()
            for place, flags in seen.items():
                flags.append(_touched(model, place))
        shown = {place: _widths(torch.stack(flags)) for place, flags in seen.items()}
        return {place: widths for place, widths in shown.items() if widths}

    def _hidden(self) -> list[Slot]:
        """The slots of the residual stream: what grows with it but heads' own."""
        joint = [] if self.apart else ["heads"]
        places = self._grown("hidden", *joint)
        for slot in (slot for axis in joint for slot in self.slots(axis)):
            places.pop(slot[:3], None)
        for place, growth in places.items():
            if growth != self.config.hidden_size:
                raise self.unclear("hidden width", place)
        return [Slot(*place, "hidden", (1,), self._role(place)) for place in places]

    def _role(self, place: Place) -> str:
        """Whether a dimension of the residual stream is made, read or scaled."""
        owner = Slot(*place).owner(self.model)
        if all(tensor.ndim == 1 for tensor in owner.parameters(recurse=False)):
            return "norm" if place[1].endswith("weight") else ""
        table = isinstance(owner, nn.Embedding)
        return "read" if self._reads(place) and not table else "made"


def trial_of(model: Any) -> Trial:
    """The trial of a model, kept for the next of its config."""
    kinds, config = tuple(sorted({*kinds_of(model)})), model.config
    if not getattr(config, "num_attention_heads", 0):
        raise pruned.refused(config, "parts cannot be told apart", "it has no heads")
    made: Any = type(model), type(config), config.to_json_string(False)
    with refusing(config, "config cannot be tried at a small size"):
        return _trial(*made, kinds)


@lru_cache(maxsize=8)
def _trial(kind: Any, config: Any, told: str, kinds: tuple[int, ...]) -> Trial:
    return Trial(kind, config.from_dict(json.loads(told)), kinds)


def kinds_of(model: Any) -> list[int]:
    """For each layer the number of the first of its kind."""
    first: dict[Any, int] = {}
    return [first.setdefault(kind_of(x), n) for n, x in enumerate(stack_of(model))]


def map_of(model: Any, axes: Iterable[str]) -> list[Slot]:
    """The slots of "heads", "ffn", "experts" and "hidden" in all layers and outside.

    Raises ValueError in one line where an axis cannot be derived.
    """
    if not (axes := tuple(axes)):
        return []
    trial, kinds = trial_of(model), kinds_of(model)
    layers = {n: trial.kinds.index(kind) for n, kind in enumerate(kinds)} | {-1: -1}
    with refusing(model.config, "config cannot be tried at a small size"):
        return [
            slot._replace(layer=layer)
            for axis in axes
            for layer, shown in layers.items()
            for slot in trial.slots(axis)
            if slot.layer == shown
        ]


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    """Weights of sizes at which every unit matters: what comes in, goes out."""
    source = torch.Generator().manual_seed(0)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=source)
        if weight.ndim < 2:
            weight.add_(0.2 * noise)
        else:
            width = 1 if id(weight) in tables else min(weight.shape[-2:])
            weight.copy_(noise * width**-0.5)


def _touched(model: Any, place: Place) -> Tensor:
    """Which parts of a dimension have a gradient: (size,) bool.

    A bias is as the rows of its weight: softmax sees none that all keys have in common.
    """
    layer, name, dim = place
    slot = Slot(layer, name, dim)
    if name.endswith(".bias") and hasattr(owner := slot.owner(model), "weight"):
        dim = owner.weight.ndim - 1 if is_transposed(owner) else 0
        slot = slot._replace(name=name.removesuffix("bias") + "weight")
    grad = slot.tensor(model).grad
    if grad is None:
        return torch.zeros(slot.tensor(model).shape[dim], dtype=torch.bool)
    return (grad != 0).transpose(0, dim).reshape(grad.shape[dim], -1).any(1)


def _widths(owned: Tensor) -> tuple[int, ...]:
    """Of (units, size) bool: widths of runs 0, 1 .. units - 1, () if it is not so."""
    units = len(owned)
    if bool((owned.sum(0) != 1).any()):
        return ()
    unit, count = owned.int().argmax(0).unique_consecutive(return_counts=True)
    if len(unit) % units or unit.tolist() != [*range(units)] * (len(unit) // units):
        return ()
    runs = count.view(-1, units)
    return tuple(runs[:, 0].tolist()) if bool((runs == runs[:, :1]).all()) else ()

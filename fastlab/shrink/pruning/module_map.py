"""Which dimensions of a model's tensors shrink together: derived, for any family.

It is seen on a small model of the same config, with one layer of each kind. That is built twice, the second time with one size doubled: what grows follows that size.
Gradients then show in which order units lie in a tensor, and what makes them: where a
weight reads no unit but one, only what makes that one has a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.models import stack_name
from fastlab.shrink.pruning.slots import (
    Slot,
    check_tensors,
    in_layer,
    is_transposed,
    kinds_of,
    layer_of,
    skeleton,
    tensors_of,
)
from fastlab.spec import pruned

Place = tuple[str, int]  # a tensor's name and one of its dimensions
GROUPS, CHANNELS, WORDS = 4, 4, 64  # of the small model


def small_sizes(config: Any, kinds: Sequence[int]) -> dict[str, Any]:
    """The fields of a small model with these layers; heads keep their width."""
    sizes = pruned.layer_sizes(config, kinds) | pruned.head_width(config)
    groups = GROUPS if pruned.groups_of(config) > 1 else 1
    sizes |= pruned.group_sizes(config, groups)
    sizes |= dict.fromkeys(pruned.units(config, "ffn"), CHANNELS)
    if (getattr(config, "n_group", 1) or 1) == 1:
        each = (getattr(config, "num_experts_per_tok", None) or 2) + 2
        experts = pruned.units(config, "experts")
        sizes |= {name: min(count, each) for name, count in experts.items()}
    for name, value in config.to_dict().items():
        if name.endswith("token_id") and value is not None:
            first = value[0] if isinstance(value, list) else value
            sizes[name] = min(first, WORDS - 1)
    cached = {"use_cache": False} if hasattr(config, "use_cache") else {}
    return sizes | cached | {"vocab_size": WORDS}


class Trial:
    """A small model with one layer of each kind, `kinds` of the model it stands for.

    apart: whether heads have a width of their own, so that hidden can go by itself.
    """

    def __init__(self, kind: type, config: Any, kinds: tuple[int, ...]) -> None:
        self.kind, self.kinds, self.ids = kind, kinds, _ids()
        width = pruned.head_width(config).get("head_dim")
        width = width or config.hidden_size // config.num_attention_heads
        sizes = small_sizes(config, kinds)
        heads = sizes["num_attention_heads"]
        self.config = pruned.resized(config, sizes | {"hidden_size": heads * width})
        self.stack = stack_name(skeleton(kind, self.config))
        self.apart = any(layer_of(n, self.stack) >= 0 for n, _ in self._of_heads())
        self.model = self.build(self.config)
        if self.apart:
            self._narrow()
        _draw(self.model)
        self._found: dict[str, list[Slot]] = {}

    def _narrow(self) -> None:
        """Hidden at a small width of its own, where the model runs with one."""
        small = 6 * self.config.num_attention_heads  # heads divide it: some want that
        config = pruned.resized(self.config, {"hidden_size": small})
        model = self.build(config)
        try:
            self.output(model)
        except RuntimeError:
            self.apart = False
        else:
            self.config, self.model = config, model

    def build(self, config: Any) -> Any:
        """A model of a config on the CPU in fp32, as it would be read from a file."""
        with torch.random.fork_rng(devices=[]):
            model = self.kind(type(config).from_dict(config.to_dict()))
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the others want even strides
        return model.float().eval()

    def output(self, model: Any) -> Tensor:
        """What a model says to the trial's ids: logits, or the last hidden states."""
        out = model(self.ids)
        value: Tensor = out.logits if "logits" in out else out[0]
        return value

    def slots(self, axis: str) -> list[Slot]:
        """The slots of "heads", "ffn", "experts" or "hidden"; ValueError for none."""
        if axis not in self._found:
            find = {"hidden": self._hidden, "experts": self._experts}
            self._found[axis] = find.get(axis, lambda: self._units(axis))()
        return self._found[axis]

    def grown(self, sizes: Mapping[str, Any]) -> dict[Place, int]:
        """By how much the dimensions of tensors grow with sizes of the config."""
        new = skeleton(self.kind, pruned.resized(self.config, sizes))
        small, large = map(tensors_of, (skeleton(self.kind, self.config), new))
        if small.keys() != large.keys():
            raise self.unclear("tensors", next(iter(small.keys() ^ large.keys())))
        return {
            (name, dim): large[name].shape[dim] - size
            for name, tensor in small.items()
            for dim, size in enumerate(tensor.shape)
            if large[name].shape[dim] != size
        }

    def unclear(self, axis: str, name: str) -> ValueError:
        """The refusal that names a tensor."""
        return pruned.refused(self.config, f"{axis} cannot be told apart", name)

    def _of_heads(self) -> dict[Place, int]:
        """What grows with heads alone; nothing where their width shrinks instead."""
        sizes = pruned.group_sizes(self.config, 2 * pruned.groups_of(self.config))
        width = pruned.head_width(self.config)
        return self.grown(sizes | width) if width else {}

    def _of_hidden(self) -> dict[Place, int]:
        """What grows with hidden, and with the heads that fill it where they do."""
        sizes = {"hidden_size": 2 * self.config.hidden_size}
        if self.apart:
            return self.grown(sizes | pruned.head_width(self.config))
        groups = 2 * pruned.groups_of(self.config)
        return self.grown(sizes | pruned.group_sizes(self.config, groups))

    def _units(self, axis: str) -> list[Slot]:
        """The slots of heads or of each FFN width, as gradients show them."""
        slots = []
        for name, units in pruned.units(self.config, axis).items():
            if axis == "ffn":
                places = self.grown({name: 2 * units})
            else:
                places = self._of_heads() if self.apart else self._of_hidden()
            found = self._by_gradients(name, places, units)
            missing = places.keys() - {(slot.name, slot.dim) for slot in found}
            found += self._biases(found, missing)
            missing -= {(slot.name, slot.dim) for slot in found}
            if missing and (self.apart or axis != "heads"):
                raise self.unclear(axis, min(missing)[0])
            slots += found
        if not slots:
            raise pruned.refused(self.config, "config has no field that says", axis)
        return slots

    def _by_gradients(
        self, axis: str, places: Mapping[Place, int], units: int
    ) -> list[Slot]:
        """Slots of weights that read units, and of what they read is made by.

        Where places can also be hidden units, each is tried alone, to see which reads.
        """
        tensors, found = tensors_of(self.model), dict[Place, Slot]()
        readers = [
            (name, dim)
            for name, dim in places
            if layer_of(name, self.stack) >= 0
            and dim == self.input_dim(name)
            and tensors[name].shape[dim] % units == 0
        ]
        alone = axis == "heads" and not self.apart
        for tried in ([place] for place in readers) if alone else [readers]:
            layers = {layer_of(name, self.stack) for name, _ in tried}
            near = [p for p in places if layer_of(p[0], self.stack) in layers]
            made = self._made(tried, units, [p for p in near if p not in tried])
            if any(tensors[name].ndim > 1 for name, _ in made):
                own = {p: (tensors[p[0]].shape[p[1]] // units,) for p in tried}
                for place, widths in (own | made).items():
                    role = "read" if place in own else "made"
                    layer = layer_of(place[0], self.stack)
                    found[place] = Slot(*place, axis, widths, role, layer)
        return list(found.values())

    def _biases(self, found: Sequence[Slot], missing: Iterable[Place]) -> list[Slot]:
        """The slots of biases, which lie as the rows of their weights do.

        Not all have a gradient: softmax does not see what all keys have in common.
        """
        made = {slot.name: slot for slot in found if slot.role == "made"}
        weights = {name: name.removesuffix("bias") + "weight" for name, _ in missing}
        return [
            made[weights[name]]._replace(name=name, dim=0)
            for name, _ in missing
            if name.endswith(".bias") and weights[name] in made
        ]

    def input_dim(self, name: str) -> int:
        """The dimension of a weight by which it reads, -1 for vectors."""
        tensor, module = tensors_of(self.model)[name], name.rpartition(".")[0]
        turned = is_transposed(self.model.get_submodule(module))
        return -1 if tensor.ndim < 2 else tensor.ndim - (2 if turned else 1)

    @torch.enable_grad()
    def _made(
        self, readers: Sequence[Place], units: int, places: Sequence[Place]
    ) -> dict[Place, tuple[int, ...]]:
        """The places of which each part has a gradient where just one unit is read."""
        seen: dict[Place, list[Tensor]] = {place: [] for place in places}
        for unit in range(units):
            model = deepcopy(self.model)
            tensors = tensors_of(model)
            for name, dim in readers:
                other = torch.arange(tensors[name].shape[dim])
                other = other[other // (len(other) // units) != unit]
                tensors[name].data.index_fill_(dim, other, 0)
            self.output(model).square().sum().backward()
            for place in places:
                seen[place].append(_touched(tensors[place[0]], place[1]))
        shown = {place: _widths(torch.stack(flags)) for place, flags in seen.items()}
        return {place: widths for place, widths in shown.items() if widths}

    def _experts(self) -> list[Slot]:
        slots = []
        for name, count in pruned.units(self.config, "experts").items():
            for (tensor, dim), growth in self.grown({name: 2 * count}).items():
                if growth != count:
                    raise self.unclear("experts", tensor)
                layer = layer_of(tensor, self.stack)
                slots.append(Slot(tensor, dim, name, (1,), "", layer))
        if not slots:
            raise pruned.refused(
                self.config, "config has no field that says", "experts"
            )
        return slots

    def _hidden(self) -> list[Slot]:
        heads = [] if self.apart else self.slots("heads")
        places = self._of_hidden()
        for slot in heads:
            places.pop((slot.name, slot.dim), None)
        for (name, _), growth in places.items():
            if growth != self.config.hidden_size:
                raise self.unclear("hidden width", name)
        roles = {place: self._role(*place) for place in places}
        return [
            Slot(*place, "hidden", (1,), role, layer_of(place[0], self.stack))
            for place, role in roles.items()
        ]

    def _role(self, name: str, dim: int) -> str:
        """Whether a dimension of the residual stream is made, read or scaled."""
        owner, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(owner)
        if all(tensor.ndim == 1 for tensor in module.parameters(recurse=False)):
            return "norm" if leaf == "weight" else ""
        if isinstance(module, nn.Embedding):
            return "made"
        return "read" if dim == self.input_dim(name) else "made"


def trial_of(model: Any) -> Trial:
    """The trial of a model, kept for the next of its config.

    Raises ValueError where transformers cannot make a small one.
    """
    kinds, config = tuple(sorted(set(kinds_of(model)))), model.config
    try:
        return _trial(type(model), config.to_json_string(use_diff=False), kinds)
    except (RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        why = "config cannot be tried at a small size"
        raise pruned.refused(config, why, error) from error


def map_of(model: Any, axes: Iterable[str]) -> list[Slot]:
    """The slots of "heads", "ffn", "experts" and "hidden" in all layers and outside.

    Raises ValueError in one line for a model that is quantized or has tensors of its
    own (adapters), and where an axis cannot be derived.
    """
    stack, kinds, trial = stack_name(model), kinds_of(model), trial_of(model)
    layers = {n: trial.kinds.index(kind) for n, kind in enumerate(kinds)} | {-1: -1}
    check_tensors(model, trial.model, stack, layers)
    return [
        slot._replace(name=in_layer(slot.name, stack, layer), layer=layer)
        for axis in axes
        for layer, shown in layers.items()
        for slot in trial.slots(axis)
        if slot.layer == shown
    ]


@lru_cache(maxsize=8)
def _trial(kind: Any, config: str, kinds: tuple[int, ...]) -> Trial:
    return Trial(kind, kind.config_class.from_dict(json.loads(config)), kinds)


def _ids() -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(3, WORDS - 1, (2, 12), generator=source)


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


def _touched(tensor: Tensor, dim: int) -> Tensor:
    """Which parts of a dimension have a gradient: (size,) bool."""
    if tensor.grad is None:
        return torch.zeros(tensor.shape[dim], dtype=torch.bool)
    return (tensor.grad != 0).transpose(0, dim).reshape(tensor.shape[dim], -1).any(1)


def _widths(owned: Tensor) -> tuple[int, ...]:
    """Of (units, size) bool: widths of runs 0, 1 .. units - 1, () if it is not so."""
    units = len(owned)
    if bool((owned.sum(0) != 1).any()):
        return ()
    owner = owned.int().argmax(0)
    unit, count = owner.unique_consecutive(return_counts=True)
    if len(unit) % units or unit.tolist() != [*range(units)] * (len(unit) // units):
        return ()
    runs = count.view(-1, units)
    return tuple(runs[:, 0].tolist()) if bool((runs == runs[:, :1]).all()) else ()

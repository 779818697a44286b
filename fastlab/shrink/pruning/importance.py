"""What stays in a pruned model: chosen on the dense one, before anything changes.

How much each layer, head, FFN channel, expert or hidden unit matters is one score for
each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.shrink.kernels import blocks
from fastlab.shrink.pruning import probes
from fastlab.shrink.pruning.cutting import Kept, Slot
from fastlab.shrink.pruning.module_map import map_of
from fastlab.spec.pruned import EXPERTS, pruned_config, units
from fastlab.spec.pruning import Pruning, placed

MEASURES = {"influence": probes.block_influence, "loss": probes.losses_without}
AXES = ("heads", "ffn", "experts", "hidden")


@dataclass(frozen=True)
class Scope:
    """What is scored: a model, its layers that stay, their slots and all outside."""

    model: Any
    slots: list[Slot]
    layers: tuple[int, ...]

    def of(self, axis: str, layer: int | None = None, role: str = "") -> list[Slot]:
        """The slots of an axis, in a layer and with a role where they are named."""
        return [
            slot
            for slot in self.slots
            if slot.axis == axis
            and layer in (None, slot.layer)
            and role in ("", slot.role)
        ]

    def units(self, axis: str) -> int:
        """Units of an axis that can go by themselves: heads go in groups."""
        sizes = (units(self.model.config, kind) for kind in AXES)
        return next(size[axis] for size in sizes if axis in size)

    def squares(self, slot: Slot) -> Tensor:
        """Sums of squares of a slot's weights: (widths, units) in fp32."""
        return by_unit(squares(slot.tensor(self.model), slot.dim), slot)


def axes_of(pruning: Pruning) -> tuple[str, ...]:
    """The axes of which a pruning must know where they lie."""
    scored = pruning.layers and pruning.layer_choice == "magnitude"
    cut = {axis: getattr(pruning, axis) for axis in AXES}
    return tuple(a for a in AXES if cut[a] or (scored and a == "hidden"))


def choose(model: Any, pruning: Pruning, ids: Tensor | None = None) -> Kept:
    """What stays of a dense model under a pruning; the model is left as it is.

    ids: token ids (rows, length) on which importances are measured that need a text.
    Raises ValueError as `prune` does.
    """
    count = pruned_config(model.config, pruning).num_hidden_layers
    ids = _checked(model, pruning, ids)
    slots = map_of(model, axes_of(pruning))
    every = Scope(model, slots, tuple(range(model.config.num_hidden_layers)))
    layers = _layers(every, pruning, count, ids)
    config = pruned_config(model.config, pruning, layers)
    slots = [slot for slot in slots if slot.layer in (*layers, -1)]
    scope, kept = Scope(model, slots, layers), {}
    for kind in (axis for axis in AXES if getattr(pruning, axis)):
        for axis, left in units(config, kind).items():
            if scope.of(axis):
                where = axis if axis == "hidden" else axis + " in layer {}"
                merits = scores(scope, pruning, axis, ids).items()
                kept[axis] = {n: best(s, left, where.format(n)) for n, s in merits}
    return Kept(config, layers, [slot for slot in slots if slot.axis in kept], kept)


def _checked(model: Any, pruning: Pruning, ids: Tensor | None) -> Tensor | None:
    if ids is None and (need := pruning.needs_text):
        raise ValueError(f"{need} needs ids: token ids (rows, length) of a text")
    if ids is None:
        return None
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        for name in ("importance", "layer_choice"):
            if (value := getattr(pruning, name)) in ("taylor", "loss"):
                family = model.config.model_type
                raise ValueError(
                    f"{name}={value!r} needs a next-token loss, which {family} has not"
                )
    return probes.check_ids(model, ids)


def _layers(
    scope: Scope, pruning: Pruning, count: int, ids: Tensor | None
) -> tuple[int, ...]:
    have, choice = len(scope.layers), pruning.layer_choice
    if count == have or choice in ("first", "last", "uniform"):
        return placed(have, count, choice)
    if choice == "magnitude":
        merits = _layer_magnitudes(scope)
    elif choice == "random":
        merits = torch.rand(have, generator=torch.Generator().manual_seed(pruning.seed))
    else:
        assert ids is not None
        merits = MEASURES[choice](scope.model, ids)
    return tuple(best(merits, count, "the layers").tolist())


def _layer_magnitudes(scope: Scope) -> Tensor:
    """Norm of all weights of each layer that write the residual stream: (layers,)."""
    made = (scope.of("hidden", layer, "made") for layer in scope.layers)
    sums = [sum(float(scope.squares(slot).sum()) for slot in slots) for slots in made]
    return torch.tensor(sums).sqrt()


def best(score: Tensor, count: int, of: str) -> Tensor:
    """The places of the `count` largest scores, ascending; of equal ones the first.

    Raises ValueError for scores, `of` something, that are not finite.
    """
    if not bool(torch.isfinite(score).all()):
        raise ValueError(f"the scores of {of} are not finite")
    return score.argsort(descending=True, stable=True)[:count].sort().values


def scores(
    scope: Scope, pruning: Pruning, axis: str, ids: Tensor | None
) -> dict[int, Tensor]:
    """Scores (units,) of a slots' axis in each layer; those of "hidden" at -1.

    magnitude, heads and FFN channels: the product of the norms of the weights that make
    a unit and of those that read it. experts: the norm of all their weights. hidden:
    the product times the mean size of the norms' weights.
    activation, heads and FFN channels: the root mean square of what a unit adds to the
    residual stream on the ids, if its channels were independent. hidden: that of the
    norms' outputs. taylor: as `probes.taylor_terms` says. random: by the seed.

    A unit whose output weights are zero scores 0 in all but random.
    """
    layers = sorted({slot.layer for slot in scope.of(axis)})
    places = [-1] if axis == "hidden" else layers
    if pruning.importance == "random":
        source = torch.Generator().manual_seed(pruning.seed)
        merits = [torch.rand(scope.units(axis), generator=source) for _ in places]
    elif pruning.importance == "magnitude":
        merits = [_magnitude(scope, axis, place) for place in places]
    else:
        assert ids is not None
        merits = _measured(scope, pruning.importance, axis, places, ids)
    return dict(zip(places, merits, strict=True))


def _magnitude(scope: Scope, axis: str, layer: int) -> Tensor:
    if axis == "hidden":
        return _hidden_magnitude(scope)
    if axis in EXPERTS:
        weights = (scope.squares(slot)[0] for slot in scope.of(axis, layer))
        return torch.stack(list(weights)).sum(0).sqrt()
    readers = scope.of(axis, layer, "read")
    merits = torch.zeros(scope.units(axis))
    for reader in readers:
        near = scope.of(axis, layer, "made")
        if len(readers) > 1:  # as routed and shared experts: each with its own
            near = [slot for slot in near if _block(slot) == _block(reader)]
        merits += prod(_factors(scope, near)) * scope.squares(reader).sum(0)
    return merits.sqrt()


def _block(slot: Slot) -> str:
    """The module that a linear, or a bare weight, lies in."""
    return slot.name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[0]


def _factors(scope: Scope, made: list[Slot]) -> list[Tensor]:
    """Squares of each weight that makes units, its bias too; of heads, the values'."""
    sums: dict[str, Tensor] = {}
    for slot in made:
        stem = slot.name.removesuffix("bias").removesuffix("weight").rstrip("._")
        sums[stem] = sums.get(stem, 0) + scope.squares(slot)
    if not made or made[0].axis != "heads":
        return [row for rows in sums.values() for row in rows]
    leaves = {stem.rpartition(".")[2]: rows for stem, rows in sums.items()}
    named = [leaf for leaf in leaves if leaf.startswith("v") or "value" in leaf]
    return [leaves[(named or list(leaves))[-1]][-1]]  # where fused, values come last


def _hidden_magnitude(scope: Scope) -> Tensor:
    """By an estimate of each hidden unit's mean square, from weights alone: (hidden,).

    An embedding writes one of its rows; any other module writes the squares of its
    rows, as if its inputs had mean squares of 1.
    """
    sums = {role: torch.zeros(scope.units("hidden")) for role in ("made", "read")}
    for slot in scope.of("hidden"):
        if slot.role in sums:
            rows = getattr(slot.owner(scope.model), "num_embeddings", 1)
            sums[slot.role] += scope.squares(slot)[0] / rows
    norms = [slot.tensor(scope.model) for slot in scope.of("hidden", None, "norm")]
    sizes = torch.stack([norm.detach().float().abs().cpu() for norm in norms])
    return (sums["made"] * sums["read"]).sqrt() * sizes.mean(0)


def _measured(
    scope: Scope, importance: str, axis: str, places: list[int], ids: Tensor
) -> list[Tensor]:
    hidden, units = axis == "hidden", scope.units(axis)
    slots = scope.of(axis, None, "norm" if hidden else "read")
    seen = tuple(slot.owner(scope.model) for slot in slots)
    linear = all(isinstance(module, (nn.Linear, Conv1D)) for module in seen)
    if not seen or not (hidden or linear):
        raise ValueError(
            f"importance={importance!r} is not seen of {axis}: no linear reads it; "
            "allowed: magnitude, random"
        )
    sites = [probes.Site((module,), True, units) for module in seen]
    sites = [probes.Site(seen, False, units)] if hidden else sites
    if importance == "taylor":
        terms = [term.cpu() for term in probes.taylor_terms(scope.model, sites, ids)]
    else:
        terms = [term.cpu() for term in probes.mean_squares(scope.model, sites, ids)]
        if not hidden:
            reads = (squares(slot.tensor(scope.model), slot.dim) for slot in slots)
            pairs = zip(terms, reads, slots, strict=True)
            terms = [by_unit(x * read, slot).sum(0) for x, read, slot in pairs]
        terms = [term.sqrt() for term in terms]
    if hidden:
        return terms
    each: dict[int, Any] = dict.fromkeys(places, 0)
    for slot, term in zip(slots, terms, strict=True):
        each[slot.layer] = each[slot.layer] + term
    return list(each.values())


def by_unit(channels: Tensor, slot: Slot) -> Tensor:
    """Sums over the places of each unit: (size,) -> (widths, units)."""
    each = len(channels) // sum(slot.widths)
    runs = channels.split([width * each for width in slot.widths])
    return torch.stack([run.view(each, -1).sum(1) for run in runs])


def squares(weight: Tensor, dim: int) -> Tensor:
    """Sums of squares over all dimensions but one, block by block: (size,) in fp32."""
    rest = [place for place in range(weight.ndim) if place != dim]
    flat = weight.detach().reshape(len(weight), -1)
    parts = [part.float().view(-1, *weight.shape[1:]).square() for part in blocks(flat)]
    sums = [part.sum(rest) if rest else part for part in parts]
    return (torch.cat(sums) if dim == 0 else torch.stack(sums).sum(0)).cpu()

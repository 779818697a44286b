"""What stays in a pruned model: chosen on the dense one, before anything changes.

How much each layer, head, FFN channel or hidden unit matters is one score for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.shrink.kernels import blocks
from fastlab.shrink.pruning import probes
from fastlab.shrink.pruning.module_map import Part, is_transposed, parts_of
from fastlab.spec.pruning import Pruning, pruned_shape
from fastlab.spec.shape import ModelShape

MEASURES = {"influence": probes.block_influence, "loss": probes.losses_without}


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


@dataclass(frozen=True)
class Scope:
    """What is scored: a model, its layers that stay, their modules and all outside."""

    model: Any
    parts: list[Part]
    shape: ModelShape
    layers: tuple[int, ...]

    @property
    def norms(self) -> tuple[Any, ...]:
        """All norms of the residual stream."""
        return tuple(part.module for part in self.parts if part.written == "norm")

    def reader(self, axis: str, layer: int) -> Any:
        """The module of a layer that reads an axis."""
        places = ((part.module, part.layer, part.read) for part in self.parts)
        return next(m for m, *place in places if place == [layer, axis])

    def units(self, axis: str) -> int:
        """Units of an axis that can go by themselves: heads go in groups."""
        return getattr(self.shape, "kv_heads" if axis == "heads" else axis)


def choose(model: Any, pruning: Pruning, ids: Tensor | None = None) -> Kept:
    """What stays of a dense model under a pruning; the model is left as it is.

    ids: token ids (rows, length) on which importances are measured that need a text.
    Raises ValueError as `prune` does.
    """
    parts, shape = parts_of(model), ModelShape.from_config(model.config)
    after = pruned_shape(shape, pruning)
    ids = _checked(model, pruning, ids)
    every = Scope(model, parts, shape, tuple(range(shape.layers)))
    layers = _layers(every, pruning, after.layers, ids)
    parts = [part for part in parts if part.layer in (*layers, -1)]
    scope = Scope(model, parts, shape, layers)
    units: dict[str, Any] = {}
    counts = {"heads": after.kv_heads, "ffn": after.ffn, "hidden": after.hidden}
    for axis in (name for name in counts if getattr(pruning, name)):
        merits = scores(scope, pruning, axis, ids).items()
        where = axis if axis == "hidden" else axis + " in layer {}"
        units[axis] = {n: best(s, counts[axis], where.format(n)) for n, s in merits}
    if pruning.hidden:
        units["hidden"] = units["hidden"][-1]
    return Kept(after, layers, **units)


def _checked(model: Any, pruning: Pruning, ids: Tensor | None) -> Tensor | None:
    if ids is None and (need := pruning.needs_text):
        raise ValueError(f"{need} needs ids: token ids (rows, length) of a text")
    if ids is None:
        return None
    if model.config.model_type == "bert":
        for name in ("importance", "layer_choice"):
            if (value := getattr(pruning, name)) in ("taylor", "loss"):
                raise ValueError(
                    f"{name}={value!r} needs a next-token loss, which bert has not"
                )
    return probes.check_ids(model, ids)


def _layers(
    scope: Scope, pruning: Pruning, count: int, ids: Tensor | None
) -> tuple[int, ...]:
    have, choice = scope.shape.layers, pruning.layer_choice
    placed = {
        "first": scope.layers[have - count :],
        "last": scope.layers[:count],
        "uniform": evenly(have, count),
    }
    if count == have or choice in placed:
        return placed.get(choice, scope.layers)
    if choice == "magnitude":
        merits = _layer_magnitudes(scope)
    elif choice == "random":
        merits = torch.rand(have, generator=torch.Generator().manual_seed(pruning.seed))
    else:
        assert ids is not None
        merits = MEASURES[choice](scope.model, ids)
    return tuple(best(merits, count, "the layers").tolist())


def evenly(have: int, count: int) -> tuple[int, ...]:
    """`count` of `have` layers, the first and the last among them: 6, 3 -> 0, 2, 5."""
    gaps = max(1, count - 1)
    return tuple((2 * n * (have - 1) + gaps) // (2 * gaps) for n in range(count))


def _layer_magnitudes(scope: Scope) -> Tensor:
    """Norm of all weights of each layer that write the residual stream: (layers,)."""
    squares = dict.fromkeys(scope.layers, 0.0)
    for part in scope.parts:
        if part.written == "hidden" and part.layer in squares:
            squares[part.layer] += float(row_squares(part.module).sum())
    return torch.tensor(list(squares.values())).sqrt()


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
    """Scores (units,) of "heads" or "ffn" in each layer; those of "hidden" at -1.

    magnitude, heads and ffn: the product of the norms of the weights that make a unit
    and of those that read it. hidden: that times the mean size of the norms' weights.
    activation, heads and ffn: the root mean square of what a unit adds to the residual
    stream on the ids, if its channels were independent. hidden: that of the norms'
    outputs. taylor: as `probes.taylor_terms` says. random: by the seed.

    A unit whose output weights are zero scores 0 in all but random.
    """
    places = (-1,) if axis == "hidden" else scope.layers
    if pruning.importance == "random":
        source = torch.Generator().manual_seed(pruning.seed)
        merits = [torch.rand(scope.units(axis), generator=source) for _ in places]
    elif pruning.importance == "magnitude":
        merits = [_magnitude(scope, axis, place) for place in places]
    else:
        assert ids is not None
        merits = _measured(scope, pruning.importance, axis, ids)
    return dict(zip(places, merits, strict=True))


def _magnitude(scope: Scope, axis: str, layer: int) -> Tensor:
    if axis == "hidden":
        return _hidden_magnitude(scope)
    read = grouped(column_squares(scope.reader(axis, layer)), scope.units(axis))
    made = torch.ones_like(read)
    makers = ("values", "qkv") if axis == "heads" else (axis,)
    width = scope.units(axis) * (scope.shape.head_dim if axis == "heads" else 1)
    for part in scope.parts:
        if part.layer == layer and part.written in makers:
            rows = row_squares(part.module)[-width:]  # in "qkv" the values come last
            made = made * grouped(rows, scope.units(axis))
    return (made * read).sqrt()


def _hidden_magnitude(scope: Scope) -> Tensor:
    """By an estimate of each hidden unit's mean square, from weights alone: (hidden,).

    An embedding writes one of its rows; any other module writes the squares of its
    rows, as if its inputs had mean squares of 1.
    """
    written = read = torch.zeros(scope.shape.hidden)
    for part in scope.parts:
        if part.written == "hidden":
            squares = row_squares(part.module)
            if isinstance(part.module, nn.Embedding):
                squares = squares / part.module.num_embeddings
            written = written.to(squares.device) + squares
        if part.read == "hidden":
            squares = column_squares(part.module)
            read = read.to(squares.device) + squares
    sizes = torch.stack([norm.weight.float().abs() for norm in scope.norms])
    return (written * read).sqrt() * sizes.mean(0)


def _measured(scope: Scope, importance: str, axis: str, ids: Tensor) -> list[Tensor]:
    units, hidden = scope.units(axis), axis == "hidden"
    readers = [] if hidden else [scope.reader(axis, layer) for layer in scope.layers]
    sites = [probes.Site((reader,), True, units) for reader in readers]
    sites = sites or [probes.Site(scope.norms, False, units)]
    if importance == "taylor":
        return probes.taylor_terms(scope.model, sites, ids)
    squares = probes.mean_squares(scope.model, sites, ids)
    if hidden:
        return [squares[0].sqrt()]
    pairs = zip(squares, map(column_squares, readers), strict=True)
    return [grouped(square * read, units).sqrt() for square, read in pairs]


def grouped(channels: Tensor, units: int) -> Tensor:
    """Sums over the channels of each unit: (channels,) -> (units,)."""
    return channels.reshape(units, -1).sum(-1)


def row_squares(module: nn.Module) -> Tensor:
    """Sum of squares of what makes each output, its bias too: (written,) in fp32."""
    squares = _squares(module.weight, 0 if is_transposed(module) else 1)
    bias = getattr(module, "bias", None)
    return squares if bias is None else squares + bias.float().square()


def column_squares(module: nn.Module) -> Tensor:
    """Sum of squares of the weights that read each input: (read,) in fp32."""
    return _squares(module.weight, 1 if is_transposed(module) else 0)


def _squares(weight: Any, axis: int) -> Tensor:
    """Sums of squares over one axis of a matrix, block by block."""
    squares: list[Any] = [part.float().square().sum(axis) for part in blocks(weight)]
    return torch.cat(squares) if axis == 1 else sum(squares)

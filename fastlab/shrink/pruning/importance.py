"""How much each head, FFN channel or hidden unit matters: one score a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.shrink.pruning.module_map import Part, is_transposed
from fastlab.shrink.pruning.probes import Site, mean_squares, taylor_terms
from fastlab.spec.pruning import Pruning
from fastlab.spec.shape import ModelShape

BLOCK = 2**22  # weights squared at once: bounds the fp32 copies that this makes


@dataclass(frozen=True)
class Scope:
    """What is scored: a model with its modules, and those of its layers that stay."""

    model: Any
    parts: list[Part]
    shape: ModelShape
    layers: tuple[int, ...]

    @property
    def staying(self) -> list[Part]:
        """The modules of the layers that stay, then those outside."""
        return [part for part in self.parts if part.layer in (*self.layers, -1)]

    @property
    def norms(self) -> tuple[Any, ...]:
        """The norms among them."""
        return tuple(part.module for part in self.staying if part.written == "norm")

    def reader(self, axis: str, layer: int) -> Any:
        """The module of a layer that reads an axis."""
        places = ((part.module, part.layer, part.read) for part in self.parts)
        return next(m for m, *place in places if place == [layer, axis])

    def units(self, axis: str) -> int:
        """Units of an axis that can go by themselves: heads go in groups."""
        return getattr(self.shape, "kv_heads" if axis == "heads" else axis)


def scores(
    scope: Scope, pruning: Pruning, axis: str, ids: Tensor | None
) -> dict[int, Tensor]:
    """Scores (units,) of "heads" or "ffn" in each layer; those of "hidden" at -1.

    magnitude, heads and ffn: the product of the norms of the weights that make a unit
    and of those that read it. hidden: that times the mean size of the norms' weights.
    activation, heads and ffn: the root mean square of what a unit adds to the residual
    stream on the ids, if its channels were independent. hidden: that of the norms'
    outputs. taylor: as `probes.taylor_terms` says. random: by the seed.

    A unit whose output weights are zero scores 0 in all but random. Raises ValueError
    for scores that are not finite.
    """
    places = (-1,) if axis == "hidden" else scope.layers
    if pruning.importance == "random":
        source = torch.Generator().manual_seed(pruning.seed)
        size = scope.units(axis)
        return {place: torch.rand(size, generator=source) for place in places}
    if pruning.importance == "magnitude":
        found = [_magnitude(scope, axis, place) for place in places]
    else:
        assert ids is not None
        found = _measured(scope, pruning.importance, axis, places, ids)
    for place, score in zip(places, found, strict=True):
        if not bool(torch.isfinite(score).all()):
            where = "" if place < 0 else f" in layer {place}"
            raise ValueError(f"the scores of {axis}{where} are not finite")
    return dict(zip(places, found, strict=True))


def layer_magnitudes(scope: Scope) -> Tensor:
    """Norm of all weights of each layer that write the residual stream: (layers,)."""
    squares = dict.fromkeys(scope.layers, 0.0)
    for part in scope.parts:
        if part.written == "hidden" and part.layer in squares:
            squares[part.layer] += float(row_squares(part.module).sum())
    return torch.tensor(list(squares.values())).sqrt()


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
    for part in scope.staying:
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


def _measured(
    scope: Scope, importance: str, axis: str, places: tuple[int, ...], ids: Tensor
) -> list[Tensor]:
    sites = [_site(scope, axis, place) for place in places]
    if importance == "taylor":
        return taylor_terms(scope.model, sites, ids)
    squares = mean_squares(scope.model, sites, ids)
    if axis != "hidden":
        reads = [column_squares(site.modules[0]) for site in sites]
        squares = [a * b for a, b in zip(squares, reads, strict=True)]
    return [grouped(s, scope.units(axis)).sqrt() for s in squares]


def _site(scope: Scope, axis: str, layer: int) -> Site:
    if axis == "hidden":
        return Site(scope.norms, False, scope.shape.hidden)
    return Site((scope.reader(axis, layer),), True, scope.units(axis))


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
    blocks = weight.split(max(1, BLOCK // weight.shape[1]))
    if axis == 1:
        return torch.cat([block.float().square().sum(1) for block in blocks])
    total = torch.zeros(weight.shape[1], device=weight.device)
    for block in blocks:
        total += block.float().square().sum(0)
    return total

"""Weights that share values: modules of indices into tables, found by k-means."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlab.models import stack_of
from fastlab.shrink import parts
from fastlab.shrink.kernels import StoredLinear
from fastlab.spec.storage import Sharing, tables_of

SAMPLE = 2**22  # values at most that a table is fitted to, and indexed at once
ROUNDS = 100  # of Lloyd's algorithm; it mostly stops by itself before
POINTS = 1024  # quantiles that the first centres are placed by


class LutLinear(StoredLinear):
    """Each weight is an index into its group's table of values.

    packed: the indices as bit planes (see pack); tables: (groups of rows, 2^bits)
    in the dense dtype. The whole weight is looked up in every call: smaller, not
    faster.
    """

    packed: Tensor
    tables: Tensor

    def dense(self) -> Tensor:
        n, k = self.out_features, self.in_features
        codes = unpack(self.packed, n * k).view(len(self.tables), -1)
        return torch.gather(self.tables, 1, codes.long()).view(n, k)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes (m,) -> bytes (bits, m / 8, up): a plane for each bit of a code."""
    eights = functional.pad(codes, (0, -len(codes) % 8)).view(-1, 8)
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    planes = [((eights >> bit & 1) << places).sum(1) for bit in range(bits)]
    return torch.stack(planes).to(torch.uint8)


def unpack(packed: Tensor, count: int) -> Tensor:
    """The uint8 codes (count,) from which `pack` made the bytes."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    codes = torch.zeros(packed.shape[1], 8, dtype=torch.uint8, device=packed.device)
    for bit, plane in enumerate(packed):
        codes |= (plane[:, None] >> places & 1) << bit
    return codes.view(-1)[:count]


def share(model: nn.Module, sharing: Sharing) -> nn.Module:
    """Replace the linears of a model's layers by look-ups; the model is consumed.

    The tables are found by k-means on the weights as they are; embeddings, norms,
    biases and the output head stay dense. Raises ValueError, before anything changes,
    where groups do not divide the rows of a weight, or where it has no dense linears;
    and for weights that are not finite.
    """
    with parts.apart(model):
        names = parts.dense_names(model, "share")
        for name in names:
            tables_of(sharing, len(parts.dense_weight(model.get_submodule(name))))
        return parts.replace_each(
            model, names, lambda _, weight, bias: lut_linear(weight, bias, sharing)
        )


def share_layers(model: nn.Module, count: int) -> nn.Module:
    """Let L layers use the weights of `count`, each L / count times in a row.

    In a row (MobileLLM, Liu et al. 2024), not in turn (ALBERT): what a layer has just
    read may still be in a cache when it is read again. The first of each run gives its
    weights. Layers keep their own places in the KV cache. Raises ValueError, before
    anything changes, where count does not divide L or layers differ in sizes.
    """
    stack = stack_of(model)
    if count < 1 or len(stack) % count:
        raise ValueError(f"distinct_layers={count} must divide the {len(stack)} layers")
    sizes = [[(n, w.shape) for n, w in layer.named_parameters()] for layer in stack]
    if any(each != sizes[0] for each in sizes):
        raise ValueError(f"distinct_layers={count}: layers differ in their sizes")
    tie_layers(model, count)
    return model


def tie_layers(model: nn.Module, count: int) -> None:
    """Put the modules that hold weights in the first of each run into the others."""
    stack = stack_of(model)
    run = len(stack) // count
    for place, layer in enumerate(stack):
        first = stack[place - place % run]
        for name in dict.fromkeys(
            n.rpartition(".")[0] for n, _ in first.named_parameters()
        ):
            layer.set_submodule(name, first.get_submodule(name))


def distinct_layers(model: nn.Module) -> int:
    """How many layers have weights of their own; 0 where all have."""
    try:
        stack = stack_of(model)
    except ValueError:
        return 0
    own = {id(next(layer.parameters())) for layer in stack}
    return len(own) if len(own) < len(stack) else 0


@torch.no_grad()
def lut_linear(weight: Tensor, bias: Tensor | None, sharing: Sharing) -> LutLinear:
    """The look-up module of a dense weight (n, k); its groups must divide n."""
    groups = weight.reshape(tables_of(sharing, len(weight)), -1)
    tables, codes = codebooks_of(groups, sharing.bits)
    packed = pack(codes.view(-1), sharing.bits)
    return LutLinear(sharing, weight.shape, bias, packed=packed, tables=tables)


def codebooks_of(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Groups (tables, m) -> tables (tables, 2^bits), ascending, in the groups' dtype;
    and uint8 codes (tables, m): for each value the nearest of its table.
    """
    step = max(1, -(-groups.shape[1] // SAMPLE))
    values = groups[:, ::step].float().sort(1).values
    tables = fitted(values, 2**bits).to(groups.dtype)
    borders = _middles(tables.float())
    codes = [
        torch.searchsorted(borders, part.float().contiguous(), out_int32=True)
        for part in groups.split(max(1, SAMPLE // len(groups)), 1)
    ]
    return tables, torch.cat([part.to(torch.uint8) for part in codes], 1)


def fitted(values: Tensor, count: int) -> Tensor:
    """Centres (tables, count) of ascending values (tables, m): the better of two.

    Lloyd's algorithm stops where no small step helps. It starts from the middles of
    equal shares of the values, which finds clusters, and from their density, which
    serves the tails.
    """
    sums = functional.pad(values.double().cumsum(1), (1, 0))
    steps = (torch.arange(count, device=values.device) + 0.5) / count
    best, explained = _lloyd(values, sums, values[:, (steps * values.shape[1]).long()])
    other, more = _lloyd(values, sums, _by_density(values, steps))
    return torch.where((more > explained)[:, None], other, best)


def _by_density(values: Tensor, steps: Tensor) -> Tensor:
    """Centres as dense as the cube root of the density of ascending values (tables, m).

    The best density for the mean square error of many levels (Panter and Dite, 1951).
    Between two neighbouring quantiles, a distance d apart, the density is as 1 / d and
    its cube root sums up to d^(2/3). steps: the shares of all at the middles of cells.
    """
    places = torch.linspace(0, values.shape[1] - 1, POINTS, device=values.device)
    quantiles = values[:, places.round().long()]
    mass = quantiles.diff(dim=1).pow(2 / 3).cumsum(1)
    at = torch.searchsorted(mass, mass[:, -1:] * steps)
    return quantiles.gather(1, at.clamp(max=POINTS - 2) + 1)


def _lloyd(values: Tensor, sums: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on ascending values (tables, m), from ascending centres.

    Each cell is a stretch of the sorted values, its mean a difference of two running
    sums (tables, m + 1): a round costs a binary search per centre, however many values
    there are. Also returns the sum of squares of the cells' means (tables,): the more,
    the less error is left, for sum (x - mean)^2 = sum x^2 - sum over cells of (sum of
    the cell)^2 / its count.
    """
    edges = _edges(values, centres)
    for _ in range(ROUNDS):
        counts = edges.diff(dim=1)
        means = sums.gather(1, edges).diff(dim=1) / counts.clamp(min=1)
        centres = torch.where(counts > 0, means.float(), centres).sort(1).values
        before, edges = edges, _edges(values, centres)
        if torch.equal(before, edges):
            break
    squares = sums.gather(1, edges).diff(dim=1).square()
    return centres, (squares / edges.diff(dim=1).clamp(min=1)).sum(1)


def _edges(values: Tensor, centres: Tensor) -> Tensor:
    """Where each centre's cell begins, and the end: (tables, centres + 1)."""
    cuts = torch.searchsorted(values, _middles(centres))
    return functional.pad(functional.pad(cuts, (1, 0)), (0, 1), value=values.shape[1])


def _middles(centres: Tensor) -> Tensor:
    """The borders between neighbouring centres: (tables, centres - 1)."""
    return centres[:, 1:] / 2 + centres[:, :-1] / 2

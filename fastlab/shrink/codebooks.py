"""k-means in one dimension: values -> small tables and indices into them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SAMPLE = 2**22  # values at most that a table is fitted to, and indexed at once
ROUNDS = 100  # of Lloyd's algorithm; it mostly stops by itself before
POINTS = 1024  # quantiles that the first centres are placed by


def codebooks_of(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Groups (tables, m) -> tables (tables, 2^bits), ascending, in the groups' dtype;
    and uint8 codes (tables, m): for each value the nearest of its table.
    """
    step = max(1, -(-groups.shape[1] // SAMPLE))
    values = groups[:, ::step].float().sort(1).values
    tables = fitted(values, 2**bits).to(groups.dtype)
    return tables, nearest(groups, tables)


def fitted(values: Tensor, count: int) -> Tensor:
    """Centres (tables, count) of ascending values (tables, m): the better of two.

    Lloyd's algorithm stops where no small step helps. It starts from equal shares of
    the values, which finds clusters, and from their density, which serves the tails.
    """
    sums = functional.pad(values.double().cumsum(1), (1, 0))
    best = lloyd(values, sums, equal_shares(values, count))
    other = lloyd(values, sums, by_density(values, count))
    better = explained(values, sums, other) > explained(values, sums, best)
    return torch.where(better[:, None], other, best)


def equal_shares(values: Tensor, count: int) -> Tensor:
    """The middles of `count` equal shares of ascending values: (tables, count)."""
    steps = (torch.arange(count, device=values.device) + 0.5) / count
    return values[:, (steps * values.shape[1]).long()]


def by_density(values: Tensor, count: int) -> Tensor:
    """Centres (tables, count) as dense as the cube root of the values' density.

    The best density for the mean square error of many levels (Panter and Dite, 1951).
    values: (tables, m), ascending. Between two neighbouring quantiles, a distance d
    apart, the density is as 1 / d and its cube root sums up to d^(2/3).
    """
    places = torch.linspace(0, values.shape[1] - 1, POINTS, device=values.device)
    quantiles = values[:, places.round().long()]
    mass = quantiles.diff(dim=1).pow(2 / 3).cumsum(1)
    steps = (torch.arange(count, device=values.device) + 0.5) / count
    at = torch.searchsorted(mass, mass[:, -1:] * steps)
    return quantiles.gather(1, at.clamp(max=POINTS - 2) + 1)


def lloyd(values: Tensor, sums: Tensor, centres: Tensor) -> Tensor:
    """Lloyd's algorithm on ascending values (tables, m), from ascending centres.

    Each cell is a stretch of the sorted values, its mean a difference of two running
    sums (tables, m + 1): a round costs a binary search per centre, however many values
    there are.
    """
    edges = None
    for _ in range(ROUNDS):
        new = _edges(values, centres)
        if edges is not None and torch.equal(new, edges):
            break
        edges = new
        counts = edges.diff(dim=1)
        means = sums.gather(1, edges).diff(dim=1) / counts.clamp(min=1)
        centres = torch.where(counts > 0, means.float(), centres).sort(1).values
    return centres


def explained(values: Tensor, sums: Tensor, centres: Tensor) -> Tensor:
    """Sum of squares of the cells' means (tables,): the more, the less error is left.

    sum (x - mean)^2 = sum x^2 - sum over cells of (sum of the cell)^2 / its count.
    """
    edges = _edges(values, centres)
    counts = edges.diff(dim=1).clamp(min=1)
    return (sums.gather(1, edges).diff(dim=1).square() / counts).sum(1)


def _edges(values: Tensor, centres: Tensor) -> Tensor:
    """Where each centre's cell begins, and the end: (tables, centres + 1)."""
    cuts = torch.searchsorted(values, middles(centres))
    return functional.pad(functional.pad(cuts, (1, 0)), (0, 1), value=values.shape[1])


def middles(centres: Tensor) -> Tensor:
    """The borders between neighbouring centres: (tables, centres - 1)."""
    return (centres[:, 1:] + centres[:, :-1]) / 2


def nearest(groups: Tensor, tables: Tensor) -> Tensor:
    """uint8 codes (tables, m) of the values' nearest centres, block by block."""
    borders = middles(tables.float())
    width = max(1, SAMPLE // len(groups))
    codes = [
        torch.searchsorted(borders, part.float().contiguous(), out_int32=True)
        for part in groups.split(width, 1)
    ]
    return torch.cat([part.to(torch.uint8) for part in codes], 1)


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

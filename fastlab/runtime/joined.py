"""Linears that read one input as one product: q, k and v of a layer; gate and up.

Which they are a forward pass shows, so that every family has its own. Their weights
move into one tensor of which they keep views: nothing is held twice, and but for a
decoder that runs the model is what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import nested_compile_region

from fastlab.models import trim
from fastlab.runtime.cache import dtype_of
from fastlab.runtime.compiled import HALF, OneRow
from fastlab.shrink.kernels import Quantized, concatenate, fixed
from fastlab.tracing.weights import layers_of


class Joined:
    """The product of several linears, of which each takes its part in turn."""

    def __init__(self, linears: Sequence[Any], whole: Any) -> None:
        self.linears, self.product = linears, whole.forward
        self.sizes = [one.out_features for one in linears]
        self.parts: tuple[Tensor, ...] = ()
        self.x: Tensor | None = None

    def part(self, at: int, x: Tensor) -> Tensor:
        """What the linear of that number makes of x (..., k): (..., its n)."""
        if self.x is not x:
            self.x, self.parts = x, self.product(x).split(self.sizes, dim=-1)
        y = self.parts[at]
        if at == len(self.sizes) - 1:
            self.x, self.parts = None, ()
        return y


class Part(nn.Module):
    """What a joined linear is while a decoder runs."""

    joined: tuple[Joined, int]

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., n) of its own rows."""
        joined, at = self.joined
        return joined.part(at, x)


class Joins:
    """What modules are within a `with`: parts of products, layers compiled once.

    groups: linears that read the same input; those whose weights do not lie side by
    side as they are stored stay apart. layers: those of which equal ones share code.
    """

    def __init__(self, groups: Sequence[Sequence[Any]], layers: Sequence[Any]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            wholes = [(group, _whole(group)) for group in groups]
        self.all = [Joined(group, whole) for group, whole in wholes if whole]
        self.swaps: list[tuple[Any, type, type, Any]] = [
            (one, type(one), Part, (joined, at))
            for joined in self.all
            for at, one in enumerate(joined.linears)
        ]
        regions = {own: _region(own) for own in {*map(type, layers)}}
        self.swaps += [(one, type(one), regions[type(one)], None) for one in layers]

    def unshare(self) -> bool:
        """From now on every layer is compiled by itself; False where it was before."""
        parts = [swap for swap in self.swaps if swap[2] is Part]
        shared, self.swaps = len(parts) < len(self.swaps), parts
        return shared

    def __enter__(self) -> None:
        for one, _, kind, part in self.swaps:
            object.__setattr__(one, "__class__", kind)  # a module's own takes long
            vars(one)["joined"] = part

    def __exit__(self, *error: Any) -> None:
        for one, own, _, _ in self.swaps:
            object.__setattr__(one, "__class__", own)
            vars(one).pop("joined", None)


def joins_of(model: nn.Module, groups: Sequence[Sequence[Any]], device: str) -> Joins:
    """What pays: all of it, but for dense 16-bit weights on a CPU nothing.

    Their products are loops (`OneRow`) that the compiler runs side by side as they are,
    also from layer to layer: made one, or with layers apart, they took longer.
    """
    packed = any(isinstance(module, Quantized) for module in model.modules())
    if device == "cpu" and dtype_of(model) in HALF and not packed:
        return Joins((), ())
    layers = layers_of(model) if device == "cpu" else ()
    return Joins(groups, [*map(model.get_submodule, layers)])


def _region(kind: type) -> type:
    """A class of layers whose forward pass is compiled once for all that are equal."""
    body: Any = kind.forward  # type: ignore[attr-defined]

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        with OneRow():  # what is on outside of a region is not on in it
            return body(self, *args, **options)

    shared = nested_compile_region(forward, max_reuse_entries=10**6)
    return type(kind.__name__, (kind,), {"forward": shared})


@contextmanager
def same_inputs(model: nn.Module) -> Iterator[list[list[Any]]]:
    """Gathers, of the forward pass within it, linears that read one tensor in a row.

    Those of one parent, one form and dtype, all with a bias or all without, which run
    once in the pass.
    """
    groups: list[list[Any]] = []
    found: list[list[Any]] = []
    last: list[Any] = [None, None]

    def seen(parent: nn.Module, module: nn.Module, args: tuple[Any, ...]) -> None:
        same = last[0] is args[0] and last[1] is parent
        if same and _kind(groups[-1][0]) == _kind(module):
            groups[-1].append(module)
        else:
            groups.append([module])
        last[:] = args[0], parent

    hooks = [
        module.register_forward_pre_hook(partial(seen, parent))
        for parent in model.modules()
        for module in parent.children()
        if type(module) is nn.Linear or isinstance(module, Quantized)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    runs = Counter(id(one) for group in groups for one in group)
    found += [g for g in groups if len(g) > 1 and all(runs[id(one)] == 1 for one in g)]


def _kind(linear: Any) -> tuple[Any, ...]:
    """What two linears must have in common."""
    weights = linear.form if isinstance(linear, Quantized) else linear.weight.dtype
    return type(linear), linear.bias is None, weights


def _whole(linears: Sequence[Any]) -> Any:
    """The linear of all their rows, of which they then hold views; None without."""
    if isinstance(linears[0], Quantized):
        whole: Any = concatenate(linears)
    else:
        whole = nn.Linear(1, 1, bias=False, device="meta")
        for name in linears[0]._parameters:
            rows = [getattr(one, name) for one in linears]
            setattr(whole, name, None if rows[0] is None else fixed(torch.cat(rows)))
    views = []
    for name, rows in whole.named_parameters():
        parts = [getattr(one, name) for one in linears]
        axis = next((i for i in range(rows.dim()) if _adds_up(rows, parts, i)), None)
        if axis is None:
            return None
        sizes = [part.shape[axis] for part in parts]
        views += [*zip(parts, rows.split(sizes, axis), strict=True)]
    if not all(
        rows.is_contiguous() and torch.equal(part, rows) for part, rows in views
    ):
        return None  # kernels read what they are given from its first byte on
    for part, rows in views:
        part.data = rows
    trim()  # the parts' old memory, which is too short for the next whole
    return whole


def _adds_up(rows: Tensor, parts: Sequence[Tensor], axis: int) -> bool:
    return rows.shape[axis] == sum(part.shape[axis] for part in parts)

"""What a model does on given token ids: activations, gradients, each layer's part.

All hooks are gone, and the model is as it was, when a function returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlab.calls import accepted
from fastlab.models import stack_of

BATCH = 8  # rows of token ids in one forward pass


class Site(NamedTuple):
    """Where units of one kind can be seen: the inputs, or outputs, of some modules."""

    modules: tuple[nn.Module, ...]
    inputs: bool
    units: int


def check_ids(model: Any, ids: Tensor) -> Tensor:
    """The ids as (rows, length) int64 on the model's device.

    Raises ValueError unless they are whole numbers below the vocabulary, two or more
    and not more in a row than the model has positions. One row may come as (length,).
    """
    rows = ids[None] if ids.ndim == 1 else ids
    if ids.is_floating_point() or rows.ndim != 2:
        raise ValueError(
            f"ids {tuple(ids.shape)} of {ids.dtype} must be token ids (rows, length)"
        )
    most = getattr(model.config, "max_position_embeddings", None) or 2**31
    if not len(rows) or not 2 <= rows.shape[1] <= most:
        raise ValueError(
            f"ids {tuple(ids.shape)} must have rows of 2 to {most} token ids"
        )
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= model.config.vocab_size:
        raise ValueError(
            f"ids from {low} to {high} must be from 0 to {model.config.vocab_size - 1}"
        )
    return rows.long().to(next(model.parameters()).device)


@contextmanager
def _hooked(hooks: Sequence[Any], model: nn.Module) -> Iterator[None]:
    training = model.training
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        stack.callback(model.train, training)
        model.eval()
        yield


def _watch(
    sites: Sequence[Site], see: Callable[[int, Tensor], Tensor | None]
) -> list[Any]:
    """Hooks that show `see` each value of each site, with the number of the site.

    What it returns takes the value's place; None leaves it.
    """

    def before(place: int, _module: Any, args: Any) -> Any:
        new = see(place, args[0])
        return None if new is None else (new, *args[1:])

    def after(place: int, _module: Any, _args: Any, out: Any) -> Any:
        return see(place, out)

    return [
        m.register_forward_pre_hook(partial(before, place))
        if site.inputs
        else m.register_forward_hook(partial(after, place))
        for place, site in enumerate(sites)
        for m in site.modules
    ]


def _forward(model: Any, rows: Tensor) -> Any:
    return model(rows, **accepted(model, {"use_cache": False}))


@torch.no_grad()
def mean_squares(model: Any, sites: Sequence[Site], ids: Tensor) -> list[Tensor]:
    """Mean square (width,) over tokens of each channel of each site, in fp32.

    Where a site has several modules their mean squares are added.
    """
    sums: list[Any] = [0] * len(sites)

    def add(place: int, x: Tensor) -> None:
        sums[place] = sums[place] + x.float().square().flatten(0, -2).sum(0)

    with _hooked(_watch(sites, add), model):
        for rows in ids.split(BATCH):
            _forward(model, rows)
    return [total / ids.numel() for total in sums]


def taylor_terms(model: Any, sites: Sequence[Site], ids: Tensor) -> list[Tensor]:
    """Mean over rows of |the loss's first-order change without a unit| (units,).

    Each unit is multiplied by a gate of 1 in each row of ids; the loss's gradient by
    that gate, sum of x dL/dx over tokens and channels, is its first-order Taylor term.
    The loss is the mean next-token cross-entropy of the row. Weights need no gradient.
    """
    gates: dict[int, Tensor] = {}
    sums: list[Any] = [0] * len(sites)

    def gated(place: int, x: Tensor) -> Tensor:
        if place not in gates:
            gates[place] = x.new_ones(len(x), 1, x.shape[-1], requires_grad=True)
        return x * gates[place]

    with _hooked(_watch(sites, gated), model), torch.enable_grad():
        for rows in ids.split(BATCH):
            gates.clear()
            loss = _loss(model, rows)
            grads = torch.autograd.grad(loss, [gates[i] for i in range(len(sites))])
            for i, (site, grad) in enumerate(zip(sites, grads, strict=True)):
                terms = grad.float().reshape(len(rows), site.units, -1).sum(-1)
                sums[i] = sums[i] + terms.abs().sum(0)
    return [total / len(ids) for total in sums]


def _loss(model: Any, rows: Tensor) -> Tensor:
    """Sum over rows of the mean next-token loss in nats: rows do not see each other."""
    logits = _forward(model, rows).logits[:, :-1].float()
    nats = functional.cross_entropy(
        logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"
    )
    return nats / (rows.shape[1] - 1)


@torch.no_grad()
def block_influence(model: Any, ids: Tensor) -> Tensor:
    """1 - mean cosine between what enters and what leaves each layer: (layers,).

    After Men et al., "ShortGPT" (2024), arXiv 2403.03853, equation 1.
    """
    layers = stack_of(model)
    cosines = torch.zeros(len(layers))

    def see(place: int, _module: Any, args: Any, out: Any) -> None:
        left = out[0] if isinstance(out, tuple) else out
        cosine = functional.cosine_similarity(args[0].float(), left.float(), dim=-1)
        cosines[place] += cosine.sum().cpu()

    hooks = [m.register_forward_hook(partial(see, i)) for i, m in enumerate(layers)]
    with _hooked(hooks, model):
        for rows in ids.split(BATCH):
            _forward(model, rows)
    return 1 - cosines / ids.numel()


@torch.no_grad()
def losses_without(model: Any, ids: Tensor) -> Tensor:
    """The model's mean loss in nats without each layer, one at a time: (layers,)."""

    def pass_by(_module: Any, args: Any, out: Any) -> Any:
        return (args[0], *out[1:]) if isinstance(out, tuple) else args[0]

    losses = []
    for layer in stack_of(model):
        with _hooked([layer.register_forward_hook(pass_by)], model):
            nats = [float(_loss(model, rows)) for rows in ids.split(BATCH)]
        losses.append(sum(nats) / len(ids))
    return torch.tensor(losses)

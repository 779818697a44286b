"""Experts that one tensor holds, as a linear for each: what shrinks linears does both.

transformers keeps a layer's experts in a few parameters (experts, n, k), or transposed;
apart, each expert has modules of its own, of which only those that tokens chose run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.shrink.kernels import fixed
from fastlab.tracing.weights import experts_bound, stacks_of


@contextmanager
def apart(model: nn.Module, stays: bool = True) -> Iterator[None]:
    """Within it experts are apart; where it `stays` and nothing fails, later too.

    Raises ValueError, before anything changes, for experts with code of their own.
    """
    if why := experts_bound(model):
        raise ValueError(f"the model must stay dense: {why}")
    take_apart(model)
    try:
        yield
    except ValueError:
        stays = False
        raise
    finally:
        if not stays:
            put_together(model)


def take_apart(model: nn.Module) -> None:
    """Give each expert linears that share the memory of the stacks."""
    for module in filter(stacks_of, model.modules()):
        for name in stacks_of(module):
            stack = getattr(module, name)
            if isinstance(stack, Tensor):
                delattr(module, name)
                linears = map(_linear, _turned(module, stack))
                setattr(module, name, nn.ModuleList(linears))
        module.forward = MethodType(_by_expert, module)


def put_together(model: nn.Module) -> None:
    """Undo `take_apart` where all experts of a layer are dense."""
    for module in filter(stacks_of, model.modules()):
        lists = [getattr(module, name) for name in stacks_of(module)]
        if all(type(one) is nn.Linear for each in lists for one in each):
            for name, linears in zip(stacks_of(module), lists, strict=True):
                stack = torch.stack([one.weight for one in linears])
                delattr(module, name)
                setattr(module, name, fixed(_turned(module, stack).contiguous()))
            del module.forward


def _turned(module: Any, stack: Tensor) -> Tensor:
    return stack.transpose(1, 2) if module.is_transposed else stack


def _linear(weight: Tensor) -> nn.Linear:
    n, k = weight.shape
    linear = nn.Linear(k, n, bias=False, device="meta")
    linear.weight = fixed(weight)
    return linear


def _by_expert(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The weighted sum (tokens, hidden) of what the chosen experts make of each token.

    top_k_index, top_k_weights: (tokens, k); an index beyond the experts is none.
    """
    out = torch.zeros_like(hidden_states, dtype=torch.float32)
    first, last = stacks_of(self)
    for expert in top_k_index.unique().tolist():
        if expert >= len(self.down_proj):
            continue
        rows, places = torch.where(top_k_index == expert)
        y = _multiply(self, first, expert, hidden_states[rows])
        y = self._apply_gate(y) if self.has_gate else self.act_fn(y)
        y = _multiply(self, last, expert, y)
        if self.has_post_expert_norm:
            y = self.post_expert_norm(y)
        out.index_add_(0, rows, (y * top_k_weights[rows, places, None]).float())
    return out.to(hidden_states.dtype)


def _multiply(experts: Any, name: str, expert: int, x: Tensor) -> Tensor:
    y: Tensor = getattr(experts, name)[expert](x)
    return y + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else y

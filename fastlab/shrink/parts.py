"""Which modules of a transformers model hold the weights that a scope names.

transformers keeps a layer's experts in a few parameters (experts, n, k), or transposed.
What shrinks linears takes them apart: then each expert has linears of its own, of which
only those that tokens chose run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.models import filled, trim
from fastlab.shrink.kernels import ROUNDED, StoredLinear, bytes_of, fixed
from fastlab.shrink.kernels.int8 import Int8Embedding
from fastlab.tracing.weights import experts_bound, is_linear, layers_of, stacks_of


def linear_names(model: nn.Module, scope: str) -> list[str]:
    """Dotted names of the dense linears of a scope, in the model's own order.

    "layers": those of the transformer's layers (everything in an nn.ModuleList); "head"
    and "all": also what follows them, the output head and bert's transform before it.
    """
    lists = layers_of(model)
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if is_linear(module) and (scope != "layers" or name.startswith(lists))
    ]


def dense_names(model: nn.Module, verb: str) -> list[str]:
    """The dense linears of a model's layers; ValueError where there are none."""
    names = linear_names(model, "layers")
    if not names:
        raise ValueError(f"cannot {verb}: the layers have no dense linears (any more)")
    return names


def dense_weight(module: nn.Module) -> Tensor:
    """(n, k) of a Linear, or of GPT-2's Conv1D, which keeps it transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


def stored_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every quantized, sparse or shared linear, and table."""
    kinds = (StoredLinear, Int8Embedding)
    return ((n, m) for n, m in model.named_modules() if isinstance(m, kinds))


def scope_of(model: nn.Module) -> str:
    """The scope that the stored modules of a model are those of."""
    stored, lists = dict(stored_modules(model)), layers_of(model)
    if any(isinstance(module, Int8Embedding) for module in stored.values()):
        return "all"
    return "layers" if all(name.startswith(lists) for name in stored) else "head"


def name_of(model: nn.Module, wanted: nn.Module) -> str:
    """Dotted name of a module of the model."""
    return next(name for name, module in model.named_modules() if module is wanted)


def tied_head(model: Any) -> str:
    """Dotted name of a head that reads the token embedding's own tensor, else ""."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is table.weight
    return name_of(model, head) if tied else ""


def replace_each(
    model: nn.Module, names: list[str], make: Callable[[str, Tensor, Any], nn.Module]
) -> nn.Module:
    """Put make(name, weight (n, k), bias) in the place of each linear, one at a time.

    The largest first, while least is held beside its old form and its new one. Raises
    ValueError for weights that are not finite.
    """
    sizes = {name: dense_weight(model.get_submodule(name)).numel() for name in names}
    for name in sorted(names, key=lambda name: -sizes[name]):
        dense = model.get_submodule(name)
        filled(dense.weight)
        weight = dense_weight(dense)
        if not all(bool(edge.isfinite()) for edge in weight.aminmax()):
            raise ValueError(f"the weight of {name} has values that are not finite")
        model.set_submodule(name, make(name, weight, getattr(dense, "bias", None)))
        del dense, weight
        if sizes[name] >= ROUNDED:
            trim()
    return model


def stored_weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as stored, scales included, shared ones once."""
    return sum(map(bytes_of, model.parameters()))


def logical_parameters(model: Any) -> int:
    """Parameters of the dense model that a quantized, sparse or shared one stands for.

    Scales, zero points, tables and filled-up rows are none, zeros count; a tied head
    counts once, also where it now has its own quantized copy.
    """
    stored: dict[str, Any] = dict(stored_modules(model))
    weights = (m.named_parameters() for m in stored.values())
    own = {id(w) for named in weights for name, w in named if name != "bias"}
    head = model.get_output_embeddings()
    if head is not None and getattr(model.config, "tie_word_embeddings", False):
        stored.pop(name_of(model, head), None)
    sizes = (m.out_features * m.in_features for m in stored.values())
    return sum(sizes) + sum(w.numel() for w in model.parameters() if id(w) not in own)


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
                filled(stack)  # with its random numbers, if they were to come later
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

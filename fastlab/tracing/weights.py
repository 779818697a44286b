"""The matrices of a model, and what its own code does with them. Torch."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fastlab.spec.published import Published, read

Reads = set[tuple[str, str]]  # (module, parameter that a kernel in it reads)


def stacks_of(module: Any) -> list[str]:
    """Names of what holds one matrix for each expert, in the order of their use.

    Those of modules that transformers' interface of experts multiplies, which know the
    order of their axes; [] of all others.
    """
    if not hasattr(module, "is_transposed") or not hasattr(module, "has_gate"):
        return []
    return ["gate_up_proj" if module.has_gate else "up_proj", "down_proj"]


def expert_sizes(module: Any, stack: Any) -> tuple[int, int]:
    """(n, k) of each matrix of a stack (experts, ., .)."""
    _, n, k = stack.shape
    return (k, n) if getattr(module, "is_transposed", False) else (n, k)


def outer_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The model's outermost lists of modules by name: its layers are in them."""
    named = model.named_modules()
    lists = {name: m for name, m in named if isinstance(m, nn.ModuleList)}
    inner = tuple(f"{name}." for name in lists)
    return {name: m for name, m in lists.items() if not name.startswith(inner)}


@lru_cache(maxsize=1)
def layers_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the members of those lists: the model's layers."""
    return tuple(
        f"{n}.{i}" for n, m in outer_lists(model).items() for i in range(len(m))
    )


def fit_experts(model: Any) -> None:
    """Let experts whose rows are no multiple of 16 bytes run in turn.

    torch's grouped product refuses them.
    """
    stacks = [getattr(m, name) for m in model.modules() for name in stacks_of(m)]
    if any(n * w.element_size() % 16 for w in stacks for n in w.shape[1:]):
        model.set_experts_implementation("eager")


def is_linear(module: Any) -> bool:
    """Whether a module is a linear, and no more: not one with a forward of its own."""
    own = type(module).__name__ == "FalconLinear"  # which writes a linear out
    return own or type(module) in (nn.Linear, Conv1D)


def experts_bound(model: nn.Module) -> str:
    """Why experts must stay as they are, "" where they need not."""
    for module in model.modules():
        kind = type(module).__name__
        if "xperts" not in kind or stacks_of(module):
            continue
        linears = any(isinstance(m, nn.Linear) for m in module.modules())
        if not linears and any(weight.dim() > 1 for weight in module.parameters()):
            return f"{kind} multiplies experts by code of its own"
    return ""


def token_table(model: Any) -> Any:
    """The module that looks tokens up; None in a model that hashes characters."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def table_bound(model: Any) -> str:
    """Why the token table must stay as it is, "" where it need not."""
    table = token_table(model)
    if table is None:
        return f"{type(model).__name__} has no table of tokens"
    if type(table) is not nn.Embedding:
        return f"{type(table).__name__} is more than a table"
    tables = (n for n, m in model.named_modules() if isinstance(m, nn.Embedding))
    same = [n for n in tables if model.get_submodule(n).weight is table.weight]
    return f"{' and '.join(same)} are one table" if len(same) > 1 else ""


def described(model: Any, reads: Reads, stored: Any = None) -> dict[str, Any]:
    """Parameters; [count, outputs, inputs, scope] of matrices by size; the token table
    [rows, width, tied]; and, for each scope, why its matrices must stay dense.

    stored: a `quantization_config`: how many weights others packed, and their bytes.
    """
    lists, made = layers_of(model), read(stored) if stored else None
    sizes: Counter[Any] = Counter()
    packed: Counter[str] = Counter()
    for name, module in model.named_modules(remove_duplicate=False):
        scope = "layers" if name.startswith(lists) else "head"
        for count, n, k in _matrices(module):
            sizes[n, k, scope] += count
            if made and made.layout(name):
                packed["numbers"] += count * n * k
                packed["bytes"] += count * made.linear_bytes(n, k, name)
    table, head = token_table(model), model.get_output_embeddings()
    tied = head is not None and head.weight is table.weight
    rows = (0, 1) if table is None else table.weight.shape
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "linears": [[count, *one] for one, count in sizes.items()],
        "table": [*rows, bool(tied)],
        "experts": any(map(stacks_of, model.modules())),
        "bound": _bound(model, reads, lists),
    } | (_packed(made, packed) if made else {})


def _packed(made: Published, packed: Counter[str]) -> dict[str, Any]:
    told = {"label": made.label, "packages": list(made.packages)}
    return {"published": told | {"numbers": 0, "bytes": 0} | dict(packed)}


def _matrices(module: Any) -> list[tuple[int, int, int]]:
    """(count, outputs, inputs) of the matrices that a module itself holds."""
    if is_linear(module):
        n, k = module.weight.shape
        return [(1, k, n) if isinstance(module, Conv1D) else (1, n, k)]
    stacks = [getattr(module, name) for name in stacks_of(module)]
    return [(len(stack), *expert_sizes(module, stack)) for stack in stacks]


def _bound(model: Any, reads: Reads, lists: tuple[str, ...]) -> dict[str, str]:
    """Why the matrices of each scope must stay dense, "" where they need not."""
    table, head = token_table(model), model.get_output_embeddings()
    modules = dict(model.named_modules())
    found = {"layers": experts_bound(model), "head": "", "all": table_bound(model)}
    for where, name in sorted(reads):
        owner, _, leaf = name.rpartition(".")
        module, reader = modules[owner], modules[where]
        matrix = leaf == "weight" and (module is table or is_linear(module))
        if not matrix or reader in (module, head):
            continue
        scope = "layers" if owner.startswith(lists) else "head"
        why = f"{type(reader).__name__} reads {name} by code of its own"
        scope = "all" if module is table else scope
        found[scope] = found[scope] or why
    beside = found["layers"] or found["head"]
    return found | {"head": beside, "all": beside or found["all"]}

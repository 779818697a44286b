"""Dimensions of a model's tensors that shrink, and the layers they lie in, by name."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.models import stack_name

STATE = ("training", "gradient_checkpointing")  # of a module, not of its kind


class Slot(NamedTuple):
    """A dimension of a tensor that shrinks with an axis.

    axis: "heads", "hidden", or the config's field for FFN channels or experts. widths:
    of what a unit has there: (1,) or, where q, k and v of all groups follow each other,
    (128, 64, 64). role: "made" or "read" for a weight that makes or reads the units,
    "norm" for one that scales them, "" for others. layer: -1 outside of the layers.
    """

    name: str
    dim: int
    axis: str
    widths: tuple[int, ...]
    role: str
    layer: int

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by their dotted names, a shared one by each."""
    each: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return each | dict(model.named_buffers(remove_duplicate=False))


def skeleton(kind: type, config: Any) -> Any:
    """A model of a config, as it would be read from a file, without its weights."""
    again = type(config).from_dict(config.to_dict())
    with torch.device("meta"):
        return kind(again)


def is_transposed(module: Any) -> bool:
    """Whether a matrix is kept as (read, written), not (written, read)."""
    kinds = (Conv1D, nn.Embedding)
    return isinstance(module, kinds) or bool(getattr(module, "is_transposed", False))


def layer_of(name: str, stack: str) -> int:
    """The number of the layer that a name lies in, -1 outside."""
    found = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
    return int(found[1]) if found else -1


def in_layer(name: str, stack: str, layer: int) -> str:
    """The same name in another layer; one outside of the layers stays."""
    return re.sub(rf"^{re.escape(stack)}\.\d+\.", f"{stack}.{layer}.", name)


def kinds_of(model: Any) -> list[int]:
    """For each layer the number of the first that has its tensors and settings."""
    first: dict[Any, int] = {}
    layers = model.get_submodule(stack_name(model))
    return [first.setdefault(_kind(layer), n) for n, layer in enumerate(layers)]


def _kind(layer: nn.Module) -> Any:
    shapes = tuple((name, *t.shape) for name, t in tensors_of(layer).items())
    return shapes, tuple(settings_of(layer).items())


def settings_of(layer: nn.Module) -> dict[str, Any]:
    """What the modules of a layer know of its kind; of sizes only that there is one."""
    kept = (bool, str, float, type(None))
    return {
        f"{name}.{key}".lstrip("."): value if isinstance(value, kept) else int
        for name, module in layer.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (*kept, int)) and key[0] != "_" and key not in STATE
    }


def check_tensors(
    model: Any, other: nn.Module, stack: str, layers: dict[int, int]
) -> None:
    """Refuse tensors of a model that the same layers of another do not have.

    layers: number of a layer -> that in the other; the rest are not looked at.
    """
    known = other.state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        module = name.rpartition(".")[0]
        if not tensor.is_floating_point() and isinstance(tensor, nn.Parameter):
            raise ValueError(f"{module} is quantized: prune the dense model before")
        layer = layer_of(name, stack)
        if layer in layers and in_layer(name, stack, layers[layer]) not in known:
            kind = type(model.get_submodule(module)).__name__
            raise ValueError(f"{module} ({kind}) is not of a {model.config.model_type}")

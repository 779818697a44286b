"""The layers of a model and the dimensions of its tensors, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastlab.models import stack_name, stack_of
from fastlab.spec import pruned

Place = tuple[int, str, int]  # a layer, a tensor in it, one of its dimensions
STATE = ("training", "gradient_checkpointing")  # of a module, not of its kind


class Slot(NamedTuple):
    """A dimension of a tensor that shrinks with an axis.

    layer: -1 outside of the layers; name: the tensor's, in its layer. axis: "heads",
    "hidden", or the config's field for FFN channels or experts. widths: of what a unit
    has there: (1,) or, where q, k and v of all groups follow each other, (128, 64, 64).
    role: "made" or "read" for a weight that makes or reads the units, "norm" for one
    that scales them, "" for others.
    """

    layer: int
    name: str
    dim: int
    axis: str = ""
    widths: tuple[int, ...] = ()
    role: str = ""

    def owner(self, model: Any) -> Any:
        """The module that the tensor belongs to."""
        return part_of(model, self.layer).get_submodule(self.name.rpartition(".")[0])

    def tensor(self, model: Any) -> Any:
        """The tensor in a model."""
        return getattr(self.owner(model), self.name.rpartition(".")[2])


def part_of(model: Any, layer: int) -> Any:
    """A layer of a model, or the model for -1."""
    return stack_of(model)[layer] if layer >= 0 else model


def places_of(model: Any) -> dict[Place, int]:
    """The size of each dimension of a model's tensors."""
    stack = stack_name(model) + "."
    parts: dict[int, Any] = dict(enumerate(map(tensors_of, stack_of(model))))
    own = tensors_of(model).items()
    parts[-1] = {name: t for name, t in own if not name.startswith(stack)}
    return {
        (layer, name, dim): size
        for layer, tensors in parts.items()
        for name, tensor in tensors.items()
        for dim, size in enumerate(tensor.shape)
    }


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


def kind_of(layer: nn.Module) -> Any:
    """What layers of one kind have in common: tensors and settings, but no numbers."""
    plain = (bool, str, float, type(None))
    shapes = tuple((name, *t.shape) for name, t in tensors_of(layer).items())
    return shapes, tuple(
        (name, key, value)
        for name, module in layer.named_modules()
        for key, value in sorted(vars(module).items())
        if isinstance(value, plain) and key[0] != "_" and key not in STATE
    )


@contextmanager
def refusing(config: Any, why: str) -> Iterator[None]:
    """Where transformers or torch fail at a family, say so in one line."""
    try:
        yield
    except Exception as error:  # classes have errors of their own
        if str(error).startswith("model_type="):
            raise
        raise pruned.refused(config, why, error) from error

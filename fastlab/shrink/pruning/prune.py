"""Dense model -> a really smaller one, which its config describes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastlab.shrink.pruning.selection import choose
from fastlab.shrink.pruning.slicing import cut
from fastlab.spec.pruning import Pruning


def prune(model: Any, pruning: Pruning, ids: Tensor | None = None) -> Any:
    """Cut layers, heads, FFN channels and hidden width out of a model.

    The model is consumed: its weights change one at a time where they are, so that
    memory holds the dense model and one more weight at the most. Everything is chosen
    on the dense model first. ids: token ids (rows, length) of a text, for importances
    that are measured. The result is a model of `pruned_shape`, which save_pretrained
    writes and from_pretrained reads.

    Raises ValueError, before anything changes, for shares that cut nothing or leave a
    width that no config of the family can say, for missing or unfit ids, for models
    that are quantized or of another family, and for weights that are not finite.
    """
    _check_layer_scaling(model, pruning)
    cut(model, choose(model, pruning, ids))
    return model


def _check_layer_scaling(model: Any, pruning: Pruning) -> None:
    name = "scale_attn_by_inverse_layer_idx"
    if pruning.layers and getattr(model.config, name, False):
        raise ValueError(
            f"layers={pruning.layers}: {name}=True of the model makes what a layer "
            "does depend on its number, which pruning changes"
        )

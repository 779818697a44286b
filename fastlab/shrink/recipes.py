"""What a recipe asks of the weights: a model built or loaded, then quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fastlab import checkpoints, models
from fastlab.shrink.quantize import quantize
from fastlab.shrink.saved import is_saved, load_quantized, manifest_of
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.spec.precision import PRECISIONS, QUANTIZED
from fastlab.spec.recipe import SCOPES


def build(point: Point, device: str = "cpu") -> nn.Module:
    """The point's model with random weights on the device, quantized where it says so.

    The same seed gives the same dense weights in every precision, up to their rounding.
    Raises ValueError for points with trained weights: `load` those.
    """
    model = models.build(point, device)
    if point.recipe.precision in QUANTIZED:
        quantize(model, point.recipe)
    return model


def load(
    source: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    scope: str = "layers",
) -> tuple[nn.Module, Any]:
    """A real model and its tokenizer, from a hub name or a local folder.

    precision: fp32 where none is named; a quantized one loads bf16 weights and
    quantizes those that scope names. A folder that `save_quantized` wrote comes back in
    the precision it has (its tokenizer is None where none was saved). Weights are read
    from safetensors only and no code of the repository is run. Raises OSError where
    something is missing, ValueError for a precision that is none or not the folder's.
    """
    if is_saved(source):
        return _load_saved(Path(source), device, precision)
    precision = precision or "fp32"
    check_choice("precision", precision, PRECISIONS)
    check_choice("scope", scope, SCOPES)
    model, tokenizer = checkpoints.load(source, device, precision)
    if precision in QUANTIZED:
        quantize(model, precision, scope)
    return model, tokenizer


def _load_saved(folder: Path, device: str, wanted: str | None) -> tuple[nn.Module, Any]:
    from transformers import AutoTokenizer

    has = manifest_of(folder)["precision"]
    if wanted not in (None, has):
        raise ValueError(f"precision={wanted!r}: {folder} holds {has} weights")
    model = load_quantized(folder, device)
    if not (folder / "tokenizer_config.json").exists():
        return model, None
    return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

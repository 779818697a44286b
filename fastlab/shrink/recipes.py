"""What a recipe asks of the weights: pruned, distilled, zeroed, quantized or shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastlab import checkpoints, models
from fastlab.models import prompt_ids
from fastlab.shrink.healing import healed
from fastlab.shrink.pruning.slicing import prune
from fastlab.shrink.quantize import quantize
from fastlab.shrink.saved import is_saved, load_quantized, manifest_of
from fastlab.shrink.share import share
from fastlab.shrink.sparsify import sparsify
from fastlab.shrink.trained import Trained
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point, Workload
from fastlab.spec.precision import PRECISIONS, QUANTIZED
from fastlab.spec.recipe import PLAIN, SCOPES, Recipe

SEEN_LENGTH = 256  # of the rows on which importances are measured


def build(
    point: Point, device: str = "cpu", trained: Trained | None = None
) -> nn.Module:
    """The point's model on the device, made smaller as its recipe says.

    The same seed gives the same dense weights in every precision, up to their rounding.
    Importances that are measured see the text of trained weights, random ids with
    random ones. Distilled students are made here, or taken from trained.students.
    Raises ValueError for trained weights that are not those of the point, or that no
    source is given for.
    """
    recipe = point.recipe
    if point.seed is not None:
        return smaller(models.build(point, device), recipe, _random_ids(point, device))
    if trained is None:
        raise ValueError(f"weights={point.weights!r}: only random ones can be built")
    trained.check(point)
    ids = _text_ids(point, trained, device)
    if recipe.distill_steps:
        student = healed(recipe, trained, ids, device)
        model, _ = checkpoints.load(student, device, recipe.precision)
        return _stored(model, recipe, ids)
    model, _ = checkpoints.load(trained.folder, device, recipe.precision)
    return smaller(model, recipe, ids)


def smaller(model: nn.Module, recipe: Recipe, ids: Tensor | None = None) -> nn.Module:
    """A dense model pruned, then zeroed, then quantized or shared; it is consumed.

    ids: (rows, length) of a text, where the recipe measures what to keep. Distillation
    comes between the first two and is not done here.
    """
    if recipe.prunes:
        model = prune(model, recipe.pruning, ids if recipe.pruning.needs_text else None)
    return _stored(model, recipe, ids)


def _stored(model: nn.Module, recipe: Recipe, ids: Tensor | None) -> nn.Module:
    if recipe.sparsity is not None:
        model = sparsify(model, recipe.sparsity, ids)
    if recipe.sharing is not None:
        model = share(model, recipe.sharing)
    if recipe.precision in QUANTIZED:
        model = quantize(model, recipe)
    return model


def needs_ids(recipe: Recipe) -> bool:
    """Whether something of the recipe is chosen by what the model does to a text."""
    wanda = recipe.sparsity is not None and recipe.sparsity.method == "wanda"
    return wanda or bool(recipe.pruning.needs_text)


def _random_ids(point: Point, device: str) -> Tensor | None:
    if not needs_ids(point.recipe):
        return None
    length = min(SEEN_LENGTH, point.shape.max_positions)
    work = Workload(batch=4, prompt_len=length)
    return prompt_ids(replace(point, workload=work, recipe=PLAIN), device)


def _text_ids(point: Point, trained: Trained, device: str) -> Tensor | None:
    if not needs_ids(point.recipe):
        return None
    return trained.seen(min(SEEN_LENGTH, point.shape.max_positions)).to(device)


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

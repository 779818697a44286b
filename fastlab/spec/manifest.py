"""fastlab.json in a folder that `save` wrote: what its weights are. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastlab.spec.checks import check_choice
from fastlab.spec.formats import FORMATS, QUANTIZED
from fastlab.spec.recipe import Recipe

MANIFEST = "fastlab.json"
SCHEMA = 1
IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")
EMBEDDING = "Int8Embedding"
_FIELDS = ("schema", "precision", "model", "attention")
_STORED = ("modules", "shared", "tensors", "file")  # where weights are not dense
_RECIPE = ("precision", "scope", "sparsity", "sharing")
_KINDS = dict.fromkeys(FORMATS[name].linear for name in QUANTIZED)
_KINDS |= dict.fromkeys((EMBEDDING, "CsrLinear", "SemiSparseLinear", "LutLinear"))
_MODELS = ("ForCausalLM", "ForMaskedLM", "LMHeadModel")


def manifest_of(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, checked.

    Raises OSError where it is missing, ValueError where it is no manifest, of another
    schema, or names what does not exist.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        wanted = [*_FIELDS, *(_STORED if "modules" in manifest else ())]
        absent = [name for name in wanted if name not in manifest]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if absent or not isinstance(manifest, dict):
        raise ValueError(f"{path} lacks {', '.join(absent)}")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema={manifest['schema']!r} must be {SCHEMA}")
    if not str(manifest["model"]).endswith(_MODELS):
        raise ValueError(f"model={manifest['model']!r} in {path} is no language model")
    check_choice("attention", manifest["attention"], IMPLEMENTATIONS)
    for name, described in manifest.get("modules", {}).items():
        check_choice(f"kind of {name}", described.get("kind"), _KINDS)
    if is_stored(recipe_in(manifest)) != ("modules" in manifest):
        raise ValueError(f"{path} says nothing of modules, or too much")
    return manifest


def recipe_in(manifest: dict[str, Any]) -> Recipe:
    """What was made of the weights: a Recipe that differs in nothing else."""
    held: Recipe = Recipe.from_dict({n: manifest[n] for n in _RECIPE if n in manifest})
    return held


def is_stored(recipe: Recipe) -> bool:
    """Whether weights are stored otherwise than dense."""
    return recipe.precision in QUANTIZED or recipe.storage != "dense"


def held_recipe(source: str | Path | None) -> Recipe | None:
    """What the folder that `save` wrote holds; None for every other source."""
    if source is None or not (Path(source) / MANIFEST).is_file():
        return None
    return recipe_in(manifest_of(source))


def contradiction(
    source: object, held: Recipe, field: str, value: object
) -> ValueError:
    """The error for a field that weights, once stored so, cannot follow."""
    words = " ".join([held.precision, *held.made_words])
    return ValueError(f"{field}={value!r}: {source} holds {words} weights")

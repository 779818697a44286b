"""fastlab.json in a folder that `save` wrote: what its weights are. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastlab.spec.checks import check_choice
from fastlab.spec.formats import QUANTIZED
from fastlab.spec.recipe import Recipe

MANIFEST = "fastlab.json"
SCHEMA = 1
IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")
_RECIPE = ("precision", "scope", "sparsity", "sharing", "distinct_layers")
_MODELS = ("ForCausalLM", "ForMaskedLM", "LMHeadModel")


def manifest_of(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, checked; its `recipe` is a Recipe.

    Raises OSError where it is missing, ValueError where it is no manifest, of another
    schema, or names what does not exist.
    """
    path = Path(folder) / MANIFEST
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check_choice("schema", held["schema"], [SCHEMA])
        check_choice("attention", held["attention"], IMPLEMENTATIONS)
        recipe = Recipe.from_dict(
            {name: held[name] for name in _RECIPE if name in held}
        )
        if is_stored(recipe):
            _ = held["modules"], held["shared"], held["file"]["sha256"]
        if not held["model"].endswith(_MODELS):
            raise ValueError(f"model={held['model']!r} is no language model")
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return held | {"recipe": recipe}


def is_stored(recipe: Recipe | None) -> bool:
    """Whether weights are stored otherwise than dense."""
    return recipe is not None and (
        recipe.precision in QUANTIZED
        or recipe.storage != "dense"
        or recipe.distinct_layers > 0
    )


def held_recipe(source: str | Path | None) -> Recipe | None:
    """What was made of the weights that `save` wrote; None for every other source."""
    if source is None or not (Path(source) / MANIFEST).is_file():
        return None
    recipe: Recipe = manifest_of(source)["recipe"]
    return recipe


def contradiction(source: Any, held: Any, field: str, value: object) -> ValueError:
    """The error for a field that weights, once stored so, cannot follow."""
    words = " ".join([held.precision, *held.made_words])
    return ValueError(f"{field}={value!r}: {source} holds {words} weights")

"""Whether the files of a folder hold the tensors of the model that its config names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fastlab.models import set_implementations
from fastlab.spec.configs import in_one_line, read_config
from fastlab.spec.manifest import MANIFEST, held_recipe, is_stored, manifest_of
from fastlab.tracing.configs import class_of, text_config


def class_and_config(
    source: str | Path, attention: str | None = None
) -> tuple[Any, Any]:
    """The class that a model names, and its config with kernels of ours."""
    import transformers

    made = manifest_of(source) if (Path(source) / MANIFEST).is_file() else {}
    config = read_config(source)
    kind = getattr(transformers, made["model"]) if made else class_of(config)
    if kind.config_class is not type(config):
        config = text_config(config)
    return kind, set_implementations(config, attention or made.get("attention"))


# Heads of other tasks and buffers of older versions, which files may hold beside.
_SPARE = r"\bpooler\.|seq_relationship|inv_freq$|position_ids$|masked_bias"


def check_tensors(source: str | Path) -> None:
    """Refuse a folder whose files do not hold its model's tensors, before reading them.

    Raises OSError for files that are missing, ValueError for tensors that are missing,
    foreign or of another size, and a tied head that is not its table. Where some are
    missing and others foreign, transformers may turn these into those: then, and where
    others quantized the weights, it judges as it reads.
    """
    folder = Path(source)
    if not folder.is_dir() or is_stored(held_recipe(folder)):
        return
    files, (kind, config) = _slices(folder), class_and_config(folder)
    if getattr(config, "quantization_config", None):
        return
    with in_one_line(source), torch.device("meta"):
        model = kind(config)
    own, tied = model.state_dict(), model.all_tied_weights_keys
    start, held = f"{model.base_model_prefix}.", {}
    for name, at in files.items():
        names = (name, start + name, name.removeprefix(start))
        held[next((n for n in names if n in own), name)] = at
    for copy, table in tied.items():
        both = [held[name] for name in (copy, table) if name in held]
        if len(both) == 2 and not torch.equal(both[0][:], both[1][:]):
            why = f"{copy} is not {table}, which it is tied to"
            raise ValueError(f"model={str(source)!r}: {why}")
        if both:
            own.pop(copy if table in held else table)
    known = own.keys() | tied
    missing, foreign = own.keys() - held, held.keys() - known - {*tied.values()}
    shapes = [(n, held[n].get_shape(), [*own[n].shape]) for n in own.keys() & held]
    wrong = [shape for shape in shapes if shape[1] != shape[2]]
    if not (missing and foreign):
        refuse(source, model, missing, foreign, wrong)


def _slices(folder: Path) -> dict[str, Any]:
    """The tensors of a folder by name, not read yet; OSError for lost files."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = [whole]
    if index.is_file() and not whole.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted({*names})]
    slices: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"model={str(folder)!r} lacks {file.name}")
        names = (opened := safe_open(file, "pt")).keys()
        slices |= {name: opened.get_slice(name) for name in names}
    return slices


def refuse(source: Any, model: Any, missing: Any, foreign: Any, wrong: Any) -> None:
    """Raise ValueError for tensors that do not fit, but those that may be left."""
    fine = "|".join([*(model._keys_to_ignore_on_load_unexpected or ()), _SPARE])
    kind, spare = type(model).__name__, model._keys_to_ignore_on_load_missing or ()
    sizes = [
        f"{n} {[*has]} where the config says {[*wants]}" for n, has, wants in wrong
    ]
    for words, names in (
        (f"lacks what {kind} has", set(missing) - set(spare)),
        (f"has what {kind} lacks", [n for n in foreign if not re.search(fine, n)]),
        ("has other sizes", sizes),
    ):
        if names:
            more = f" and {len(names) - 1} more" * (len(names) > 1)
            raise ValueError(f"model={str(source)!r} {words}: {min(names)}{more}")

"""Models on disk, in whatever form they hold their weights: safetensors and JSON.

Dense ones, pruned or with zeros too, are folders that transformers reads. Others are
one safetensors file, the config and a manifest (fastlab.json), which says what each
module is; codes are stored plain, so that a file made on one device loads on another.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastlab.checkpoints import without_bars
from fastlab.models import DTYPES
from fastlab.shrink import parts
from fastlab.shrink.kernels import StoredLinear, kernel_of
from fastlab.shrink.kernels.int8 import Int8Embedding
from fastlab.shrink.pruning.cutting import tensors_of
from fastlab.shrink.share import LutLinear, distinct_layers, tie_layers
from fastlab.shrink.sparsify import STORED
from fastlab.spec.formats import Format
from fastlab.spec.hub import sha256_of
from fastlab.spec.manifest import IMPLEMENTATIONS, MANIFEST, SCHEMA, manifest_of
from fastlab.spec.recipe import Recipe
from fastlab.spec.storage import Sparsity
from fastlab.tensors import class_and_config

WEIGHTS = "quantized.safetensors"  # not the name that transformers would load by itself


def save(
    model: Any, folder: str | Path, tokenizer: Any = None, **about: Any
) -> dict[str, Any]:
    """Write a model (and its tokenizer) to a folder that `load` reads; its manifest.

    Weights are written as they are held: quantized, sparse, shared, pruned or dense.
    The manifest has the sha256 of each file, and what else it is told about the model.
    Raises ValueError where the folder holds weights already that would stay in it.
    """
    modules = [name for name, _ in parts.stored_modules(model)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = bool(modules) or distinct_layers(model) > 0
    other = "model*.safetensors*" if stored else WEIGHTS
    if left := [path.name for path in folder.glob(other)]:
        raise ValueError(f"{folder} holds {left[0]} already: name another folder")
    attention = model.config._attn_implementation
    manifest = {
        "schema": SCHEMA,
        **recipe_of(model).to_dict(),
        "model": type(model).__name__,
        "attention": attention if attention in IMPLEMENTATIONS else "sdpa",
    }
    if stored:
        tensors, shared = _tensors(model)
        save_file(tensors, folder / WEIGHTS)
        model.config.save_pretrained(folder)
        size, sha = (folder / WEIGHTS).stat().st_size, sha256_of(folder / WEIGHTS)
        file = {"bytes": size, "sha256": sha}
        manifest |= {"modules": modules, "shared": shared, "file": file}
    else:
        with without_bars():
            model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*"))}
    shas = {n: sha256_of(f) for n, f in files.items() if f.is_file() and n != MANIFEST}
    manifest |= {"files": shas, **about}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def recipe_of(model: Any) -> Recipe:
    """What the modules of a model are made of."""
    linears = (m for m in model.modules() if isinstance(m, StoredLinear))
    form = next((linear.form for linear in linears), None)
    own: dict[str, Any] = {"distinct_layers": distinct_layers(model)}
    if isinstance(form, Format):
        return Recipe(form.name, scope=parts.scope_of(model), **own)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    dense = next((name for name in DTYPES if DTYPES[name] == dtype), "fp32")
    own["sparsity" if isinstance(form, Sparsity) else "sharing"] = form
    return Recipe(dense, **own)


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every parameter and buffer once, on the CPU; and which names share another's.

    Buffers that transformers would compute anew are stored too: they are small.
    """
    named = tensors_of(model)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    shared = {n: first[id(t)] for n, t in named.items() if first[id(t)] != n}
    tensors = {
        n: t.detach()
        for n, t in named.items()
        if n not in shared and not hasattr(t, "__tensor_flatten__")  # 2:4, see portable
    }
    for name, module in parts.stored_modules(model):
        if isinstance(module, StoredLinear):
            tensors |= {f"{name}.{n}": t for n, t in module.portable().items()}
    return {n: t.cpu().contiguous() for n, t in tensors.items()}, shared


def load_stored(
    folder: str | Path, device: str = "cpu", attention: str | None = None
) -> nn.Module:
    """The model whose weights `save` wrote as they were, on the device, bit for bit.

    attention: transformers' name of one; None = that which it was saved with. No dense
    weight is ever made. Raises OSError where a file is missing, ValueError
    where the manifest, the file and the config do not belong together.
    """
    folder = Path(folder)
    manifest = manifest_of(folder)
    path = folder / WEIGHTS
    size, expected = path.stat().st_size, manifest["file"]["bytes"]
    if size != expected:
        raise ValueError(f"{path} has {size} bytes; the manifest says {expected}")
    if sha256_of(path) != manifest["file"]["sha256"]:
        raise ValueError(f"{path}: its sha256 is not the one in the manifest")
    kind, config = class_and_config(folder, attention)
    with torch.device("meta"):  # no memory, no random numbers
        model: nn.Module = kind(config)
    held = dict(_held(path, device))
    held |= {name: held[first] for name, first in manifest["shared"].items()}
    try:
        _fill(model, manifest, held)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: its files are not of one model: {error}"
        ) from error
    return model.eval().requires_grad_(False)


def _held(path: Path, device: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, each mapped alone: what was read of a map stays in memory.

    Copied, since they lie there as they come: the int8 product crashes on weights that
    do not begin at 16 bytes.
    """
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, "pt", device) as file:
            yield name, file.get_tensor(name).clone()


def _fill(model: nn.Module, manifest: dict[str, Any], held: dict[str, Tensor]) -> None:
    """Put stored modules in place, and every tensor that the file holds.

    Names that share a tensor share one parameter.
    """
    single = {id(t): nn.Parameter(t, requires_grad=False) for t in held.values()}
    fixed = {name: single[id(tensor)] for name, tensor in held.items()}
    leaves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, values in fixed.items():
        owner, _, leaf = name.rpartition(".")
        leaves[owner][leaf] = values
    kind: Any = None
    if manifest["modules"]:  # else the layers are dense, and share
        kind, form = _class_of(manifest["recipe"])
    if set(manifest["modules"]) - {name for name, _ in model.named_modules()}:
        parts.take_apart(model)
    for name in manifest["modules"]:
        own, dense = leaves[name], model.get_submodule(name)
        if isinstance(dense, nn.Embedding):
            model.set_submodule(name, Int8Embedding(**own))
        else:
            like, bias = parts.dense_weight(dense), own.pop("bias", None)
            model.set_submodule(name, kind(form, like.shape, bias, **own))
    if count := manifest["recipe"].distinct_layers:
        tie_layers(model, count)
    for name, old in tensors_of(model).items():
        if old.device.type != "meta":
            continue
        if name not in held or held[name].shape != old.shape:
            size = tuple(old.shape)
            raise ValueError(f"{name} {size} of the config is not in {WEIGHTS}")
        owner, _, leaf = name.rpartition(".")
        new = fixed[name] if isinstance(old, nn.Parameter) else held[name]
        setattr(model.get_submodule(owner), leaf, new)


def _class_of(recipe: Recipe) -> tuple[type[StoredLinear], Any]:
    """The class of a recipe's linears, and the form that it has them in."""
    if recipe.sharing is not None:
        return LutLinear, recipe.sharing
    if recipe.sparsity is not None:
        return STORED[recipe.storage][0], recipe.sparsity
    return getattr(kernel_of(recipe.format), recipe.format.linear), recipe.format

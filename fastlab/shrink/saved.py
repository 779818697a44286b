"""Quantized models on disk: one safetensors file, the config, and a manifest.

The manifest (fastlab.json) says what each quantized module is and what the file holds;
4-bit codes are stored plain, so that a file made on one device loads on another.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastlab.shrink import parts
from fastlab.shrink.kernels import Quantized, linear_of
from fastlab.shrink.kernels.int8 import Int8Embedding
from fastlab.spec.checks import check_choice
from fastlab.spec.formats import FORMATS, QUANTIZED
from fastlab.spec.hub import sha256_of

MANIFEST = "fastlab.json"
WEIGHTS = "quantized.safetensors"  # not the name that transformers would load by itself
SCHEMA = 1
_FIELDS = (
    *("schema", "precision", "model", "attention", "modules", "shared"),
    *("tensors", "file"),
)
EMBEDDING = Int8Embedding.__name__
_KINDS = dict.fromkeys([*(FORMATS[name].linear for name in QUANTIZED), EMBEDDING])


def save_quantized(
    model: nn.Module, folder: str | Path, tokenizer: Any = None
) -> dict[str, Any]:
    """Write a quantized model (and its tokenizer) to a folder; returns the manifest.

    Raises ValueError for a model that is not quantized.
    """
    modules = {n: _described(m) for n, m in parts.quantized_modules(model)}
    if not modules:
        raise ValueError("the model is not quantized: save it with save_pretrained")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, shared = _tensors(model)
    save_file(tensors, folder / WEIGHTS)
    model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    manifest = {
        "schema": SCHEMA,
        "precision": parts.precision_of(model),
        "model": type(model).__name__,
        "attention": model.config._attn_implementation,  # type: ignore[union-attr]
        "modules": modules,
        "shared": shared,
        "tensors": {name: _kind(t) for name, t in tensors.items()},
        "file": {
            "name": WEIGHTS,
            "bytes": (folder / WEIGHTS).stat().st_size,
            "sha256": sha256_of(folder / WEIGHTS),
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _described(module: nn.Module) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": type(module).__name__}
    if isinstance(module, Quantized):
        described["shape"] = [module.out_features, module.in_features]
        described |= {"group": module.form.group} if module.form.group else {}
    return described


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every parameter and buffer once, on the CPU; and which names share another's."""
    named = _named_tensors(model)
    first = {id(tensor): name for name, tensor in reversed(named)}
    shared = {n: first[id(t)] for n, t in named if first[id(t)] != n}
    tensors = {n: t.detach().cpu().contiguous() for n, t in named if n not in shared}
    for name, module in parts.quantized_modules(model):
        if isinstance(module, Quantized):
            for leaf, tensor in module.portable().items():
                tensors[f"{name}.{leaf}"] = tensor.cpu().contiguous()
    return tensors, shared


def _named_tensors(model: Any) -> list[tuple[str, Tensor]]:
    # Buffers that transformers would compute anew are stored too: they are small.
    twice = {"remove_duplicate": False}
    return [*model.named_parameters(**twice), *model.named_buffers(**twice)]


def _kind(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype).removeprefix("torch."), *tensor.shape]


def manifest_of(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, checked.

    Raises OSError where it or the file is missing, ValueError where it is no manifest,
    of another schema, or not that of the file beside it.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        absent = [name for name in _FIELDS if name not in manifest]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if absent or not isinstance(manifest, dict):
        raise ValueError(f"{path} lacks {', '.join(absent)}")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema={manifest['schema']!r} must be {SCHEMA}")
    check_choice("precision", manifest["precision"], QUANTIZED)
    for name, described in manifest["modules"].items():
        check_choice(f"kind of {name}", described.get("kind"), _KINDS)
    return manifest


def load_quantized(folder: str | Path, device: str = "cpu") -> nn.Module:
    """The model that `save_quantized` wrote, on the device, equal bit for bit.

    No dense weight is ever made. Raises OSError where a file is missing, ValueError
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
    model = _skeleton(folder, manifest["model"], manifest["attention"])
    held = load_file(path, device)
    if device == "cpu":  # views of the mapped file, as aligned as they lie there: the
        # int8 product crashes on weights that do not begin at 16 bytes
        held = {name: tensor.clone() for name, tensor in held.items()}
    if {name: _kind(t) for name, t in held.items()} != manifest["tensors"]:
        raise ValueError(f"the tensors of {WEIGHTS} are not those of {MANIFEST}")
    held |= {name: held[first] for name, first in manifest["shared"].items()}
    _fill(model, manifest, held)
    return model.eval().requires_grad_(False)


def _skeleton(folder: Path, name: str, attention: str) -> nn.Module:
    """The model of the config on the meta device: no memory, no random numbers."""
    import transformers

    if not name.endswith(("ForCausalLM", "ForMaskedLM", "LMHeadModel")):
        raise ValueError(f"model={name!r} in {folder / MANIFEST} is no language model")
    kind = getattr(transformers, name)
    config = kind.config_class.from_pretrained(folder, attn_implementation=attention)
    with torch.device("meta"):
        model: nn.Module = kind(config)
    return model


def _fill(model: nn.Module, manifest: dict[str, Any], held: dict[str, Tensor]) -> None:
    """Put quantized modules in place, and every tensor that the file holds.

    Names that share a tensor share one parameter.
    """
    single = {id(t): nn.Parameter(t, requires_grad=False) for t in held.values()}
    fixed = {name: single[id(tensor)] for name, tensor in held.items()}
    leaves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, values in fixed.items():
        owner, _, leaf = name.rpartition(".")
        leaves[owner][leaf] = values
    form = FORMATS[manifest["precision"]]
    for name, described in manifest["modules"].items():
        own = leaves[name]
        if described["kind"] == EMBEDDING:
            model.set_submodule(name, Int8Embedding(**own))
        else:
            bias = own.pop("bias", None)
            linear = linear_of(form, described["shape"], bias, own)
            model.set_submodule(name, linear)
    for name, old in _named_tensors(model):
        if old.device.type != "meta":
            continue
        if name not in held or held[name].shape != old.shape:
            size = tuple(old.shape)
            raise ValueError(f"{name} {size} of the config is not in {WEIGHTS}")
        owner, _, leaf = name.rpartition(".")
        new = fixed[name] if isinstance(old, nn.Parameter) else held[name]
        setattr(model.get_submodule(owner), leaf, new)

"""A real checkpoint: its model and tokenizer, its identity; text in, text out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from fastlab.models import DTYPES, set_implementations
from fastlab.spec.checks import check_choice, check_count, did_you_mean
from fastlab.spec.configs import in_one_line, read_config
from fastlab.spec.formats import FORMATS, PRECISIONS
from fastlab.spec.hub import check_source
from fastlab.spec.manifest import (
    MANIFEST,
    contradiction,
    held_recipe,
    is_stored,
    manifest_of,
)
from fastlab.tracing.configs import class_of, text_config

HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "Decoder")
CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"


def folder_of(name: str, field: str = "model") -> str:
    """The folder of a model under data/checkpoints; a path or owner/name as it is.

    ValueError for any other name, as the value of `field`.
    """
    kept = sorted(file.parent.name for file in CHECKPOINTS.glob("*/config.json"))
    if name in kept:
        return str(CHECKPOINTS / name)
    if "/" not in name and not Path(name or "-").exists():
        raise ValueError(
            f"{field}={name!r} is no folder and no owner/name of the hub; under "
            f"data/checkpoints: {', '.join(kept)}{did_you_mean(name, kept)}"
        )
    return name


def load(
    source: str | Path,
    device: str = "cpu",
    precision: str = "fp32",
    attention: str | None = None,
) -> tuple[nn.Module, Any]:
    """A real model and its tokenizer, from a hub name or a local folder.

    attention: transformers' name of one; None = what a folder of `save` says, or what
    suits the model.

    Weights are read from safetensors only and no code of the repository is run. With
    the package accelerate they go straight to the device, else through the CPU in
    their final dtype. A quantized precision loads the dense weights that shrink.recipes
    quantizes. Raises OSError where something of it is missing, ValueError in one line
    for a precision that is none, a folder that holds no model, weights that are not
    dense, not all there or not the model's, or stored in a way whose package is not
    installed.
    """
    from transformers.quantizers import AutoHfQuantizer

    check_choice("precision", precision, PRECISIONS)
    check_source(source, needs_weights=True)
    if is_stored(held := held_recipe(source)):
        raise contradiction(source, held, "precision", precision)
    kind, config = _class_and_config(source, attention)
    stored = getattr(config, "quantization_config", None)
    straight = {"device_map": device} if find_spec("accelerate") else {}
    check_tensors(source)
    with in_one_line(source), without_bars():
        if stored and not AutoHfQuantizer.supports_quant_method(stored):
            method = stored["quant_method"]  # would be loaded as if it were dense
            raise ValueError(f"quant_method={method!r} is not known to transformers")
        model, found = kind.from_pretrained(
            str(source),
            config=config,
            dtype=DTYPES[FORMATS[precision].dense],
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that we say it
            output_loading_info=True,
            **straight,
        )
    missing, foreign = found["missing_keys"], found["unexpected_keys"]
    _refuse(source, model, missing, foreign, found["mismatched_keys"])
    nn.Module.to(model, device)
    return model.eval().requires_grad_(False), tokenizer_of(source)


def tokenizer_of(source: str | Path) -> Any:
    """A model's own tokenizer; None for a folder that has none."""
    from transformers import AutoTokenizer

    folder, kinds = Path(source), ("tokenizer*", "vocab.*", "*.model")
    if folder.is_dir() and not any([*folder.glob(kind)] for kind in kinds):
        return None
    with in_one_line(source):
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)


def _class_and_config(
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
    files, (kind, config) = _slices(folder), _class_and_config(folder)
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
        _refuse(source, model, missing, foreign, wrong)


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


def _refuse(source: Any, model: Any, missing: Any, foreign: Any, wrong: Any) -> None:
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


def export_model(
    model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a folder that `load` reads: safetensors in dtype, config, tokenizer.

    The model itself keeps its precision.
    """
    from transformers import GenerationConfig

    rounded = deepcopy(model).to(dtype)
    rounded.generation_config = GenerationConfig.from_model_config(rounded.config)
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def without_bars() -> Iterator[None]:
    """Without what transformers says on stderr of each model: bars and reports."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def generate_text(
    model: nn.Module, tokenizer: Any, prompt: str, new_tokens: int = 32
) -> str:
    """The greedy continuation of a prompt, as text, whatever its folder recommends.

    ValueError for an empty prompt, too many positions, and logits that are not finite.
    """
    prompt_ids, eos = ids_of(model, tokenizer, prompt), eos_ids(model, tokenizer)
    length = prompt_ids.shape[1]
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None:
        check_count("new_tokens", new_tokens, high=most - length + 1)
    ends = {"eos_token_id": eos or None, "pad_token_id": eos[0] if eos else None}
    how = greedy(model, max_new_tokens=new_tokens, **ends)
    with torch.inference_mode(), how as config:
        ids = model.generate(  # type: ignore[operator]
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            generation_config=config,
            logits_processor=[lambda _, logits: check_logits(logits)],
        )
    # Decoded together with the prompt: alone, some tokenizers drop the first space.
    parts = [ids[0], ids[0, :length]]
    whole, own = tokenizer.batch_decode(parts, skip_special_tokens=True)
    return str(whole[len(own) :])


def ids_of(model: nn.Module, tokenizer: Any, prompt: str) -> torch.Tensor:
    """A prompt's tokens (1, n) alone, on the model's device; ValueError for none."""
    check_writes(model.config)
    ids: torch.Tensor = tokenizer(prompt, return_tensors="pt")["input_ids"]
    if ids.shape[1] == 0:
        raise ValueError(f"prompt={prompt!r} must have at least one token")
    return ids.to(next(model.parameters()).device)


def check_writes(config: Any) -> None:
    """Raise ValueError for a model that continues no text: no head, or an encoder."""
    from transformers.models.auto import modeling_auto as auto

    family, built = config.model_type, (config.architectures or ["ForCausalLM"])[0]
    masked = family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    encodes = masked and getattr(config, "is_decoder", None) is False
    if encodes or config.is_encoder_decoder or not built.endswith(HEADS):
        named = f"model_type={family!r}, architectures={built!r}"
        raise ValueError(f"{named}: an encoder, or without a head that writes text")


def eos_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """Tokens that end a text: of the model's generation config, else the tokenizer."""
    config: Any = getattr(model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    named = tokenizer.eos_token_id if named is None else named
    ids = [named] if isinstance(named, int) else list(named or ())
    for token in ids:
        check_count("eos_token_id", token, low=-(2**31))
    return ids


def check_logits(logits: torch.Tensor) -> torch.Tensor:
    """The logits; ValueError where one is NaN or infinite (-inf is: never that one)."""
    if not bool((logits < float("inf")).all()):
        raise ValueError("the model's logits are not finite: no token is the likeliest")
    return logits


@contextmanager
def greedy(model: Any, **options: Any) -> Iterator[Any]:
    """A config of greedy generation; within it the model's own, which generate() fills
    all gaps of a config from, says nothing.
    """
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield GenerationConfig(do_sample=False, **options)
    finally:
        model.generation_config = own

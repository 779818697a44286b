"""A real checkpoint: its model and tokenizer, its identity; text in, text out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastlab.models import DTYPES
from fastlab.spec.checks import check_choice, check_count, did_you_mean
from fastlab.spec.formats import FORMATS, PRECISIONS
from fastlab.spec.hub import check_source, in_one_line, read_config

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
    source: str | Path, device: str = "cpu", precision: str = "fp32"
) -> tuple[nn.Module, Any]:
    """A real model and its tokenizer, from a hub name or a local folder.

    Weights are read from safetensors only and no code of the repository is run. With
    the package accelerate they go straight to the device, else through the CPU in
    their final dtype. A quantized precision loads the dense weights that shrink.recipes
    quantizes. Raises OSError where something of it is missing, ValueError in one line
    for a precision that is none, a folder that holds no model, weights that are not
    all there, or stored in a way whose package is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.quantizers import AutoHfQuantizer

    check_choice("precision", precision, PRECISIONS)
    check_source(source, needs_weights=True)
    source = str(source)
    config = read_config(source)  # what is wrong with it is said there
    straight = {"device_map": device} if find_spec("accelerate") else {}
    with in_one_line(source), without_bars():
        stored = getattr(config, "quantization_config", None)
        if stored and not AutoHfQuantizer.supports_quant_method(stored):
            method = stored["quant_method"]  # would be loaded as if it were dense
            raise ValueError(f"quant_method={method!r} is not known to transformers")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=DTYPES[FORMATS[precision].dense],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **straight,
        )
        model, found = loaded
        _check_found(found)
    nn.Module.to(model, device)
    return model.eval().requires_grad_(False), tokenizer


def _check_found(found: dict[str, Any]) -> None:
    """Refuse weights of another model: transformers would fill in random numbers."""
    for name, has, wants in found["mismatched_keys"]:
        raise ValueError(f"{name} has sizes {[*has]}, by the config {[*wants]}")
    for name in sorted(found["missing_keys"]):
        raise ValueError(f"{name} is not in its files")
    for name in sorted(found["unexpected_keys"])[:1]:
        warnings.warn(f"{name} of its files has no place in the model", stacklevel=4)


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
    """The greedy continuation of a prompt, as text, whatever the folder recommends.

    It ends at an eos token. Raises ValueError for an empty prompt, more positions than
    the model has, and logits that are not finite.
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
    """The tokens of a prompt (1, n) on the model's device; ValueError for none.

    All else that some tokenizers return is for other models: one prompt needs no mask.
    """
    check_writes(model.config)
    ids: torch.Tensor = tokenizer(prompt, return_tensors="pt")["input_ids"]
    if ids.shape[1] == 0:
        raise ValueError(f"prompt={prompt!r} must have at least one token")
    return ids.to(next(model.parameters()).device)


def check_writes(config: Any) -> None:
    """Raise ValueError for a model that continues no text: no head, or an encoder."""
    from transformers.models.auto import modeling_auto as auto

    family, built = config.model_type, (config.architectures or [""])[0]
    heads = dict(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    whole = not built or built.endswith("ForConditionalGeneration")
    known = built in heads.values() or (whole and family in heads)
    encodes = family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    encodes = encodes and getattr(config, "is_decoder", None) is False
    if not known or encodes or config.is_encoder_decoder:
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
    """A config of greedy generation; within it the model's own adds nothing to it.

    generate() fills what a config leaves open from the model's generation_config.
    """
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield GenerationConfig(do_sample=False, **options)
    finally:
        model.generation_config = own

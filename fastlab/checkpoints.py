"""A real checkpoint: its model and tokenizer, its identity; text in, text out."""

from __future__ import annotations

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
from fastlab.spec.configs import in_one_line
from fastlab.spec.formats import FORMATS, PRECISIONS
from fastlab.spec.hub import check_source
from fastlab.spec.manifest import contradiction, held_recipe, is_stored
from fastlab.tensors import check_tensors, class_and_config, refuse
from fastlab.tracing.weights import fit_experts

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
    kind, config = class_and_config(source, attention)
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
    refuse(source, model, missing, foreign, found["mismatched_keys"])
    nn.Module.to(model, device)
    fit_experts(model)
    return model.eval().requires_grad_(False), tokenizer_of(source)


def tokenizer_of(source: str | Path) -> Any:
    """A model's own tokenizer; None for a folder that has none."""
    from transformers import AutoTokenizer

    folder, kinds = Path(source), ("tokenizer*", "vocab.*", "*.model")
    if folder.is_dir() and not any([*folder.glob(kind)] for kind in kinds):
        return None
    with in_one_line(source):
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)


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


def ids_of(model: nn.Module, tokenizer: Any, prompt: str, **how: bool) -> torch.Tensor:
    """A prompt's tokens (1, n) alone, on the model's device; ValueError for none.

    how: what else the tokenizer is told, as add_special_tokens=False.
    """
    check_writes(model.config)
    ids: torch.Tensor = tokenizer(prompt, return_tensors="pt", **how)["input_ids"]
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

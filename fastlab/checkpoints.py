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
from fastlab.spec.checks import check_choice, did_you_mean
from fastlab.spec.formats import FORMATS, PRECISIONS
from fastlab.spec.hub import check_source

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
    quantizes. Raises OSError where something of it is missing, ValueError for a
    precision that is none or a folder that holds no model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_choice("precision", precision, PRECISIONS)
    check_source(source, needs_weights=True)
    source = str(source)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    straight = {"device_map": device} if find_spec("accelerate") else {}
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=DTYPES[FORMATS[precision].dense],
            use_safetensors=True,
            trust_remote_code=False,
            **straight,
        )
    nn.Module.to(model, device)
    return model.eval().requires_grad_(False), tokenizer


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
    """Without the progress bars that transformers draws on stderr for each model."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def generate_text(
    model: nn.Module, tokenizer: Any, prompt: str, new_tokens: int = 32
) -> str:
    """The greedy continuation of a prompt, as text; ValueError for an empty prompt."""
    inputs = tokenizer(prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    if length == 0:
        raise ValueError(f"prompt={prompt!r} must have at least one token")
    with torch.inference_mode():
        ids = model.generate(  # type: ignore[operator]
            **inputs.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
    # Decoded together with the prompt: alone, some tokenizers drop the first space.
    parts = [ids[0], ids[0, :length]]
    whole, own = tokenizer.batch_decode(parts, skip_special_tokens=True)
    return str(whole[len(own) :])

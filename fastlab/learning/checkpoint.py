"""What a training run leaves in its folder: whole files, the finished model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastlab import machine
from fastlab.checkpoints import load
from fastlab.learning.tokens import text_loss

Row = dict[str, float]  # of a loss curve


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), then put that file in the place of `path` at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".tmp")
    write(fresh)
    with fresh.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(fresh, path)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Keep a JSON object, atomically, one field a line."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


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


def export_run(
    folder: Path,
    model: nn.Module,
    tokenizer: Any,
    curve: list[Row],
    held_out: str,
    block: int,
    **about: Any,
) -> None:
    """Export a trained model, with run.json: what it reaches as it is read back.

    about: more fields of run.json.
    """
    device = next(model.parameters()).device.type
    export_model(model, tokenizer, folder)
    model, tokenizer = load(folder, device)
    environment = machine.environment(device)
    run = {
        **{name: environment[name] for name in ("command", "versions", "device")},
        **about,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": curve[-1]["seconds"],
        "held_out": asdict(text_loss(model, tokenizer, held_out, block)),
        "curve": summary_of(curve),
    }
    write_json(folder / "run.json", run)


def summary_of(rows: list[Row], count: int = 12) -> list[Row]:
    """Some rows of a curve, evenly spread, the last among them."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[n] for n in chosen]

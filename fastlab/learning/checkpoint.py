"""What a training run keeps: its state, its loss curve, and the finished model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"
CURVE = "curve.jsonl"


def write_atomically(path: Path, write: Any) -> None:
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


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Keep a Trainer's state; a kill at any moment leaves the last whole one."""
    write_atomically(folder / STATE, lambda fresh: torch.save(dict(state), fresh))


def load_state(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """The state kept in the folder, None where there is none. No code in it is run."""
    path = folder / STATE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


class Curve:
    """The rows of a run as JSON lines; a run that goes on repeats no step.

    Without a folder they are only kept in `rows`.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self.path = folder / CURVE if folder else None
        self.rows: list[dict[str, float]] = []
        if self.path is not None:
            self.rows = [row for row in _rows(self.path) if row["step"] <= step]
            lines = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomically(self.path, lambda fresh: fresh.write_text(lines))

    def append(self, row: Mapping[str, float]) -> None:
        """One more row, on disk when this returns."""
        self.rows.append(dict(row))
        if self.path is not None:
            with self.path.open("a") as handle:
                handle.write(json.dumps(row) + "\n")


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # the line that a kill cut short, and what came after it
    return rows


def export_model(
    model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a folder that `load` reads: safetensors in dtype, config, tokenizer.

    The model itself keeps its precision.
    """
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):  # its first weights are random
        config = deepcopy(model.config)
        rounded = AutoModelForCausalLM.from_config(config, dtype=dtype)
    rounded.load_state_dict(model.state_dict())
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

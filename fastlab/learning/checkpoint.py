"""A training run in its folder: its steps, loss curve, checkpoints, finished model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastlab import machine
from fastlab.checkpoints import load
from fastlab.learning.loop import Plan, Trainer
from fastlab.learning.tokens import text_loss

STATE = "state.pt"
CURVE = "curve.jsonl"
Row = dict[str, float]
OnRow = Callable[[Row], None]
Evaluate = Callable[[nn.Module], float]


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


@dataclass
class Session:
    """Steps of a trainer, and where its run is kept; without a folder nothing is.

    evaluate: called on the model every evaluate_every steps, its value goes into the
    curve's rows as "held_out". save_every_s: seconds of work that a kill can lose at
    most, as long as one step takes less. The curve is part of the checkpoint, so that
    a run which goes on repeats no step; CURVE is its copy as JSON lines.
    """

    trainer: Trainer
    folder: Path | None = None
    save_every_s: float = 60.0
    evaluate: Evaluate | None = None
    evaluate_every: int = 250
    log_every: int = 10

    def __post_init__(self) -> None:
        self.curve: list[Row] = []
        self._since: list[Row] = []
        path = self.folder / STATE if self.folder else None
        if path and path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.trainer.restore(state)
            self.curve = state["curve"]

    def plan(self, steps: int) -> None:
        """So many steps in all, unless the run has a plan from before its stop."""
        step = self.trainer.step
        if self.trainer.plan.end is None:
            decay = self.trainer.how.decay
            self.trainer.plan = Plan.of(max(1, steps - step), decay, step)

    def finish(self, steps: int | None = None) -> None:
        """Shrink learning rates from here on and end; usually after a quarter more.

        A run that is finishing already goes on with that, unless steps says otherwise.
        """
        step, plan = self.trainer.step, self.trainer.plan
        if steps is None and plan.decay_from is not None and step > plan.decay_from:
            return
        self.trainer.plan = Plan.of(steps or max(1, step // 4), 1.0, step)

    def run(self, on_row: OnRow | None = None, minutes: float | None = None) -> None:
        """Steps up to the plan's end; with minutes, of which a fifth is for finishing.

        on_row sees a row after each step: {step, loss, rate, seconds}, seconds of that
        step. Rows of the curve are means over log_every steps.
        """
        trainer, saved = self.trainer, time.monotonic()
        while not trainer.done:
            row = trainer.advance()
            self._log(row)
            if on_row is not None:
                on_row(row)
            if time.monotonic() - saved >= self.save_every_s:
                self.save()
                saved = time.monotonic()
            if minutes and trainer.seconds > 48 * minutes and trainer.plan.end is None:
                self.finish()
        self.save()

    def save(self) -> None:
        """Keep state and curve now; a kill at any moment leaves the last whole ones."""
        if self.folder is None:
            return
        state = self.trainer.state() | {"curve": self.curve}
        lines = "".join(json.dumps(row) + "\n" for row in self.curve)
        write_atomically(self.folder / STATE, lambda fresh: torch.save(state, fresh))
        write_atomically(self.folder / CURVE, lambda fresh: fresh.write_text(lines))

    def _log(self, row: Row) -> None:
        """Add the mean of the steps since the last row to the curve, if one is due."""
        trainer, last = self.trainer, self.trainer.done
        self._since.append(row)
        judged = self.evaluate and (last or not trainer.step % self.evaluate_every)
        if not (judged or last or not trainer.step % self.log_every):
            return
        rows, self._since = self._since, []
        tokens = len(rows) * trainer.how.batch * trainer.how.block
        mean = {
            "step": row["step"],
            "loss": round(sum(each["loss"] for each in rows) / len(rows), 5),
            "rate": round(row["rate"], 5),
            "tokens_per_s": round(tokens / sum(each["seconds"] for each in rows), 1),
            "seconds": round(trainer.seconds, 1),
        }
        if self.evaluate is not None and judged:
            mean["held_out"] = self.evaluate(trainer.model)
        self.curve.append(mean)


def summary_of(rows: list[Row], count: int = 12) -> list[Row]:
    """Some rows of a curve, evenly spread, the last among them."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[n] for n in chosen]

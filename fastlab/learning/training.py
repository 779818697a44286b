"""`train`: a language model of a given shape, from text to a folder that loads.

A run lives in a folder. It can be stopped at any moment, goes on from its last
checkpoint, and can be finished at any step: learning rates then shrink to nothing over
some last steps (a trapezoid, not a cosine, because the end need not be known before).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastlab import machine
from fastlab.checkpoints import export_model, load, tokenizer_of
from fastlab.learning.loop import (
    Evaluate,
    OnRow,
    Row,
    Trainer,
    Training,
    next_token_loss,
)
from fastlab.learning.text import Corpus, corpus_of
from fastlab.learning.tokens import (
    Blocks,
    block_nats,
    blocks_and_bytes,
    make_tokenizer,
    text_loss,
    token_ids,
)
from fastlab.models import build
from fastlab.record import write_atomically
from fastlab.spec import ModelShape, Point
from fastlab.spec.checks import check_count, check_number, make

SETTINGS, TOKENIZER, IDS = "settings.json", "tokenizer", "train.npy"
CURVE_ROWS = 12  # of the loss curve, evenly spread, the last among them, in run.json
SAMPLE_BLOCKS = 24  # held-out blocks looked at while training goes on
SMALL = ModelShape(
    *("llama", 12, 192, 6, 2, 32, 512), vocab=2048, max_positions=1024, tied=True
)


@dataclass(frozen=True)
class Run:
    """What a run was begun with: what it trains, on which text, where and how."""

    shape: ModelShape = SMALL
    how: Training = field(default_factory=Training)
    text: tuple[str, ...] = ()  # files; none = the standard library
    device: str = "cpu"
    save_every_s: float = 60.0
    evaluate_every: int = 250

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"shape": self.shape.to_dict(), "text": list(self.text)}


def train(
    folder: str | Path,
    run: Run | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    finish: bool = False,
    on_row: OnRow | None = None,
    out: str | Path | None = None,
) -> list[Row]:
    """Train in `folder`, begin or go on, and write the model to `out` at the end.

    run: what to train; None = what the folder holds. steps in all, or minutes of work
    in all; with neither it goes on until it is stopped. finish: shrink learning rates
    from the last checkpoint on and end (steps: over so many). Returns the loss curve.
    out: by default `folder`/final. Raises ValueError where the folder holds another
    run or one of other steps, or where the text is shorter than one block.
    """
    if steps is not None:
        check_count("steps", steps)
    if minutes is not None:
        check_number("minutes", minutes)
        if finish or steps is not None:
            raise ValueError(f"minutes={minutes} goes with neither steps nor finish")
    folder = Path(folder)
    run, is_new = _agreed(folder, run)
    corpus = corpus_of(run.text)
    tokenizer, ids = _tokenized(folder, run, corpus.train if is_new else None)
    how, loss = run.how, _sampled_loss(tokenizer, corpus, run.how.block)
    blocks = Blocks(ids, how.block, how.batch, how.seed)
    model = build(Point(run.shape, weights=f"random:{how.seed}"), run.device)
    keep = folder, run.save_every_s, loss, run.evaluate_every
    trainer = Trainer(model, blocks, next_token_loss(model), how, *keep)
    if is_new:  # last, so that what was refused leaves no run behind
        write_json(folder / SETTINGS, run.to_dict())
    if finish:
        trainer.finish(steps)
    elif steps is not None:
        trainer.plan_steps(steps)
    trainer.run(on_row, minutes)
    finished = model, tokenizer, trainer.curve, corpus.held_out, how.block
    about = _about(run, trainer, corpus)
    export_run(Path(out or folder / "final"), *finished, **about)
    return trainer.curve


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
    some = {*np.linspace(0, len(curve) - 1, CURVE_ROWS).round().astype(int)}
    run = {
        **{name: environment[name] for name in ("command", "versions", "device")},
        **about,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": curve[-1]["seconds"],
        "held_out": asdict(text_loss(model, tokenizer, held_out, block)),
        "curve": [curve[n] for n in sorted(some)],
    }
    write_json(folder / "run.json", run)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Keep a JSON object, atomically, one field a line."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def _agreed(folder: Path, run: Run | None) -> tuple[Run, bool]:
    """The run to work on, and whether the folder does not hold it yet."""
    path = folder / SETTINGS
    if not path.exists():
        return run or Run(), True
    kept: Run = make(Run, json.loads(path.read_text(encoding="utf-8")))
    if run is not None and run != kept:
        plain = [asdict(run), asdict(kept)]
        mine, its = (one.pop("shape") | one.pop("how") | one for one in plain)
        other = [f"{n}={its[n]!r}, not {mine[n]!r}" for n in its if its[n] != mine[n]]
        raise ValueError(
            f"{folder} holds a run with {'; '.join(other)}: go on with it without "
            "options, or take another folder"
        )
    return kept, False


def _tokenized(folder: Path, run: Run, text: str | None) -> tuple[Any, Tensor]:
    """A new text's tokenizer and ids, kept with the run; without one, those kept.

    They are not made anew: another Python's library has another text.
    """
    place, path = folder / TOKENIZER, folder / IDS
    if text is not None:
        tokenizer = make_tokenizer(text, run.shape.vocab)
        tokenizer.save_pretrained(place)
        np.save(path, token_ids(tokenizer, text).numpy())
    return tokenizer_of(place), torch.from_numpy(np.load(path, allow_pickle=False))


def _sampled_loss(tokenizer: Any, corpus: Corpus, block: int) -> Evaluate:
    """Bits per byte of some blocks of the held-out text, evenly spread over it."""
    rows, sizes = blocks_and_bytes(tokenizer, corpus.held_out, block, SAMPLE_BLOCKS)
    total = float(sizes.sum())

    def loss(model: Any) -> float:
        return round(float(block_nats(model, rows).sum()) / math.log(2) / total, 5)

    return loss


def _about(run: Run, trainer: Trainer, corpus: Corpus) -> dict[str, Any]:
    """What run.json tells of a training run and of its text."""
    return {
        "run": run.to_dict(),
        "steps": trainer.step,
        "tokens": trainer.step * run.how.batch * run.how.block,
        "text": {
            "source": corpus.source,
            "train_bytes": len(corpus.train.encode()),
            "train_tokens": len(trainer.blocks.ids),
            "train_sha256": corpus.train_sha256,
            "held_out_bytes": len(corpus.held_out.encode()),
            "held_out_sha256": corpus.held_out_sha256,
        },
    }

"""`train`: a language model of a given shape, from text to a folder that loads.

A run lives in a folder. It can be stopped at any moment, goes on from its last
checkpoint, and can be finished at any step: learning rates then shrink to nothing over
some last steps (a trapezoid, not a cosine, because the end need not be known before).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastlab import machine
from fastlab.checkpoints import load
from fastlab.learning.checkpoint import export_model, write_json
from fastlab.learning.likelihood import block_nats, text_loss
from fastlab.learning.loop import Trainer, Training, next_token_loss
from fastlab.learning.session import OnRow, Session, summary_of
from fastlab.learning.text import Corpus, corpus_of
from fastlab.learning.tokens import (
    Blocks,
    block_bytes,
    encode,
    load_ids,
    make_tokenizer,
    save_ids,
    token_ids,
    whole_blocks,
)
from fastlab.models import build
from fastlab.spec import ModelShape, Point

SETTINGS, TOKENIZER, IDS = "settings.json", "tokenizer", "train.npy"
SAMPLE_BLOCKS = 24  # held-out blocks looked at while training goes on
SMALL = ModelShape(
    *("llama", 12, 192, 6, 2, 32, 512),
    vocab=2048,
    max_positions=1024,
    tied=True,
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
        """Plain JSON that `from_dict` reads."""
        plain = asdict(self)
        return plain | {"shape": self.shape.to_dict(), "text": list(self.text)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Run:
        """The run whose `to_dict` is `data`."""
        made = {
            "shape": ModelShape(**data["shape"]),
            "how": Training(**data["how"]),
            "text": tuple(data["text"]),
        }
        return cls(**(data | made))


@dataclass
class Opened:
    """A run that is open: its text, its tokenizer and its session."""

    run: Run
    corpus: Corpus
    tokenizer: Any
    session: Session


def train(
    folder: str | Path,
    run: Run | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    finish: bool = False,
    on_row: OnRow | None = None,
    out: str | Path | None = None,
) -> list[dict[str, float]]:
    """Train in `folder`, begin or go on, and write the model to `out` at the end.

    run: what to train; None = what the folder holds. steps in all, or minutes of work
    in all; with neither it goes on until it is stopped. finish: shrink learning rates
    from the last checkpoint on and end (steps: over so many). Returns the loss curve.
    out: by default `folder`/final. Raises ValueError where the folder holds another
    run, or where the text is shorter than one block.
    """
    opened = open_run(folder, run)
    session = opened.session
    if finish:
        session.finish(steps)
    elif steps is not None:
        session.plan(steps)
    session.run(on_row, minutes)
    export_run(opened, Path(out or Path(folder) / "final"))
    return session.curve.rows


def open_run(folder: str | Path, run: Run | None = None) -> Opened:
    """A new run, or the one in the folder at its last checkpoint."""
    folder = Path(folder)
    run, is_new = _agreed(folder, run)
    corpus = corpus_of(run.text)
    read = _read_text if is_new else _kept_text
    tokenizer, ids = read(folder, run, corpus)
    blocks = Blocks(ids, run.how.block, run.how.batch, run.how.seed)
    held_out = _sampled_loss(tokenizer, corpus.held_out, run.how.block)
    model = build(Point(run.shape, weights=f"random:{run.how.seed}"), run.device)
    trainer = Trainer(model, blocks, next_token_loss(model), run.how)
    if is_new:  # last, so that what was refused leaves no run behind
        write_json(folder / SETTINGS, run.to_dict())
    session = Session(trainer, folder, run.save_every_s)
    session.evaluate, session.evaluate_every = (
        lambda: held_out(model),
        run.evaluate_every,
    )
    return Opened(run, corpus, tokenizer, session)


def _agreed(folder: Path, run: Run | None) -> tuple[Run, bool]:
    """The run to work on, and whether the folder does not hold it yet."""
    path = folder / SETTINGS
    if not path.exists():
        return run or Run(), True
    kept = Run.from_dict(json.loads(path.read_text(encoding="utf-8")))
    if run is not None and run != kept:
        mine, its = _settings(run), _settings(kept)
        other = [f"{n}={its[n]!r}, not {mine[n]!r}" for n in its if its[n] != mine[n]]
        raise ValueError(
            f"{folder} holds a run with {'; '.join(other)}: go on with it without "
            "options, or take another folder"
        )
    return kept, False


def _settings(run: Run) -> dict[str, Any]:
    """All of a run's settings by name, those of its shape and its training too."""
    plain = asdict(run)
    return plain.pop("shape") | plain.pop("how") | plain


def _read_text(folder: Path, run: Run, corpus: Corpus) -> tuple[Any, Any]:
    """A new tokenizer and the training text's ids, kept with the run."""
    tokenizer = make_tokenizer(corpus.train, run.shape.vocab)
    ids = token_ids(tokenizer, corpus.train)
    tokenizer.save_pretrained(folder / TOKENIZER)
    save_ids(folder / IDS, ids)
    return tokenizer, ids


def _kept_text(folder: Path, run: Run, corpus: Corpus) -> tuple[Any, Any]:
    """What `_read_text` kept: another Python's library has another text."""
    from transformers import AutoTokenizer

    place = str(folder / TOKENIZER)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    return tokenizer, load_ids(folder / IDS)


def _sampled_loss(tokenizer: Any, text: str, block: int) -> Callable[[Any], float]:
    """Bits per byte of some blocks of the held-out text, evenly spread over it."""
    ids, starts = encode(tokenizer, text)
    rows = whole_blocks(ids, block)
    sizes = block_bytes([*starts, len(text.encode())], len(rows), block)
    every = max(1, len(rows) // SAMPLE_BLOCKS)
    sample, total = rows[::every], float(sizes[::every].sum())

    def loss(model: Any) -> float:
        return round(float(block_nats(model, sample).sum()) / math.log(2) / total, 5)

    return loss


def export_run(opened: Opened, out: Path) -> None:
    """Write the model in bf16, its tokenizer and run.json, as judged when read back."""
    trainer = opened.session.trainer
    export_model(trainer.model, opened.tokenizer, out)
    model, tokenizer = load(out, opened.run.device)
    judged = text_loss(model, tokenizer, opened.corpus.held_out, opened.run.how.block)
    environment = machine.environment(opened.run.device)
    write_json(
        out / "run.json",
        {
            "command": environment["command"],
            "versions": environment["versions"],
            "device": environment["device"],
            "run": opened.run.to_dict(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": trainer.step,
            "tokens": trainer.step * opened.run.how.batch * opened.run.how.block,
            "seconds": round(trainer.seconds, 1),
            "text": {
                "source": opened.corpus.source,
                "train_bytes": len(opened.corpus.train.encode()),
                "train_tokens": len(trainer.blocks.ids),
                "train_sha256": opened.corpus.train_sha256,
                "held_out_bytes": len(opened.corpus.held_out.encode()),
                "held_out_sha256": opened.corpus.held_out_sha256,
            },
            "held_out": asdict(judged),
            "curve": summary_of(opened.session.curve.rows),
        },
    )

"""A live generation: text that appears as it is made, and how fast it came."""

from __future__ import annotations

import html
import math
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.notebook.progress import PAUSE_S, NotebookLine, in_notebook
from fastlab.spec.point import Point
from fastlab.spec.shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd

# Modules of the standard library that the small model reads: 0.4 MB of Python.
READ = ("argparse", "tempfile", "pathlib", "datetime", "inspect", "socket", "typing")
TALKER = ModelShape(
    *("llama", 2, 128, 4, 2, 32, 384), vocab=512, max_positions=512, tied=True
)
STYLE = "display:block;font-family:monospace;white-space:pre-wrap"


def train_tiny_lm(seconds: float, device: str = "cpu") -> tuple[Any, Any]:
    """A model of 0.6 M parameters and its tokenizer, trained now on Python's sources.

    So few seconds teach it how code looks and nothing of what it means.
    """
    from fastlab.learning.loop import Trainer, Training, next_token_loss
    from fastlab.learning.tokens import Blocks, make_tokenizer, token_ids
    from fastlab.models import build

    text = sources()
    tokenizer = make_tokenizer(text, TALKER.vocab)
    how = Training(batch=16, block=64, warmup=10)
    blocks = Blocks(token_ids(tokenizer, text), how.block, how.batch, how.seed)
    model = build(Point(TALKER), device).train().requires_grad_(True)
    trainer = Trainer(model, blocks, next_token_loss(model), how)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        trainer.advance()
    return model.eval().requires_grad_(False), tokenizer


def sources() -> str:
    """What the small model reads."""
    files = [spec.origin for name in READ if (spec := find_spec(name)) and spec.origin]
    return "\n\n".join(Path(file).read_text(encoding="utf-8") for file in files)


def tiny_lm_folder(seconds: float) -> Path:
    """The folder of such a model, under results/: trained once, then kept."""
    from fastlab.checkpoints import without_bars
    from fastlab.learning.checkpoint import export_model
    from fastlab.notebook.run import results_root

    folder = results_root() / "small-model" / f"{seconds:g}s"
    if not (folder / "tokenizer.json").exists():
        trained = train_tiny_lm(seconds)
        with without_bars():
            export_model(*trained, folder)
    return folder


def stream_text(
    model: Any, tokenizer: Any, prompt: str, new_tokens: int, **how: Any
) -> pd.DataFrame:
    """Generate text, shown piece by piece while it is made; returns how fast it came.

    `how` goes to `stream` (runtime, unroll, sampling, stop). One line: tokens, ttft_ms
    (prompt to first token), tpot_ms (each later one), tokens_per_s, why it ended.
    """
    import pandas as pd

    from fastlab.runtime.streaming import stream

    pieces = stream(model, tokenizer, prompt, new_tokens, **how)
    output, text, last = NotebookLine() if in_notebook() else None, "", 0.0
    for piece in pieces:
        text += piece
        if output and time.monotonic() - last >= PAUSE_S:
            output.write(_markup(prompt, text))
            last = time.monotonic()
    if output:
        output.write(_markup(prompt, text))
    speed = pieces.speed
    assert speed is not None
    row = {"runtime": how.get("runtime", "eager"), "tokens": speed.tokens}
    row |= {"ttft_ms": 1e3 * speed.ttft_s, "tpot_ms": 1e3 * (speed.tpot_s or math.nan)}
    row |= {"tokens_per_s": speed.tokens_per_s, "ended": speed.ended}
    return pd.DataFrame([row | {"compile_s": speed.compile_s}])


def _markup(prompt: str, text: str) -> str:
    written = f"<b>{html.escape(prompt)}</b>{html.escape(text)}"
    return f'<span style="{STYLE}">{written}</span>'

"""A live generation: text that appears as it is made, and how fast it came."""

from __future__ import annotations

import html
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.runtime.streaming import Speed, stream
from fastlab.spec.point import Point
from fastlab.spec.shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd

# Modules of the standard library that the small model reads: 0.4 MB of Python.
READ = ("argparse", "tempfile", "pathlib", "datetime", "inspect", "socket", "typing")
PAUSE_S = 0.1  # between two pictures of the text: drawing it takes time too
TALKER = ModelShape(
    *("llama", 2, 128, 4, 2, 32, 384), vocab=512, max_positions=512, tied=True
)


def train_tiny_lm(seconds: float, device: str = "cpu") -> tuple[Any, Any]:
    """A model of 0.6 M parameters and its tokenizer, trained now on Python's sources.

    So few seconds teach it how code looks and nothing of what it means.
    """
    from fastlab.learning.loop import Trainer, Training, next_token_loss
    from fastlab.learning.tokens import Blocks, make_tokenizer, token_ids
    from fastlab.models import build

    text = _sources()
    tokenizer = make_tokenizer(text, TALKER.vocab)
    how = Training(batch=16, block=64, warmup=10)
    blocks = Blocks(token_ids(tokenizer, text), how.block, how.batch, how.seed)
    model = build(Point(TALKER), device).train().requires_grad_(True)
    trainer, began = (
        Trainer(model, blocks, next_token_loss(model), how),
        time.monotonic(),
    )
    while time.monotonic() - began < seconds:
        trainer.advance()
    return model.eval().requires_grad_(False), tokenizer


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


def _sources() -> str:
    from importlib.util import find_spec

    found = [find_spec(name) for name in READ]
    files = [spec.origin for spec in found if spec and spec.origin]
    texts = []
    for file in files:
        with open(file, encoding="utf-8") as source:
            texts.append(source.read())
    return "\n\n".join(texts)


def stream_text(
    model: Any, tokenizer: Any, prompt: str, new_tokens: int, **how: Any
) -> pd.DataFrame:
    """Generate text, shown piece by piece while it is made; returns how fast it came.

    `how` goes to `stream` (runtime, unroll, sampling, stop). One line: tokens, ttft_ms
    (prompt to first token), tpot_ms (each later one), tokens_per_s, why it ended.
    """
    write, pieces = _writer(), stream(model, tokenizer, prompt, new_tokens, **how)
    text = ""
    for piece in pieces:
        text += piece
        write(prompt, text)
    write(prompt, text, final=True)
    assert pieces.speed is not None
    return _table(pieces.speed, how.get("runtime", "eager"))


def _table(speed: Speed, runtime: str) -> pd.DataFrame:
    import pandas as pd

    row = {"runtime": runtime, "tokens": speed.tokens, "ttft_ms": 1e3 * speed.ttft_s}
    row |= {"tpot_ms": 1e3 * (speed.tpot_s or float("nan"))}
    row |= {"tokens_per_s": speed.tokens_per_s, "ended": speed.ended}
    return pd.DataFrame([row | {"compile_s": speed.compile_s}])


def _writer() -> Any:
    """Shows prompt and text anew in one output; nothing outside notebooks."""
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return lambda *_, **__: None
    from IPython.display import HTML, display

    shown: list[Any] = []
    last = [0.0]

    def write(prompt: str, text: str, final: bool = False) -> None:
        if not final and time.monotonic() - last[0] < PAUSE_S:
            return
        last[0] = time.monotonic()
        body = f"<b>{html.escape(prompt)}</b>{html.escape(text)}"
        style = "white-space:pre-wrap;border-left:3px solid #ccc;padding-left:8px"
        markup = HTML(f'<pre class="fastlab-progress" style="{style}">{body}</pre>')
        if shown:
            shown[0].update(markup)
        else:
            shown.append(display(markup, display_id=True))

    return write

"""What the article names, and where each of it is settled, or that it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

OPEN = "open"

# (what the article names, where, what is there)
TOPICS = (
    ("choose the hardware", "00, 03, 10", "estimates of 22 devices, before one runs"),
    ("load a model and its tokenizer", "09, 10", "a real one; any shape at random"),
    ("complexity C(x), latency T(x)", "01, 03, 04", "exact counts; a scored estimate"),
    ("argmin of C + lambda T", OPEN, "10 asks for a target; nothing searches yet"),
    ("the case: 12 x 768 to 3 x 512", "10", "each step estimated, measured, judged"),
    ("layer pruning", "07, 10", "by influence, loss, magnitude or place"),
    ("parameter pruning", "07", "heads, FFN, width; zeros, which are no speed"),
    ("knowledge distillation", "09, 10", "what brings quality back, and how much"),
    ("fixed-point quantization", "06, 10", "int8, int4; fp8 where a GPU has it"),
    ("mixed precision", "06", "bf16, fp16, autocast, beside fp32"),
    ("weight sharing", "09", "palettes: smaller, not faster"),
    ("loop unrolling", "08", "several decode steps in one compiled call"),
    ("cache management", "08", "none, dynamic, static, int8; prefixes reused"),
    ("better matrix, attention code", "03, 08", "roofs and runtimes side by side"),
    ("parallel hardware", "03, 06", "batches; several devices at once are open"),
    ("test, record, tune, repeat", "02, 05, 10", "timed steps; the loop is yours"),
    ("stability across platforms", "06, 08", "KL and top-1 beside every row"),
    ("applications", OPEN, "no scenario has its lengths and latency yet"),
    ("tools", "all", "JupyterLab and Colab; no logging service is attached"),
    ("DeepSpeed, XLA, TPU", OPEN, "no other engine stands in the tables yet"),
    ("edge computing", OPEN, "CPU rows; nothing is exported yet"),
    ("speed against accuracy", "06 to 10", "no time without its quality"),
)


def article_topics() -> pd.DataFrame:
    """A line for each of the 22 things: its number, name, notebooks, what is there."""
    import pandas as pd

    lines = [(n, *line) for n, line in enumerate(TOPICS, start=1)]
    columns = ["no.", "the article names", "notebook", "there is"]
    return pd.DataFrame(lines, columns=columns)

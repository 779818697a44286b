"""Alt texts of the figures of distilling, made from the numbers that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastlab.view.plots.distilling import label

if TYPE_CHECKING:
    import pandas as pd


def recovery(table: pd.DataFrame, dense: float, caption: str) -> str:
    """The alt text of plots.recovery()."""
    each = "; ".join(
        f"{name} from {own['bits_per_byte'].iloc[0]:.3f} to "
        f"{own['bits_per_byte'].iloc[-1]:.3f} after {own['step'].iloc[-1]} steps, "
        f"{own['of_dense'].iloc[-1] - 1:+.1%} of the dense model"
        for name, own in table.groupby("student", sort=False)
    )
    return (
        "Line chart in two panels: bits per byte on held-out text against steps of "
        f"learning. Dense model {dense:.3f}. {each}. {caption}."
    )


def students(runs: pd.DataFrame, pairs: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.students()."""
    reached = "; ".join(
        f"{_words(run)}: {run['bits_per_byte']:.3f} bits per byte"
        for _, run in runs.iterrows()
    )
    moved = "; ".join(
        f"{_words(row)} {_blocks(row)}{row['whole'] - 1:+.1%} on the whole text"
        for _, row in pairs.iterrows()
    )
    return (
        "Three panels: loss against steps of learning from the text and from the "
        "teacher, log steps; and each small model's bits per byte over the dense "
        f"model's. Reached: {reached or 'nothing stored yet'}. Over the dense model: "
        f"{moved or 'nothing stored yet'}. {caption}."
    )


def _words(run: pd.Series) -> str:
    return label(run).replace("\n", ", ")


def _blocks(row: pd.Series) -> str:
    """What was judged on the blocks at hand, before and after."""
    names = ("before", "after")
    found = [f"{row[n] - 1:+.1%} {n}" for n in names if np.isfinite(row[n])]
    return f"{', '.join(found)} on the blocks, " if found else ""


def softened(table: pd.DataFrame, text: str) -> str:
    """The alt text of plots.softened()."""
    names = [name for name in table.columns if name != "token"]
    each = "; ".join(f"{name}: {_shares(table, name)}" for name in names)
    return (
        "Dot charts with one log scale, one a temperature: the teacher's next token "
        f"after {text!r}. {each}."
    )


def _shares(table: pd.DataFrame, name: str) -> str:
    pairs = zip(table["token"], table[name], strict=True)
    return ", ".join(f"{token} {share:.1%}" for token, share in pairs)

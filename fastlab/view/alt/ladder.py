"""The alt text of the ladder, made from the numbers that its figure shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.view.plots.ladder import label, numbers, placing
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd


def rungs(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.rungs(): each rung in the order of the figure."""
    placed = placing(table)
    groups = [
        f"{group}: {'; '.join(_rung(row) for _, row in rows.iterrows())}"
        for group, rows in placed.groupby("group", sort=False)
    ]
    return (
        "Bars, one for each way to decode, in tokens per second, measured with the "
        "estimate beside, then the ratio over transformers' eager decoding (predicted) "
        f"and the KL to fp32 ({caption}). {'. '.join(groups)}."
    )


def _rung(row: pd.Series) -> str:
    name = label(row["rung"])
    if row["status"] != "ok":
        return f"{name} {row['status']}, {row['reason']}"
    said = list(numbers(row).values())
    ends = f"estimated {digits(row['estimated_per_s'])}, {said[0]}, KL {said[-1]}"
    return f"{name} {digits(row['tokens_per_s'])} ({ends})"

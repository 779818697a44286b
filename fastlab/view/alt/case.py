"""Alt texts of the figures of notebook 10, made from the numbers that they show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastlab.view.plots.precisions import known
from fastlab.view.tables.claims import CLAIM
from fastlab.view.tables.targets import first_under
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd


def staircase(paths: Mapping[str, pd.DataFrame], caption: str) -> str:
    """The alt text of plots.staircase()."""
    each = " ".join(f"{name}: {_path(table)}." for name, table in paths.items())
    return (
        "Staircases, log scale: times faster than the dense fp32 model after each "
        "step, by the article, by FLOPs, estimated and measured; quality below. "
        f"{each} {caption}."
    )


def _path(table: pd.DataFrame) -> str:
    return "; ".join(_step(row) for _, row in table.iterrows()) or "nothing was run"


def _step(row: pd.Series) -> str:
    named = {"printed": "article", "formula": "its formula", "counted": "FLOPs"}
    named |= {"estimated": "estimated", "measured": "measured"}
    told = [
        f"{word} {times(row[f'{what}_gain'])}"
        for what, word in named.items()
        if known(row[f"{what}_gain"])
    ]
    ms = f" ({digits(row['measured_ms'])} ms)" * known(row["measured_ms"])
    missing = "" if known(row["measured_ms"]) else f", {row['status']}"
    return f"{row['step']} {row['built']}, {', '.join(told)}{ms}{missing}{_lost(row)}"


def _lost(row: pd.Series) -> str:
    if known(row["bits_per_byte"]):
        return f", {row['bits_per_byte']:.2f} bits per byte"
    if known(row["kl_nats"]) and row["kl_nats"]:
        return f", KL {row['kl_nats']:.2g} of random logits"
    return ""


def claims(lines: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.claims()."""
    each = "; ".join(
        f"{row['path']}, {row['by']} {times(row['gain'])}"
        for _, row in lines.iterrows()
        if row["by"] != CLAIM
    )
    return (
        "Bar chart, log scale: total speed-ups over the dense fp32 model. The article "
        f"claims thousands. {each or 'Nothing else is known'}. {caption}."
    )


def targets(table: pd.DataFrame, target_ms: float, title: str) -> str:
    """The alt text of plots.targets()."""
    firsts = first_under(table, target_ms)
    each = "; ".join(f"{device} {step or 'no step'}" for device, step in firsts.items())
    return (
        "Table of estimated milliseconds, devices by steps. First step under "
        f"{digits(target_ms)} ms: {each}. {title}."
    )

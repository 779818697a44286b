"""Alt texts of the figures of counts, made from the numbers that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.cost.operations import BYTES, PARTS
from fastlab.view.numbers import factor, si
from fastlab.view.plots.count import meeting
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd


def flop_shares(lengths: pd.DataFrame, widths: pd.DataFrame) -> str:
    """The alt text of count_plots.flop_shares()."""
    return (
        "Two stacked bar charts of the share of the FLOPs by part of the model. "
        f"Against prompt length: {_ends(lengths)}; attention equals the MLP at "
        f"{meeting(lengths):,.0f} tokens. Against hidden size: {_ends(widths)}."
    )


def _ends(table: pd.DataFrame) -> str:
    return ", then ".join(
        f"at {row.iloc[0]:,.0f} " + ", ".join(f"{p} {row[p]:.0%}" for p in PARTS)
        for _, row in table.iloc[[0, -1]].iterrows()
    )


def bytes_moved(table: pd.DataFrame) -> str:
    """The alt text of count_plots.bytes_moved()."""
    calls = "; ".join(
        f"{row['phase']} of batch {row['batch']} at {row['prompt_len']:,} tokens: "
        + ", ".join(f"{kind} {digits(row[kind])}" for kind in BYTES)
        + f", {digits(row['FLOP per byte'])} FLOPs for each byte"
        for _, row in table.iterrows()
    )
    return f"Stacked bars of the GB moved through memory by kind. {calls}."


def factors(now: dict[str, float], start: dict[str, float], title: str) -> str:
    """The alt text of count_plots.factors()."""
    each = "; ".join(
        f"{name.partition('|')[0]} {factor(now[name] / start[name])}, "
        f"now {si(now[name], name.partition('|')[2])}"
        for name in now
    )
    return f"Each count as a factor of the start, log axis. {title}: {each}."

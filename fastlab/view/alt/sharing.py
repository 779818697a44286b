"""Alt texts of the figures of shared weights, made from the numbers they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd


def stored(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.stored()."""
    each = "; ".join(
        f"{row['kind']} {row['bits']} bits: {row['bits_per_weight']:.2f} stored, "
        f"{row['sqnr_db']:.1f} dB, KL {row['kl_nats']:.2g}"
        for _, row in table.iterrows()
    )
    return (
        "Two line charts against bits per weight as stored, log scale: SQNR in dB, and "
        f"KL against the dense model in nats, log scale. {each}. {caption}."
    )


def lookups(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.lookups()."""
    each = "; ".join(
        f"{row['storage']} {row['phase']} {digits(row['measured_ms'])} ms"
        f"{_gain(row)}, {digits(row['weights_mb'])} MB"
        for _, row in table.iterrows()
    )
    return (
        "Dot chart, log scale, a line for each way to store weights: milliseconds of "
        f"each phase, and MB of all weights. {each or 'Nothing measured'}. {caption}."
    )


def _gain(row: pd.Series) -> str:
    gain = row["measured_gain"]
    if str(row["storage"]).startswith("dense") or gain != gain:
        return ""
    return f", speed-up {times(gain)} over its dense row"

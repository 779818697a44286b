"""Numbers as people read them in figures, captions and alt texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def digits(value: float) -> str:
    """A number with three significant digits and no exponent: 0.0123, 4.57, 1230."""
    if not value or not np.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{decimals}f}"


def times(ratio: float) -> str:
    """A ratio read the same way on both sides of one: 1.25 is ×1.25, 0.8 is ÷1.25."""
    return f"×{digits(ratio)}" if ratio >= 1 else f"÷{digits(1 / ratio)}"


def within(rows: pd.DataFrame, factor: float) -> str:
    """How many ratios lie within a factor of one: "12 of 54 within ×1.25"."""
    near = np.abs(np.log(rows["ratio"].to_numpy(float))) <= np.log(factor)
    return f"{near.sum()} of {len(rows)} within ×{factor:g}"


def name_of(row: pd.Series) -> str:
    """A row's model, format and phase: "llama 8x768 fp32 prefill"."""
    size = f"{row['layers']}x{row['hidden']}"
    return f"{row['family']} {size} {row['precision']} {row['phase']}"


def samples(rows: pd.DataFrame) -> str:
    """How many points were measured, and with how many samples each, in words."""
    n = rows["n"].dropna().astype(int)
    if n.empty:
        return "no point measured"
    each = f"{n.min()} to {n.max()}" if n.min() < n.max() else f"{n.min()}"
    return f"{len(n)} points, medians of {each} samples"


def nothing(rows: pd.DataFrame) -> str:
    """Why there is nothing to compare, by the status of the rows."""
    counts = rows["status"].value_counts()
    return "nothing measured: " + ", ".join(f"{n} {s}" for s, n in counts.items())

"""Rows for reading: which columns, how numbers are written, and what stands behind.

Numbers look the same in notebooks, figures and the terminal: see `written`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from fastlab.rows import QUESTION
from fastlab.words import digits, factor, percent, times

SHAPE = ("family", "layers", "hidden", "precision", "phase")  # what is read first
FOUND = (
    *("estimated_ms", "measured_ms", "ratio", "ttft_ms", "tpot_ms", "tokens_per_s"),
    *("n", "status", "rates"),
)


def short(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that people read first, and what else tells the rows apart."""
    first = [name for name in SHAPE if name in rows]
    apart = [name for name in tells_apart(rows, first) if name not in first]
    found = [name for name in FOUND if name in rows]
    return rows[[*first, *apart, *found]].dropna(axis="columns", how="all")


def tells_apart(rows: pd.DataFrame, first: Sequence[str] = SHAPE) -> list[str]:
    """Fields of a point without which rows alike in the first ones look the same."""
    names: list[str] = []
    for field in (field for field in QUESTION if field in rows and field not in first):
        shown = [*first, *names]
        if _kinds(rows, [*shown, field]) > _kinds(rows, shown):
            names.append(field)
    return names


def _kinds(rows: pd.DataFrame, names: list[str]) -> int:
    return len(rows[names].drop_duplicates())


def name_of(row: Any) -> str:
    """A row's model, format and phase: "llama 8x768 fp32 prefill"."""
    size = f"{row['layers']}x{row['hidden']}"
    return f"{row['family']} {size} {row['precision']} {row['phase']}"


def sample_counts(rows: pd.DataFrame) -> str:
    """How many points were measured, and with how many samples each, in words."""
    n = rows["n"].dropna().astype(int)
    if n.empty:
        return "no point measured"
    each = f"{n.min()} to {n.max()}" if n.min() < n.max() else f"{n.min()}"
    return f"{len(n)} points, medians of {each} samples"


def sample_summary(rows: pd.DataFrame) -> str:
    """How many samples stand behind the medians, and how wide their intervals are."""
    known = rows[rows["n"].notna()]
    if known.empty:
        return "nothing measured"
    width = (known["measured_high_ms"] - known["measured_low_ms"]) / known[
        "measured_ms"
    ]
    n, half = known["n"].astype(int), width.astype(float) / 2
    return (
        f"n {n.min()} to {n.max()}, 95 % intervals ±{percent(half.median())} in the "
        f"median, ±{percent(half.max())} at most"
    )


def within(rows: pd.DataFrame, bound: float) -> str:
    """How many ratios lie within a factor of one: "12 of 54 within ×1.25"."""
    near = np.abs(np.log(rows["ratio"].to_numpy(float))) <= np.log(bound)
    return f"{near.sum()} of {len(rows)} within {factor(bound)}"


def nothing_measured(rows: pd.DataFrame) -> str:
    """Why there is nothing to compare, by the status of the rows."""
    counts = rows["status"].value_counts()
    return "nothing measured: " + ", ".join(f"{n} {s}" for s, n in counts.items())


RATIOS = ("ratio", "measured_gain", "estimated_gain", "gain", "speedup")
SHARES = (
    *("share", "top1", "mbu", "mbu_copy", "left", "sparse_ratio"),
    *("prune_layers", "prune_heads", "prune_ffn", "prune_hidden", "prune_experts"),
)


def written(name: str, value: Any) -> str:
    """A table's value as it is read everywhere: ratios ×1.19, shares 21 %, digits."""
    if value is None or isinstance(value, str) or value != value:
        return value if isinstance(value, str) else ""
    if name in RATIOS:
        return times(float(value))
    if name in SHARES:
        return percent(float(value))
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    number = float(value)
    whole = number.is_integer() or abs(number) >= 1000
    return f"{number:,.0f}" if whole else digits(number)


def texts(table: pd.DataFrame, blank: str = "") -> pd.DataFrame:
    """The table's values as `written`, for a terminal."""
    return pd.DataFrame(
        {
            name: [written(str(name), value) or blank for value in table[name]]
            for name in table
        }
    )


def styled(
    table: pd.DataFrame, decimals: int | None = None, caption: str = ""
) -> Styler:
    """A table for reading: text to the left and escaped, numbers as `written`.

    With `decimals` fractions have so many: for tables of errors. The caption stands
    above.
    """
    texts: list[Any] = list(table.select_dtypes(exclude="number").columns)

    def write(name: str, value: Any) -> str:
        if decimals is not None and isinstance(value, float) and value == value:
            return f"{value:z,.{decimals}f}"  # z: no -0.0
        return escape(written(name, value), quote=False)

    style = table.style.format({n: partial(write, str(n)) for n in table}).hide()
    style = style.format_index(escape="html", axis="columns")
    style = style.set_properties(subset=texts, **{"text-align": "left"})
    if caption:
        style = style.set_caption(escape(caption, quote=False))
    heads: list[Any] = [{"selector": "th", "props": "text-align: left"}]
    return style.set_table_styles(dict.fromkeys(texts, heads), overwrite=False)

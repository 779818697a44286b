"""What the article's path comes to: each step's own factor, and all together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastlab.view.tables.case import LAST, SOURCES
from fastlab.view.words import times

if TYPE_CHECKING:
    import pandas as pd

THOUSANDS = 2000.0  # the least that "thousands of times" can mean
TOLD = {
    "printed": "the article's numbers",
    "formula": "its formula, worked out",
    "counted": "FLOPs, counted",
    "estimated": "time, estimated",
    "measured": "time, measured",
}
CLAIM = '"thousands"'


def case_factors(*tables: pd.DataFrame) -> pd.DataFrame:
    """What each step alone makes faster, by each source: the previous over this one.

    Then what it leaves of quality: bits per byte of a text, or KL against the dense
    model where the weights are random. Each table begins anew.
    """
    import pandas as pd

    return pd.concat([_factors(table) for table in tables], ignore_index=True)


def _factors(table: pd.DataFrame) -> pd.DataFrame:
    found = table[["phase", "step", "built", "precision"]].copy()
    for what in SOURCES:
        gain = table[f"{what}_gain"].astype(float)
        found[what] = [_said(one) for one in gain / gain.shift()]
    on_text = table["bits_per_byte"].notna().any()
    what = "bits_per_byte" if on_text else "kl_nats"
    found["bits per byte" if on_text else "KL, nats"] = (
        table[what]
        .astype(float)
        .map(lambda value: "" if math.isnan(value) else f"{value:.3g}")
    )
    return found


def _said(factor: float) -> str:
    return "" if math.isnan(factor) else times(factor)


def bottom_line(paths: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The total speed-up of each path, by each source.

    paths: name -> table of `case_of`. Columns: path, by, gain, its interval where there
    is one, and its share of "thousands". The article's claim stands on top.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = [
        {"path": "the article", "by": CLAIM, "gain": THOUSANDS}
    ]
    for n, (name, table) in enumerate(paths.items()):
        # what the article says of the first path is not said again of the others
        for what in SOURCES[2 * bool(n) :]:
            lines.extend(_total(name, what, table))
    found = pd.DataFrame(lines, columns=["path", "by", "gain", "low", "high"])
    found["of thousands"] = [_share(gain) for gain in found["gain"]]
    return found


def _share(gain: float) -> str:
    return f"{100 * gain / THOUSANDS:.3g} %"


def _total(name: str, what: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The last step that this source says something of, [] where it says nothing."""
    told = table[table[f"{what}_gain"].notna()]
    if len(told) < 2:
        return []
    last = told.iloc[-1]
    line = {"path": name, "by": TOLD[what], "gain": float(last[f"{what}_gain"])}
    if what in ("estimated", "measured"):
        first = float(table[f"{what}_ms"].iloc[0])
        line["low"] = first / float(last[f"{what}_high_ms"])
        line["high"] = first / float(last[f"{what}_low_ms"])
    return [line]


def without_last(table: pd.DataFrame) -> pd.DataFrame:
    """The path as far as the article goes: the head still runs for every position."""
    return table[table["step"] != LAST]


def reached(table: pd.DataFrame) -> str:
    """The path in words: its total speed-up by each source."""
    lines = bottom_line({"": table})
    each = [
        f"{row['by']} {times(row['gain'])}"
        for _, row in lines.iterrows()
        if row["path"] == ""
    ]
    return ", ".join(each) or "nothing is known of this path"

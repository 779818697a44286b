"""Alt texts of the figures of notebook 07, made from the numbers that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.view.plots.cuts import kept_word, label
from fastlab.view.plots.precisions import known
from fastlab.view.plots.pruning import CUTS, evens, kinds_of
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd


def zeros_are_not_speed(table: pd.DataFrame, judged: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.zeros_are_not_speed()."""
    prefill, text = (t[t["phase"] == "prefill"] for t in (table, judged))
    gains = "; ".join(_gains(kind, rows) for kind, rows in kinds_of(prefill))
    lost = "; ".join(_bits(kind, rows) for kind, rows in kinds_of(text))
    return (
        "Two charts over the share of FLOPs saved, where zeros count as saved. Left, "
        f"log-log: speed-up over the dense model, with a diagonal that says as "
        f"promised: {gains or 'nothing'}. Right: bits per byte of held-out text: "
        f"{lost or 'nothing'}. {caption}."
    )


def _gains(kind: str, rows: pd.DataFrame) -> str:
    each = [
        f"{1 - 1 / row['promised']:.0%} saved {_gain(row)}"
        for _, row in rows.iterrows()
    ]
    return f"{CUTS[kind][2]}: {', '.join(each)}"


def _gain(row: pd.Series) -> str:
    text = times(row["measured_gain"]) if known(row["measured_gain"]) else row["status"]
    made = row["estimated_gain"]
    return f"{text} (estimated {times(made)})" if known(made) else text


def _bits(kind: str, rows: pd.DataFrame) -> str:
    found = rows[rows["bits_per_byte"].map(known).astype(bool)]
    each = [
        f"{1 - 1 / row['promised']:.0%} saved {row['bits_per_byte']:.2f}"
        for _, row in found.iterrows()
    ]
    return f"{CUTS[kind][2]}: {', '.join(each) or 'not judged'}"


def break_even(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.break_even()."""
    rows = table[table["kind"].isin(("csr", "zeros"))]
    each = "; ".join(
        f"{row['phase']} {row['share']:.0%} {row['kind']} {_gain(row)}"
        for _, row in rows.iterrows()
    )
    even = ", ".join(f"{phase} {at:.0%}" for phase, at in evens(table).items())
    return (
        "Two line charts over the share of zeros, log scale, dense over compressed "
        "rows: bytes by formula, and time. Even between measured shares, near: "
        f"{even or 'nowhere'}. Speed-ups: {each or 'nothing'}. {caption}."
    )


def depth_or_width(
    table: pd.DataFrame, judged: pd.DataFrame, healed: pd.DataFrame, caption: str
) -> str:
    """The alt text of plots.depth_or_width()."""
    cut = ("layers", "ffn", "hidden")
    time = [
        f"{label(row)}: {row['left']:.0%} of the parameters, {_gain(row)}"
        for _, row in table[table["kind"].isin(cut)].iterrows()
    ]
    text = judged[
        judged["kind"].isin(cut) & judged["bits_per_byte"].map(known).astype(bool)
    ]
    lost = [
        f"{label(row)}: {row['left']:.0%}, {row['bits_per_byte']:.2f} bits"
        for _, row in text.iterrows()
    ]
    again = [
        f"{row['kind']} {row['share']:.0%} after {row['distill_steps']} steps "
        f"{_start(row)}{row['bits_per_byte']:.2f}"
        for _, row in healed.iterrows()
    ]
    return (
        "Two charts over the share of the parameters that is left: time over the dense "
        f"model's, {'; '.join(time) or 'nothing'}; bits per byte, "
        f"{'; '.join(lost) or 'nothing'}. Distilled: {'; '.join(again) or 'none'}. "
        f"{caption}."
    )


def _start(row: pd.Series) -> str:
    before = row.get("before")
    return f"from {before:.2f} to " if known(before) else ""


def choices(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.choices()."""
    found = table[table["bits_per_byte"].map(known).astype(bool)]
    by = ["kind", "choice", "share"]
    mean = found.groupby(by, sort=False)["bits_per_byte"].mean()
    each = "; ".join(
        f"{row['share']:.0%} of {row['kind']} by {row['choice']} "
        f"{row['bits_per_byte']:.2f}"
        for row in mean.reset_index().to_dict("records")
        if row["kind"] in CUTS and row["choice"]
    )
    return (
        "Line charts, a panel for each kind of unit: bits per byte of held-out text "
        f"against the share cut, a curve for each way to choose. {each}. {caption}."
    )


def foretold(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.foretold()."""
    each = "; ".join(
        f"{label(row)}: {digits(row['estimated_ms'])} ms estimated, "
        f"{digits(row['measured_ms'])} measured"
        for _, row in table.iterrows()
    )
    return (
        "Dot chart, a line for each cut: milliseconds estimated before it was built, "
        f"with an interval, and measured; {kept_word(table)}. {each}. {caption}."
    )

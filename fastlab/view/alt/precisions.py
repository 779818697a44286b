"""Alt texts of the figures of notebook 06, made from the numbers that they show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastlab.view.plots.precisions import known
from fastlab.view.plots.promises import comparable, promise
from fastlab.view.tables.precisions import crossing
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd


def trade(table: pd.DataFrame, caption: str, baseline: str = "bf16") -> str:
    """The alt text of plots.trade()."""
    each = ". ".join(
        f"{name}: {_calls(group)}{_kept(group.iloc[0])}"
        for name, group in table.groupby("precision", sort=False)
    )
    return (
        "Dot chart, a line for each precision: milliseconds of each phase, MB of "
        "weights, KL against fp32 in nats. Speed-ups are over "
        f"{baseline}. {each}. {caption}."
    )


def _calls(group: pd.DataFrame) -> str:
    return ", ".join(f"{row['phase']} {_time(row)}" for _, row in group.iterrows())


def _time(row: pd.Series) -> str:
    made = f"{digits(row['estimated_ms'])} ms estimated" * known(row["estimated_ms"])
    if not known(row["measured_ms"]):
        return f"{row['status']} {made}".strip()
    gain = row["measured_gain"]
    text = f"{digits(row['measured_ms'])} ms"
    text += f" {times(gain)}" if known(gain) else ""
    return f"{text} ({made})" if made else text


def _kept(row: pd.Series) -> str:
    text = f", {digits(row['weights_mb'])} MB" if known(row["weights_mb"]) else ""
    if known(row["kl_nats"]) and row["kl_nats"]:
        text += f", KL {row['kl_nats']:.2g}, top-1 {row['top1']:.1%}"
    return text


def reasons(table: pd.DataFrame, device: str) -> str:
    """The alt text of plots.reasons()."""
    each = "; ".join(
        f"{row['phase']}, rows {row['rows']:,}, {row['precision']}: arithmetic "
        f"{digits(row['arithmetic ms'])}, memory {digits(row['memory ms'])}"
        for _, row in table.iterrows()
    )
    return (
        "Dot chart, log scale, a panel for each call: milliseconds that arithmetic and "
        f"memory would take alone, by precision, at the rates of {device}. {each}."
    )


def by_batch(
    curves: Mapping[str, pd.DataFrame],
    caption: str,
    baseline: str = "bf16",
    rows: pd.DataFrame | None = None,
) -> str:
    """The alt text of plots.by_batch()."""
    lines = "; ".join(
        f"{name} {_ends(curve)}" for name, curve in curves.items() if name != baseline
    )
    marks = "" if rows is None else f" Measured: {_marks(rows, baseline)}."
    return (
        f"Line chart, log-log: speed-up of a decode step over {baseline} against the "
        f"batch. Estimated: {lines or 'nothing'}.{marks} {caption}."
    )


def _ends(curve: pd.DataFrame) -> str:
    first, last = (
        f"{times(row['gain'])} at batch {row['batch']:,}"
        for _, row in curve.iloc[[0, -1]].iterrows()
    )
    turn = crossing(curve)
    inside = bool(curve["batch"].iloc[0] < turn < np.inf)
    return f"{first}, {last}" + f", slower from batch {turn:.0f} on" * inside


def _marks(rows: pd.DataFrame, baseline: str) -> str:
    found = rows[rows["measured_gain"].map(known) & (rows["precision"] != baseline)]
    each = [
        f"{row['precision']} batch {row['batch']} {times(row['measured_gain'])}"
        for _, row in found.iterrows()
    ]
    return ", ".join(each) or "nothing"


def promised(table: pd.DataFrame, caption: str, baseline: str = "bf16") -> str:
    """The alt text of plots.promised()."""
    shown = comparable(table, baseline)
    if shown.empty:
        return (
            f"An empty figure: no precision beside {baseline} was measured. {caption}."
        )
    each = ", ".join(
        f"{row['precision']} {row['phase']} batch {row['batch']} predicted "
        f"{times(row['estimated_gain'])} measured {times(row['measured_gain'])}"
        for _, row in shown.iterrows()
    )
    return (
        f"Scatter, log-log, measured against predicted speed-up over {baseline}: "
        f"{promise(shown)}. {each}. {caption}."
    )


def engines(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.engines()."""
    each = "; ".join(
        f"{name} "
        + ", ".join(f"{r['runtime']} {_time(r)}" for _, r in group.iterrows())
        for name, group in table.groupby("precision", sort=False)
    )
    return (
        "Dot chart, a line for each precision: milliseconds of a decode step, eager "
        f"and compiled. {each}. {caption}."
    )

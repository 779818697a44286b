"""Alt texts of roofs and batches, made from the numbers that they show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastlab.latency.devices import Device
from fastlab.view.numbers import si
from fastlab.view.plots.roofline import ABOVE, X, Y
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd


def roofline(table: pd.DataFrame, device: Device) -> str:
    """The alt text of plots.roofline()."""
    products = table[table[X] > 0]
    roofs = "; ".join(_roof(device, p) for p in dict.fromkeys(products["precision"]))
    each = "; ".join(
        f"{phase} {precision}: {_marks(group)}"
        for (phase, precision), group in products.groupby(
            ["phase", "precision"], sort=False
        )
    )
    return (
        "Roofline, log-log, FLOP/s against FLOP per byte, estimated for "
        f"{device.name}, memory {si(device.bandwidth, 'B/s')}. {roofs}. {each}."
    )


def _roof(device: Device, precision: str) -> str:
    peak, ridge = si(device.peak(precision), "FLOP/s"), digits(device.ridge(precision))
    return f"The {precision} roof is flat at {peak} from {ridge} FLOP per byte"


def _marks(group: pd.DataFrame) -> str:
    return ", ".join(
        f"{row['operation']} {digits(row[X])} FLOP per byte {si(row[Y], 'FLOP/s')}"
        for _, row in group.iterrows()
    )


def measured_roof(samples: pd.DataFrame, device: Device, caption: str) -> str:
    """The alt text of plots.measured_roof()."""
    each = ". ".join(
        f"{_roof(device, str(precision))}; {_shares(group)}"
        for precision, group in samples.groupby("precision", sort=False)
    )
    return (
        "Rooflines, log-log, one panel a precision, with microbenchmarks measured on "
        f"{device.name}, memory {si(device.bandwidth, 'B/s')}. {each}. {caption}."
    )


def _shares(group: pd.DataFrame) -> str:
    share = group[Y] / group["roof"]
    middle, beyond = share.median(), int((share > ABOVE).sum())
    return (
        f"of {len(group)} the median reaches {middle:.0%} of the roof, {beyond} lie "
        "above it"
    )


def batch_knee(
    curves: Mapping[str, pd.DataFrame],
    knees: Mapping[str, float],
    caption: str,
    rows: pd.DataFrame | None = None,
) -> str:
    """The alt text of plots.batch_knee()."""
    lines = "; ".join(f"{label}: {_ends(curve)}" for label, curve in curves.items())
    turns = ", ".join(f"{p} {_batch(b)}" for p, b in knees.items())
    marks = "" if rows is None else f" Measured: {_rows(rows)}."
    return (
        "Two panels against the batch, log-log: milliseconds of a decode step above, "
        f"tokens per second below. Estimated, {lines}. Linear layers reach the ridge "
        f"at batch: {turns}.{marks} {caption}."
    )


def _ends(curve: pd.DataFrame) -> str:
    full = "" if curve["fits"].all() else ", then memory is full"
    curve = curve[curve["fits"]]
    ends = " and ".join(
        f"{digits(row['ms'])} ms, {si(row['tokens_per_s'])} tokens/s at batch "
        f"{row['batch']:,}"
        for _, row in curve.iloc[[0, -1]].iterrows()
    )
    return ends + full


def _batch(batch: float) -> str:
    return f"{batch:.0f}" if np.isfinite(batch) else "never"


def _rows(rows: pd.DataFrame) -> str:
    return ", ".join(
        f"{r['precision']} batch {r['batch']} {digits(r['measured_ms'])} ms"
        for _, r in rows.iterrows()
    )

"""Sequences decoded at once: latency and throughput against the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastlab.cost.memory import RESERVE
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import gridlines, level, line, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import DASHES, color_of
from fastlab.latency.devices import Device
from fastlab.latency.whatif import knee
from fastlab.rows import compared, points_of
from fastlab.words import digits, plain, si

SHORTEST = 4  # batches in a row that are bound by the same: fewer are not named


def batch_knee(
    curves: pd.DataFrame, device: Device, rows: pd.DataFrame | None = None
) -> Figure:
    """Decode latency above, tokens per second below, against the batch; log-log.

    curves: rows as `estimated` makes them of `device`, of several batches; a column
    "series" names their lines. rows: measured ones, drawn as filled marks. A line is
    thin and pale beyond the calibrated range, and ends where memory is full. What
    bounds a step stands along the lines; a dotted line is the batch at the ridge.
    """
    curves = _described(curves, device)
    known = curves[:0] if rows is None else compared(rows)
    knees = curves.drop_duplicates("precision")
    turns = dict(zip(knees["precision"], knees["knee"], strict=True))
    widest = int(curves["batch"].max())
    ticks = [4**n for n in range(12) if 4**n <= widest]
    label = "batch (sequences decoded at once)"
    batch = Axis(label, "log", plain, ticks, (0.8, 1.25 * widest))
    ridges = [level(b, "x", color_of(p), ":") for p, b in turns.items()]
    decor = [gridlines(), *ridges]
    upper = [*_lines(curves, "estimated_ms", ENDS), *_bounds(curves)]
    upper += _marks(known, "measured_ms", "^", " measured", ends=OWN_ENDS)
    lower = [*_lines(curves, "tokens_per_s"), *_marks(known, "tokens_per_s", "^")]
    lower += _ridges(knees[knees["knee"] < widest])
    panels = [
        Panel(batch, Axis("milliseconds a step", "log", si), upper, key="upper left"),
        Panel(batch, Axis("tokens per second", "log", si), lower),
    ]
    panels = [replace(panel, decor=decor) for panel in panels]
    reached = [f"{p} at batch {digits(b)}" for p, b in turns.items() if b < np.inf]
    title = f"Decode on {device.name}"
    title += f"\nlinear layers reach the ridge: {', '.join(reached) or 'never'}"
    both = [curves, known.assign(series="measured")]
    table = pd.concat(both[: 1 + bool(len(known))], ignore_index=True)
    shown = ["series", "precision", "batch", "estimated_ms", *ENDS, "measured_ms"]
    shown += [*OWN_ENDS, "ratio", "tokens_per_s", "bound", "n", "timed", "fits", "knee"]
    look: dict[str, Any] = {"columns": 1, "share": "x", "note": device.trust}
    return Figure(panels, title, table[shown], (9.0, 6.6), **look)


def _described(curves: pd.DataFrame, device: Device) -> pd.DataFrame:
    """With tokens a second, whether a step fits, was timed, and where the ridge is.

    timed: whether calibration timed operations as large.
    """
    series = curves["precision"] + ": " + curves["prompt_len"].map("{:,} cached".format)
    named = series + ", " + curves["series"] if "series" in curves else series
    room = (1 - RESERVE) * device.memory_bytes / 1e9
    heads = {p.recipe.precision: knee(p, device) for p in points_of(curves)}
    return curves.assign(
        series=named,
        tokens_per_s=1e3 * curves["batch"] / curves["estimated_ms"],
        timed=~curves["extrapolated"].astype(bool),
        fits=curves["estimated_gb"] <= room,
        knee=curves["precision"].map(heads),
    )


def _lines(curves: pd.DataFrame, y: str, band: Any = ()) -> list[Layer]:
    """A line for each series, as far as memory reaches, and a cross where it ends."""
    layers: list[Layer] = []
    for n, (series, own) in enumerate(curves.groupby("series", sort=False)):
        look: dict[str, Any] = {"color": color_of(own["precision"].iloc[0])}
        look |= {"dash": DASHES[n % len(DASHES)], "band": band, "sure": "timed"}
        layers.append(line(own[own["fits"]], "batch", y, str(series), **look))
    ends = curves[~curves.groupby("series")["fits"].transform("all") & curves["fits"]]
    ends = ends.groupby("series", sort=False).tail(1)
    full = np.where(ends["batch"].duplicated(), "", "memory full")
    return [*layers, *_marks(ends.assign(full=full), y, "x", words="full")]


def _bounds(curves: pd.DataFrame) -> list[Layer]:
    """What bounds the step, on each stretch of a line where that is the same."""
    named = []
    for _, own in curves[curves["fits"]].groupby("series", sort=False):
        for _, part in own.groupby((own["bound"] != own["bound"].shift()).cumsum()):
            if len(part) >= SHORTEST:
                named.append(part.iloc[len(part) // 2])
    rows = pd.DataFrame(named, columns=curves.columns)
    return _marks(rows, "estimated_ms", "", words="bound")


def _marks(
    rows: pd.DataFrame, y: str, marker: str, name: str = "", **look: Any
) -> list[Layer]:
    """Marks in the colour of each precision, with a column of words or a name."""
    look |= {"marker": marker, "size": 9}
    groups = rows.groupby("precision", sort=False)
    return [
        points(own, "batch", y, name and f"{p}{name}", color=color_of(p), **look)
        for p, own in groups
    ]


def _ridges(knees: pd.DataFrame) -> list[Layer]:
    """The batch at each precision's ridge, named beside its dotted line."""
    said = knees["precision"] + " ridge\nat batch " + knees["knee"].map(digits)
    named = knees[np.isfinite(knees["knee"])].assign(said=said, batch=knees["knee"])
    return _marks(named, "tokens_per_s", "", words="said")

"""Number formats: what each buys in time and bytes, why, compiled or not, at what loss.

Rows have speed-ups and quality: over(with_quality(estimated(rows, device), known),
precision=baseline).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import clocks, formats, points
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import GREY, color_of
from fastlab.reading import name_of, nothing_measured, written
from fastlab.rows import compared
from fastlab.words import digits, percent, si, times

GAINS = ("estimated_gain", "measured_gain")
CALL = ("phase", "batch", "rows", "precision")
SHOWN = (
    *(*CALL, "runtime", "device", "status", "reason", "estimated_ms", *ENDS, "bound"),
    *("calibrated", "measured_ms", *OWN_ENDS, "n", "compile_s", "weights_mb"),
    *("kl_nats", "top1", "max_abs", *GAINS, "speedup"),
)
ALONE = {"arithmetic ms": "o", "memory ms": "s"}  # what each would take; its marker
TICKS = tuple(step * 10.0**n for n in range(-4, 6) for step in (1, 3))  # ms


def calls(rows: pd.DataFrame) -> pd.DataFrame:
    """What figures here show of rows; `rows`: tokens that each product computes."""
    tokens = rows["prompt_len"].where(rows["phase"] == "prefill", 1)
    counted = rows.assign(rows=(rows["batch"] * tokens).astype(int))
    return counted[[name for name in SHOWN if name in counted]]


def with_loss(precision: str, rows: pd.DataFrame) -> str:
    """The precision's name, with its KL against fp32 where that is known and not 0."""
    lost = [kl for kl in rows[rows["precision"] == precision]["kl_nats"].dropna() if kl]
    return f"{precision}, KL {lost[0]:.1g}" if lost else precision


def comparable(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The rows with a predicted and a measured speed-up, but the baseline's."""
    both = rows[[*GAINS]].notna().all(axis="columns")
    return rows[both & (rows["precision"] != baseline)]


def trade(rows: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """A line for each precision: ms of each phase, KL against fp32, MB stored.

    Hollow marks are estimated, with their interval; filled ones measured.
    """
    shown = calls(rows)
    each = shown.groupby("precision", sort=False, as_index=False).first()
    names = Axis("", names=list(each["precision"]))
    phases = [own for _, own in shown.groupby("phase", sort=False)]
    panels = [_clocked(own, names, baseline) for own in phases]
    others = comparable(shown, baseline)
    best = others.loc[others.groupby("phase", sort=False)["measured_gain"].idxmax()]
    fastest = [
        f"at {row['phase']} {times(row['measured_gain'])} by "
        f"{with_loss(row['precision'], shown)}"
        for _, row in best.iterrows()
    ]
    title = f"Fastest beside {baseline}: {'; '.join(fastest) or 'nothing measured'}"
    widths, size = [1.5] * len(phases) + [1.0], (10.8, 2.2 + 0.5 * len(each))
    panels.append(_quality(each, names))
    return Figure(panels, title, shown, size, widths=widths, share="y")


def _clocked(
    rows: pd.DataFrame, names: Axis, baseline: str, at: str = "precision"
) -> Panel:
    """ms of one kind of call on named lines (column `at`), and what it gains beside."""
    said = dict.fromkeys(names.names, "")
    for _, row in rows.iterrows():
        predicted, measured = (written(name, row[name]) for name in GAINS)
        gain = f"{measured} ({predicted})".removesuffix(" ()")
        gain = "baseline" if row["precision"] == baseline else gain
        known = row["measured_ms"] == row["measured_ms"]
        said[row[at]] = gain if known else str(row["status"])
    notes = [(f"over {baseline}\n(predicted)", [*said.values()])]
    axis = Axis("ms: hollow = estimated", "log", ticks=TICKS)
    title = _call(*rows[["phase", "rows"]].iloc[0])
    return Panel(axis, names, clocks(rows, at), title, notes=notes)


def _call(phase: str, rows: int) -> str:
    return f"{phase}, {rows:,} row{'s' if rows > 1 else ''}"


def _quality(each: pd.DataFrame, names: Axis) -> Panel:
    """KL on a log scale; beside it top-1 agreement, the largest difference, and MB."""
    lost = each[each["kl_nats"].astype(float) > 0]
    marks = formats(lost, "kl_nats", "precision", name="KL", marker="D")
    limits = (lost["kl_nats"].min() / 4, lost["kl_nats"].max() * 4)
    ticks = [10.0**n for n in range(-8, 3, 2)]
    axis = Axis("KL (nats)", "log", ticks=ticks, limits=limits if len(lost) else None)
    said = [
        "reference" if kl == 0 else f"{percent(same)}, {off:.2g}".removesuffix(", nan")
        for kl, same, off in each[["kl_nats", "top1", "max_abs"]].to_numpy(float)
    ]
    notes = [
        ("MB as\nstored", _texts(each, "weights_mb")),
        ("top-1,\nmax |Δ logit|", said),
    ]
    look: dict[str, Any] = {"notes": notes, "note_width": 0.4}
    return Panel(axis, names, marks, "quality lost", **look)


def _texts(rows: pd.DataFrame, name: str) -> list[str]:
    return [written(name, value) for value in rows[name]]


def per_byte(rows: pd.DataFrame) -> Figure:
    """Measured ms against the bytes that a call moves, log-log, a mark for each row.

    The line is the highest rate of all rows: a row above it waits for something else.
    """
    known = compared(rows)
    if known.empty:
        return nothing(nothing_measured(rows))
    known = known.assign(gb_per_s=known["bytes"] / known["measured_ms"] / 1e6)
    fastest = known.loc[known["gb_per_s"].astype(float).idxmax()]
    ends, rate = known["bytes"].agg(["min", "max"]), float(fastest["gb_per_s"])
    said = f"{digits(rate)} GB/s"
    layers = formats(known, "bytes", "measured_ms", ends=OWN_ENDS)
    sizes = [step * 10.0**n for n in range(3, 14) for step in (1, 2, 5)]
    moved = Axis("bytes moved", "log", lambda size: si(size, "B"), sizes)
    dashed: dict[str, Any] = {"color": GREY, "ls": "--", "lw": 1.2, "label": said}
    decor = [lambda axes: axes.plot(ends, ends / rate / 1e6, **dashed)]
    ms = Axis("measured ms", "log", ticks=TICKS)
    panel = Panel(moved, ms, layers, key="beside", decor=decor)
    names = [*CALL[:2], "precision", "bytes", "measured_ms", *OWN_ENDS, "gb_per_s"]
    title = f"The most bytes a second: {said}, {name_of(fastest)}"
    return Figure([panel], title, known[names], (8.8, 5.2))


def reasons(floors: pd.DataFrame, rows: pd.DataFrame, rates: str) -> Figure:
    """A panel for each call: what arithmetic and memory would take alone, in ms.

    floors: a line for each call (phase, batch, rows, precision), "arithmetic ms" and
    "memory ms". What is to the right decides. Filled: measured, where `rows` have it.
    """
    measured = calls(rows)[[*CALL, "measured_ms", *OWN_ENDS]]
    alone = floors.merge(measured, "left", [*CALL])
    names = Axis("", names=list(dict.fromkeys(alone["precision"])))
    axis, panels, said = Axis("ms", "log", ticks=TICKS), [], []
    for (phase, many), own in alone.groupby(["phase", "rows"], sort=False):
        call, longer = _call(phase, many), own["memory ms"] > own["arithmetic ms"]
        layers: list[Layer] = []
        for name, rows in own.groupby("precision", sort=False):
            look: dict[str, Any] = {"color": color_of(name)}
            for what, marker in ALONE.items():
                longest = rows[what].max() == rows[[*ALONE]].to_numpy().max()
                mark = look | {"marker": marker, "hollow": True, "across": (*ALONE,)}
                mark["size"] = 11 if longest else 6
                said_as = f"{name} {what.removesuffix(' ms')}"
                layers.append(points(rows, what, "precision", said_as, **mark))
            layers += clocks(rows, "precision", str(name), marker="D", size=7, **look)
        panels.append(Panel(axis, names, layers, call))
        said.append(f"{longer.sum()} of {len(own)} at {call}")
    title = f"Memory takes longer than arithmetic for {'; '.join(said)}\n"
    title += "○ arithmetic alone, □ memory alone (large: the longer), ◆ measured; "
    size = (10.8, 2.2 + 0.42 * len(names.names))
    return Figure(panels, title + rates, alone, size, share="y")


def engines(rows: pd.DataFrame, baseline: str = "bf16") -> Figure:
    """Two lines for each precision: ms of a decode step, eager and compiled.

    rows have "speedup" too, that of compiling; the one over the baseline is over its
    row in the same runtime.
    """
    shown = calls(rows)
    order = {name: n for n, name in enumerate(dict.fromkeys(shown["precision"]))}
    shown = shown.sort_values("precision", key=lambda p: p.map(order), kind="stable")
    shown = shown.assign(line=shown["precision"] + ", " + shown["runtime"])
    panel = _clocked(shown, Axis("", names=list(shown["line"])), baseline, "line")
    notes = [
        ("by\ncompiling", _texts(shown, "speedup")),
        ("seconds to\ncompile", _texts(shown, "compile_s")),
        ("KL to\nfp32", _texts(shown, "kl_nats")),
    ]
    panel = replace(panel, notes=[*panel.notes, *notes], note_width=0.21)
    fused = shown[shown["speedup"].notna()]
    gains = fused["precision"] + " " + fused["speedup"].map(times)
    title = f"By compiling: {', '.join(gains) or 'nothing measured'}"
    return Figure([panel], title, shown, (10.4, 2.0 + 0.35 * len(shown)))

"""Decoding: the ladder of its ways, rung by rung."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import bars, gridlines, points
from fastlab.figures.panels import Axis, Layer, Panel
from fastlab.figures.style import GREY, color_of
from fastlab.latency.devices import Device
from fastlab.reading import nothing_measured
from fastlab.rows import ESTIMATED, MEASURED, MISSING, points_of, with_quality
from fastlab.spec.checks import check_choice
from fastlab.spec.cuts import read_points
from fastlab.spec.formats import QUANTIZED
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.spec.unsupported import unsupported
from fastlab.words import digits, factor, percent, power, times

EAGER = "dynamic"  # transformers' eager decoding: what every rung is compared with
LOST = ("kl_nats", "top1", "max_abs")
RATES = {  # a longer time is a lower rate
    "measured_low_per_s": "measured_high_ms",
    "measured_high_per_s": "measured_low_ms",
    "estimated_per_s": "estimated_ms",
    "estimated_low_per_s": "estimated_high_ms",
    "estimated_high_per_s": "estimated_low_ms",
}
RUNG = (
    *("rung", "phase", "precision", "tokens_per_s", *RATES),
    *("speedup", "predicted_speedup", "over_dense", "mbu", "mbu_copy", "compile_s"),
    *(*LOST, *MEASURED, "flags", *ESTIMATED, "ratio", "device", "status", "reason"),
)
WHOLE = "whole generations of 64 tokens, prefill included"
# Columns beside the bars: heading -> column and how it is written.
BESIDE: dict[str, tuple[str, Callable[[float], str]]] = {
    "tokens/s": ("tokens_per_s", digits),
    "over\neager": ("speedup", factor),
    "as pre-\ndicted": ("predicted_speedup", factor),
    "over\ndense": ("over_dense", factor),
    "MBU of\nsheet": ("mbu", percent),
    "MBU of\na copy": ("mbu_copy", percent),
    "compile\nin s": ("compile_s", digits),
    "KL to fp32,\nnats": ("kl_nats", lambda kl: power(kl) if kl else "0"),
}
WHY = 52  # characters of a reason that is written where numbers would be


def ladder_points(
    shape: str | Mapping[str, Any],
    precisions: Sequence[str],
    names: Sequence[str] = ("all",),
    prompt_len: int = 128,
) -> list[Point]:
    """A point for each rung: all of the first precision, few of each further one.

    shape: one of data/points/ladder.yaml, a preset, a hub name, or shape fields. names:
    of its rungs, or "all". Quantized precisions quantize the output head too.
    ValueError for an unknown name or precision.
    """
    ladder, points = read_points("ladder"), []
    chosen = list(ladder["rungs"] if list(names) == ["all"] else names)
    if isinstance(shape, str):
        shape = dict(ladder["shapes"].get(shape, {"model": shape}))
    for precision in precisions:
        kind = "quantized" if precision in QUANTIZED else "dense"
        fields = {**dict(shape), "precision": precision, "prompt_len": prompt_len}
        fields |= {"scope": "head"} if kind == "quantized" else {}
        for name in chosen:
            check_choice("rung", name, ladder["rungs"])
            if precision == precisions[0] or name in ladder["further"][kind]:
                step = ladder["usual"] | ladder["rungs"][name]
                points.append(point_of(**(fields | step)))
    return points


def rung_of(row: Mapping[str, Any]) -> str:
    """The name of the rung that a row is, by the fields of its step; "" for none."""
    usual = read_points("ladder")["usual"]
    step = {field: row[field] for field in usual}
    for name, changed in read_points("ladder")["rungs"].items():
        if step == {field: (usual | changed)[field] for field in usual}:
            return str(name)
    return ""


def rungs(rows: pd.DataFrame, profile: Device | None = None) -> pd.DataFrame:
    """A line for each row: tokens per second, MBU, ratios, seconds to compile, KL.

    speedup is over transformers' eager decoding (EAGER) in the first precision,
    predicted_speedup the same of the estimates; over_dense is over the fastest step
    whose weights are not quantized. KL is against fp32, 0 for fp32 itself. profile:
    of the rows' device; what is missing since it cannot run there then says so.
    """
    rows = with_quality(rows)
    absent = rows[rows["status"] == MISSING] if profile else rows[:0]
    for at, point in zip(absent.index, points_of(absent), strict=True):
        if profile and (reason := unsupported(point, profile)):
            rows.loc[at, ["status", "reason"]] = "unsupported", reason
            rows.loc[at, list(ESTIMATED)] = None
    rows = rows.assign(rung=[rung_of(row) for row in rows.to_dict("records")])
    ran, tokens = rows["measured_ms"].notna(), rows["batch"] * rows["new_tokens"]
    for rate, ms in RATES.items():
        rows[rate] = 1e3 * tokens / rows[ms].astype(float)
    for name in LOST:
        rows[name] = rows[name].astype(float).where(ran)
    speed, expected = rows["tokens_per_s"].astype(float), rows["estimated_per_s"]
    dense = ~rows["precision"].isin(QUANTIZED) & (rows["phase"] == "decode")
    first = next(iter(rows["precision"]), "")
    eager = (rows["rung"] == EAGER) & (rows["precision"] == first)
    rows["speedup"] = speed / speed[eager].max()
    rows["predicted_speedup"] = expected / expected[eager].max()
    rows["over_dense"] = speed / speed[dense].max()
    return rows[list(RUNG)]


def ladder(table: pd.DataFrame, subject: str) -> Figure:
    """Tokens per second of each rung, and beside it what it gains and costs.

    `table` is rungs(). A panel for each precision, then one of whole generations. A
    rung that cannot run says why; a bar with a hatch was measured with too much spread.
    """
    whole = table["phase"] == "generate"
    line = table["rung"].str.removeprefix("generate, ")
    rows = table.assign(
        line=line.replace(read_points("ladder")["labels"]),
        group=table["precision"].where(~whole, WHOLE),
        noisy=table["flags"].astype(str).str.contains("noisy"),
    ).iloc[np.argsort(whole, kind="stable")]
    most = np.nanmax([1e-9, *rows["tokens_per_s"], *rows["estimated_per_s"]])
    known = [
        n for n, (at, _) in BESIDE.items() if n == "tokens/s" or any(rows[at] > -1)
    ]
    label = "tokens per second: bars measured, triangles estimated"
    axis, panels = Axis(label, limits=(0, 1.06 * most)), list[Panel]()
    for group, own in rows.groupby("group", sort=False):
        names, notes = Axis("", names=list(own["line"])), _beside(own, known)
        if panels:
            notes = [("", texts) for _, texts in notes]
        look: dict[str, Any] = {"decor": [gridlines("x")], "note_width": 0.2}
        panels.append(Panel(axis, names, _bars(own), str(group), "", notes, **look))
    tall = [len(panel.y.names) for panel in panels]
    high = 1.6 + 0.31 * (sum(tall) + 1.7 * len(tall))

    def place(picture: Any, _: Any) -> None:
        picture.set_layout_engine(None)  # it has no room for columns beside a panel
        gap = 1.7 * len(tall) / max(sum(tall), 1)
        picture.subplots_adjust(0.195, 0.6 / high, 0.49, 1 - 1.3 / high, hspace=gap)

    more: dict[str, Any] = {"columns": 1, "heights": tall, "share": "x"}
    more["note"] = "lines are intervals of 95 %; hatched bars are noisy"
    title = f"{subject}\n{_fastest(table)}"
    return Figure(panels, title, rows, (11, high), finish=place, **more)


def _fastest(table: pd.DataFrame) -> str:
    if table["tokens_per_s"].isna().all():
        return nothing_measured(table)
    row = table.loc[table["tokens_per_s"].astype(float).idxmax()]
    fastest = f"{row['precision']}, {row['rung']}, {digits(row['tokens_per_s'])}/s"
    if row["speedup"] != row["speedup"] or row["speedup"] == 1:  # eager itself
        return f"fastest: {fastest}"
    gains = f"{times(row['speedup'])} over eager"
    return f"fastest: {fastest}, {gains} (predicted {times(row['predicted_speedup'])})"


def _bars(rows: pd.DataFrame) -> list[Layer]:
    ran = rows[rows["tokens_per_s"].notna()]
    layers, ends = [], ("measured_low_per_s", "measured_high_per_s")
    for (precision, noisy), own in ran.groupby(["precision", "noisy"], sort=False):
        name, hatch = f"{precision}{', noisy' * noisy}", "////" * noisy
        look: dict[str, Any] = {"color": color_of(precision), "hatch": hatch}
        look |= {"ends": ends, "thick": 0.5}
        layers.append(bars(own, "tokens_per_s", "line", name, **look))
    guessed = rows[rows["estimated_per_s"].notna()]
    look = {"marker": "^", "hollow": True, "size": 6, "shift": 0.38, "color": GREY}
    look |= {"across": ("estimated_low_per_s", "estimated_high_per_s")}
    return [*layers, points(guessed, "estimated_per_s", "line", "estimated", **look)]


def _beside(rows: pd.DataFrame, headings: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Columns of numbers; in the first one, or a column alone, why a rung has none."""
    notes = []
    for heading in headings or [""]:
        name, write = BESIDE.get(heading, ("tokens_per_s", digits))
        numbers = rows[name].astype(float)
        notes.append((heading, ["" if n != n else write(n) for n in numbers]))
    reasons = rows["reason"].str.removeprefix("runtime graph ").str.partition(":")[0]
    for n, why in enumerate(rows["status"] + ": " + reasons):
        if rows["status"].iloc[n] != "ok":
            notes[0][1][n] = textwrap.shorten(why, WHY, placeholder=" …")
    return notes

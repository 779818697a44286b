"""The article's case: each step by its formula, by FLOPs, estimated and by the clock.

Speed-ups are over the first step, the dense model in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.layers import bars, drawn, formats, level, tiles
from fastlab.figures.panels import ENDS, Axis, Panel
from fastlab.figures.style import GREY, PALE, SMALL
from fastlab.latency.devices import Device
from fastlab.latency.whatif import LABEL, typical
from fastlab.rows import estimated, over
from fastlab.spec.point import Point
from fastlab.words import digits, factor, more, percent, times

THOUSANDS = 2000.0  # the least that "thousands of times" can mean
SOURCES = {
    **{"printed": "the article's numbers", "formula": "its formula, worked out"},
    **{"flops": "FLOPs, counted", "estimated": "time, estimated"},
    "measured": "time, measured",
}
ASKED = ("printed", "formula", "flops", "estimated_ms", "measured_ms")
WORDS: dict[str, Any] = {"va": "center", "color": GREY, "fontsize": SMALL}
STAIRS = {"printed": (0, (5, 2)), "formula": (0, (1, 1.5)), "flops": "-"}
FASTER = "times faster than the dense fp32 model"
MS = ["estimated_ms", *ENDS]
DATASHEETS = "nothing runs: datasheets are taken at 0.7 of their peak and 0.9 of their "
DATASHEETS += "bandwidth, estimated, not calibrated; quality is not asked here"
OTHER_16 = {"bf16": "fp16", "fp16": "bf16"}
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 2000)


def speedups(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of steps with X_gain: the dense step's X over theirs, for each of SOURCES.

    rows: step, phase and ASKED. Times also get their interval's ends, X_gain_low and
    X_gain_high.
    """
    rows = over(rows, ["phase"], ASKED, step="dense")
    for what in ("estimated", "measured"):
        for end, other in (("low", "high"), ("high", "low")):
            share = rows[f"{what}_ms"] / rows[f"{what}_{other}_ms"]
            rows[f"{what}_gain_{end}"] = (rows[f"{what}_gain"] * share).astype(float)
    return rows


def _said(write: Any, value: Any) -> str:
    return "" if value is None or value != value else write(float(value))


def staircase(rows: pd.DataFrame, model: str = "") -> Figure:
    """A panel for each phase of `speedups`: its steps downwards, gains on a log scale.

    Stairs: the article's numbers (dashed), its formula worked out (dotted), FLOPs
    (solid). Hollow marks are estimates with their interval, filled ones measured.
    Bits per byte beside them, where a text judged.
    """
    if rows.empty:
        return nothing(f"{model or 'The case'}: nothing was run, nothing is shown")
    paths = [own for _, own in rows.groupby("phase", sort=False)]
    gains = rows.filter(like="_gain").to_numpy(float)
    most = max(THOUSANDS if rows["printed"].notna().any() else 2.0, np.nanmax(gains))
    ends = 0.7 * min(1.0, float(np.nanmin(gains))), 2.5 * float(most)
    judged = bool(rows["bits_per_byte"].notna().any())
    panels = []
    for own in paths:
        panels += [_speeds(own, model, ends), *([_bits(own)] if judged else [])]
    heights = [0.8 + 0.48 * len(own) for own in paths]
    how: dict[str, Any] = {"heights": heights, "key": "outside lower center"}
    random = "random weights: KL is no quality of a trained model"
    how |= {"widths": (2.1, 1)} if judged else {"note": random}
    size = (11.0, 1.1 + sum(heights))
    # What the article prints, the total of each path by the clock, what it cost.
    printed, said = paths[0]["printed_gain"].dropna(), []
    claim = f" and prints {factor(printed.iloc[-1])}" if len(printed) else ""
    for own in paths:
        what = "measured" if own["measured_gain"].notna().any() else "estimated"
        verb = "reading" if own["phase"].iloc[0] == "prefill" else "writing"
        total, bits = (own[n].dropna() for n in (f"{what}_gain", "bits_per_byte"))
        said += [f"{what} {factor(total.iloc[-1])} {verb}"] if len(total) else []
        cost = more(bits.iloc[-1] / bits.iloc[0]) if len(bits) else ""
        said += [f"for {cost} bits per byte"] if cost else []
    title = f"The article says thousands{claim}; {', '.join(said)}"
    return Figure(panels, title, rows, size, 1 + judged, **how)


def _speeds(rows: pd.DataFrame, model: str, ends: tuple[float, float]) -> Panel:
    """One path: a line for each step, marks and stairs, and their numbers beside."""
    phase, layers = rows["phase"].iloc[0], []
    for what in ("measured", "estimated"):
        hollow = what == "estimated"
        mark: dict[str, Any] = {"hollow": hollow, "pale": hollow, "size": 9}
        mark |= {"shift": -0.13 if hollow else 0.13}
        mark["across"] = (f"{what}_gain_low", f"{what}_gain_high")
        layers += formats(rows, f"{what}_gain", "step", name=what, **mark)
    stairs = [what for what in STAIRS if rows[f"{what}_gain"].notna().sum() > 1]

    def thousands(axes: Any) -> None:
        axes.axvspan(THOUSANDS, 100 * THOUSANDS, color=PALE, zorder=0)
        text = WORDS | {"va": "top"}
        axes.text(THOUSANDS * 1.1, -0.55, "“thou-\nsands”", **text)

    for what in stairs:
        draw, pair = partial(_stair, what=what), (f"{what}_gain", "step")
        layers.append(drawn(draw, rows, *pair, SOURCES[what], "line"))
    clock = zip(rows["measured_ms"], rows["status"], strict=True)
    notes = [
        ("clock", [_said(factor, gain) for gain in rows["measured_gain"]]),
        ("ms", [_said(digits, ms) or status for ms, status in clock]),
    ]
    if rows["bits_per_byte"].isna().all():
        lost = zip(rows["kl_nats"], rows["top1"], strict=True)
        each = [f"{_said(digits, kl)} ({_said(percent, top)})" for kl, top in lost]
        notes.append(("KL (top-1)", [text.removesuffix(" ()") for text in each]))
    tokens = f"Reading {rows['prompt_len'].iloc[0]:,} tokens (prefill)"
    title = tokens if phase == "prefill" else "Writing one more (decode)"
    title = f"{model}: {title}" if model else title
    beside: dict[str, Any] = {"notes": notes, "note_width": 0.12}
    beside["decor"] = [level(1, "x"), *([thousands] if "printed" in stairs else [])]
    each_step = zip(rows["step"], rows["built"], rows["precision"], strict=True)
    names = {step: f"{step}\n{on}, {how}" for step, on, how in each_step}
    x = Axis(FASTER, "log", factor, TICKS, ends)
    return Panel(x, Axis("", names=names), layers, title, **beside)


def _stair(axes: Any, rows: pd.DataFrame, what: str) -> None:
    """A tread for each step, and the last one's number."""
    look: dict[str, Any] = {"color": GREY, "ls": STAIRS[what], "baseline": None}
    look |= {"lw": 2.2 if what == "printed" else 1.4, "label": SOURCES[what]}
    gains, edges = rows[f"{what}_gain"].to_numpy(float), np.arange(len(rows) + 1)
    axes.stairs(gains, edges - 0.5, orientation="horizontal", **look)
    last = int(np.flatnonzero(np.isfinite(gains))[-1])
    end = gains[last], last + 0.4
    axes.annotate(factor(end[0]), end, (4, 0), textcoords="offset points", **WORDS)


def _bits(rows: pd.DataFrame) -> Panel:
    """Bits per byte of each step with its interval, and how much more than dense."""
    look: dict[str, Any] = {"across": ("bits_low", "bits_high"), "marker": "D"}
    layers = formats(rows, "bits_per_byte", "step", name="", **look)
    bits = rows["bits_per_byte"].astype(float)
    said = [f"{_said(digits, b)}  {more(b / bits.iloc[0])}" for b in bits]
    names = Axis("", names=dict.fromkeys(rows["step"], ""))
    axis, decor = Axis("bits per byte (lower is better)"), [level(bits.iloc[0], "x")]
    return Panel(axis, names, layers, notes=[("over dense", said)], decor=decor)


def claims(lines: pd.DataFrame) -> Figure:
    """A bar for each total speed-up, log: claimed to measured.

    lines: path, by (a value of SOURCES), gain, its interval low and high; the first
    line is the article's "thousands". Filled bars are measured, hollow ones are not,
    hatched ones the article's; whiskers are intervals.
    """
    shares = [percent(gain / THOUSANDS) for gain in lines["gain"]]
    rows = lines.assign(total=lines["path"] + ": " + lines["by"])
    rows["of thousands"] = shares
    *_, flops, estimate, measured = SOURCES.values()
    counted, clocked = rows["by"].isin([flops, estimate]), rows["by"] == measured
    looks: dict[str, tuple[Any, dict[str, Any]]] = {
        "the article": (~counted & ~clocked, {"hollow": True, "hatch": "///"}),
        "counted or estimated": (counted, {"hollow": True}),
        "measured": (clocked, {}),
    }
    layers = [
        bars(rows[own], "gain", "total", name, color=GREY, ends=("low", "high"), **look)
        for name, (own, look) in looks.items()
    ]
    most, title = _said(times, rows[clocked]["gain"].max()), "Nothing is measured"
    title = f"Measured at most {most} of {times(THOUSANDS)}" if most else title
    said = ["at least ×2,000", *map(times, lines["gain"][1:])]
    notes = [("speed-up", said), ("of 2,000", shares)]
    ends = min(0.9, 0.7 * float(lines["gain"].min())), 1.5 * THOUSANDS
    axes = Axis(FASTER, "log", factor, TICKS, ends), Axis("", names=list(rows["total"]))
    size = (10.4, 1.8 + 0.36 * len(lines))
    panel = Panel(*axes, layers, notes=notes)
    return Figure([panel], title, rows, size, key="outside lower center")


def steps_on(steps: Mapping[str, Point], devices: Sequence[Device]) -> pd.DataFrame:
    """Estimated ms of each step on each device; NaN where it cannot run.

    Where there is no prior, datasheets are taken at typical efficiencies. A device
    without bf16 gets fp16, and the other way round.
    """
    tables = []
    for device in devices:
        able = []
        for point in steps.values():
            wanted = point.recipe.precision
            other = OTHER_16.get(wanted, wanted)
            runs = other if device.can(other) and not device.can(wanted) else wanted
            able.append(replace(point, recipe=replace(point.recipe, precision=runs)))
        known = device.calibrated or device.fitted == "prior"
        rows = estimated(able, device if known else typical(device))
        basis = device.fitted if known else LABEL
        tables.append(rows.assign(device=device.name, basis=basis, step=[*steps]))
    found = pd.concat(tables, ignore_index=True)
    found = found[["device", "basis", "step", "precision", *MS, "bound"]]
    return found.astype(dict.fromkeys(MS, float))


def controls(paths: Mapping[str, Any], prompt_len: int) -> dict[str, Any]:
    """An explorer's controls of `targets`."""
    ms = [0.2, 0.5, *(m * 10**n for n in range(4) for m in (1, 2, 5))]
    tokens = sorted({64, 256, 512, 1024, prompt_len})
    batches = [1, 4, 16, 64]
    return {"target_ms": ms, "call": [*paths], "tokens": tokens, "batch": batches}


def targets(
    paths: Mapping[str, Mapping[str, Point]],
    devices: Sequence[Device | None],
    target_ms: float,
    call: str,
    tokens: int,
    batch: int = 1,
) -> Figure:
    """Estimated ms of a path's steps: a line for each device, a column for each step.

    paths: call (a phase) -> step -> point. tokens: of the prompt, or up to the one that
    a decode step adds. Blue cells come under the target; the first of a line has a
    tick; what a device cannot run is a dash.
    """
    path, shape = paths[call], next(iter(paths[call].values())).shape
    asked: dict[str, Any] = {"batch": batch}
    asked["prompt_len"] = max(tokens - (call == "decode"), 1)
    steps = {
        step: replace(point, workload=replace(point.workload, **asked))
        for step, point in path.items()
    }
    table = steps_on(steps, [device for device in devices if device])
    under = table[table["estimated_ms"] <= target_ms].groupby("device")["step"].first()
    firsts = under.reindex(table["device"].unique(), fill_value="")
    is_first = table["device"].map(firsts) == table["step"]
    said = np.select([is_first, table["estimated_ms"].isna()], ["✓ ", "–"], "")
    look: dict[str, Any] = {"norm": lambda ms: 0.2 * (ms <= target_ms), "cmap": "Blues"}
    rows = table.assign(first=is_first, said=said)
    named = "step", "device", "estimated_ms", "estimated ms"
    basis = dict(zip(table["device"], table["basis"], strict=True))
    lines = {device: f"{device}\n({how})" for device, how in basis.items()}
    cells, x = tiles(rows, *named, words="said", **look), "step: estimated milliseconds"
    panel = Panel(Axis(x, names=[*steps]), Axis("", names=lines), [cells])
    counts = firsts.value_counts().reindex([*steps, ""]).dropna().astype(int)
    each = [f"{n} at “{s}”" if s else f"{n} at no step" for s, n in counts.items()]
    length = f"of {tokens:,} tokens" if call == "prefill" else f"step {tokens:,}"
    title = f"{shape.family} {shape.layers} x {shape.hidden}, {call} {length}, "
    title += f"batch {batch}: what comes under {digits(target_ms)} ms?\n"
    title += f"Of {len(firsts)} devices: {', '.join(each)}"
    return Figure([panel], title, rows, (9.8, 1.6 + 0.45 * len(firsts)))

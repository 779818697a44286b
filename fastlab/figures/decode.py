"""Decoding: the ladder of its ways, KV caches in bytes, prefixes, unrolled steps."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.cost.memory import peak_bytes
from fastlab.figures.explorer import Explorer, around, explore
from fastlab.figures.grammar import Figure, nothing
from fastlab.figures.labels import edge_names
from fastlab.figures.layers import bars, drawn, gridlines, line, points, stacked
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Layer, Panel
from fastlab.figures.style import BLACK, FAINT, GREY, PALE, TEXT, color_of, readable
from fastlab.latency.costs import WEIGHTS, costs_of
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.reading import nothing_measured, written
from fastlab.rows import ESTIMATED, MEASURED, MISSING, points_of, with_quality
from fastlab.spec.checks import check_choice
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point, Workload
from fastlab.spec.precision import QUANTIZED
from fastlab.spec.recipe import Recipe, kv_row_bytes
from fastlab.spec.shape import PRESETS, ModelShape
from fastlab.spec.unsupported import unsupported
from fastlab.words import digits, factor, percent, plain, power, si, times

if TYPE_CHECKING:
    import pandas as pd

LADDER = Path(__file__).parents[2] / "data" / "points" / "ladder.yaml"
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
HEADS = ("a KV head for each query head", "grouped (GQA)")  # whether grouped
DASHES, MARKS = ("-", "--", ":", "-."), ("D", "s", "o", "v")
SHORTEST, LONGEST = 128, 2**20  # contexts
MODELS = ("llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b")
FORMATS = ("bf16", "int8", "int4-g64")


# --- the ladder


@lru_cache
def _ladder() -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(LADDER.read_text(encoding="utf-8"))
    return found


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
    ladder, made = _ladder(), []
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
                made.append(point_of(**(fields | step)))
    return made


def rung_of(row: Mapping[str, Any]) -> str:
    """The name of the rung that a row is, by the fields of its step; "" for none."""
    usual = _ladder()["usual"]
    step = {field: row[field] for field in usual}
    for name, changed in _ladder()["rungs"].items():
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
    rows = with_quality(_with_refusals(rows, profile) if profile else rows)
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


def _with_refusals(rows: pd.DataFrame, device: Device) -> pd.DataFrame:
    """What the device cannot run is no longer missing, but unsupported."""
    rows, absent = rows.copy(), rows[rows["status"] == MISSING]
    for at, point in zip(absent.index, points_of(absent), strict=True):
        if reason := unsupported(point, device):
            rows.loc[at, ["status", "reason"]] = "unsupported", reason
            rows.loc[at, list(ESTIMATED)] = None
    return rows


def ladder(table: pd.DataFrame, subject: str) -> Figure:
    """Tokens per second of each rung, and beside it what it gains and costs.

    `table` is rungs(). Groups are precisions, then whole generations. A rung that
    cannot run says why; a bar with a hatch was measured with too much spread.
    """
    whole = table["phase"] == "generate"
    rows = table.assign(
        line=table["rung"] + ", " + table["precision"],
        group=table["precision"].where(~whole, WHOLE),
        noisy=table["flags"].astype(str).str.contains("noisy"),
    ).iloc[np.argsort(whole, kind="stable")]
    names: dict[str, str] = {}
    for group, own in rows.groupby("group", sort=False):
        labels = own["rung"].str.removeprefix("generate, ").replace(_ladder()["labels"])
        names |= {str(group): ""} | dict(zip(own["line"], labels, strict=True))
    label = "tokens per second: bars measured, triangles estimated"
    most = np.nanmax([1e-9, *rows["tokens_per_s"], *rows["estimated_per_s"]])
    panel = Panel(
        Axis(label, limits=(0, 1.06 * most)),
        *(Axis("", names=names), _rung_layers(rows)),
        notes=_beside(rows, list(names)),
        decor=[gridlines("x"), _headings(list(names), rows["group"])],
        note_width=0.2,
    )
    high = 1.6 + 0.31 * len(names)

    def place(picture: Any, _: Any) -> None:
        picture.set_layout_engine(None)  # it has no room for columns beside a panel
        picture.subplots_adjust(0.195, 0.6 / high, 0.49, 1 - 1 / high)

    note = "lines are intervals of 95 %; hatched bars are noisy"
    title = f"{subject}\n{_fastest(table)}"
    return Figure([panel], title, rows, (11, high), note=note, finish=place)


def _fastest(table: pd.DataFrame) -> str:
    if table["tokens_per_s"].isna().all():
        return nothing_measured(table)
    row = table.loc[table["tokens_per_s"].astype(float).idxmax()]
    fastest = f"{row['precision']}, {row['rung']}, {digits(row['tokens_per_s'])}/s"
    if row["speedup"] != row["speedup"]:
        return f"fastest: {fastest}"
    gains = f"{times(row['speedup'])} over eager"
    return f"fastest: {fastest}, {gains} (predicted {times(row['predicted_speedup'])})"


def _rung_layers(rows: pd.DataFrame) -> list[Layer]:
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


def _beside(rows: pd.DataFrame, lines: list[str]) -> list[tuple[str, list[str]]]:
    """Columns of numbers that are known; in the first one, why a rung has none."""
    notes: list[tuple[str, list[str]]] = []
    for heading, (name, write) in BESIDE.items():
        if rows[name].isna().all() and notes:
            continue
        texts = dict.fromkeys(lines, "")
        for _, row in rows.iterrows():
            if row["status"] == "ok":
                known = row[name] == row[name]
                texts[row["line"]] = write(float(row[name])) if known else "–"
            elif not notes:
                reason = row["reason"].removeprefix("runtime graph ").partition(":")[0]
                why = f"{row['status']}: {reason}"
                texts[row["line"]] = textwrap.shorten(why, WHY, placeholder=" …")
        notes.append((heading, list(texts.values())))
    return notes


def _headings(lines: list[str], groups: Sequence[str]) -> Callable[[Any], None]:
    """The group's name over its rungs, on a pale band."""

    def draw(axes: Any) -> None:
        for group in dict.fromkeys(groups):
            at, color = lines.index(group), readable(color_of(group))
            band: dict[str, Any] = {"color": PALE, "lw": 0, "clip_on": False}
            axes.axhspan(at - 0.4, at + 0.4, 0, 2.6, zorder=0, **band)
            look: dict[str, Any] = {"fontsize": TEXT, "fontweight": "bold"}
            look |= {"color": BLACK if group == WHOLE else color, "va": "center"}
            axes.text(0.01, at, group, transform=axes.get_yaxis_transform(), **look)

    return draw


# --- bytes of a KV cache


def memory_footprint(sizes: pd.DataFrame) -> Figure:
    """Bytes of a KV cache against positions: lines the formula, marks allocated.

    sizes: heads (of HEADS), cache, precision, positions, formula, allocated, same.
    Colour is the format that keys and values are kept in.
    """
    layers = []
    groups = sizes.groupby(["heads", "cache"], sort=False)
    for n, ((heads, cache), own) in enumerate(groups):
        kept = "int8" if "int8" in cache else own["precision"].iloc[0]
        name = f"{cache}, {heads}" if heads == HEADS[0] else str(cache)
        look: dict[str, Any] = {"color": color_of(kept)}
        layers += [
            line(own, "positions", "formula", name, dash=DASHES[n % 4], **look),
            points(own, "positions", "allocated", marker=MARKS[n % 4], size=7, **look),
        ]
    ticks = sorted(set(sizes["positions"]))
    panel = Panel(
        Axis("positions held (tokens)", "log", ticks=ticks),
        Axis("bytes of one sequence's KV cache", "log", _bytes),
        *(layers, "", "edge"),
        decor=[gridlines()],
    )
    same = f"{sizes['same'].sum()} of {len(sizes)}"
    title = f"The KV cache of one sequence: {same} allocated as the formula says"
    return Figure([panel], title, sizes, (9.4, 5.0))


def _bytes(value: float) -> str:
    return si(value, "B")


def kv_kinds(shape: ModelShape) -> dict[str, int]:
    """Bytes of one cached position of one sequence, by how a model may keep it."""
    heads, own = shape.heads, shape.kv_heads
    wide, packed = (
        2 * shape.layers * own * kv_row_bytes(cache, 2, shape.head_dim)
        for cache in ("dynamic", "static-int8")
    )
    every = {f"16-bit KV for all {heads} heads": wide * heads // own}
    return (every if heads != own else {}) | {"16-bit KV": wide, "int8 KV": packed}


def crossings(
    shape: ModelShape, precisions: Sequence[str], batch: int = 1
) -> pd.DataFrame:
    """Where a step reads as many bytes of KV cache as of weights, in tokens a sequence.

    context = weights (the head's too) / (batch x bytes of a cached position).
    """
    import pandas as pd

    lines = []
    for precision in precisions:
        step = _step(shape, 1, 2, precision=precision, cache="static")
        read = int(costs_of(step).totals[WEIGHTS])
        for kind, each in kv_kinds(shape).items():
            lines.append([precision, kind, batch, read, each, read / (batch * each)])
    names = ["weights", "cache", "batch", "weight bytes", "bytes a token", "context"]
    return pd.DataFrame(lines, columns=names)


def _step(shape: ModelShape, batch: int, context: int, **recipe: Any) -> Point:
    """A decode step; `context` rows in the cache, its own included."""
    scope = "head" if recipe["precision"] in QUANTIZED else "layers"
    work = Workload("decode", batch, context - 1)
    return Point(shape, work, Recipe(**recipe, scope=scope))


def crossover(rows: pd.DataFrame, title: str, context: int | None = None) -> Figure:
    """Bytes that one decode step reads against the context, log-log, all estimated.

    `rows` are crossings(). Level lines: weights by precision. Rising lines: the KV
    cache of all sequences, by how it is kept. A ring marks where both are equal;
    `context` draws a cursor.
    """
    layers, ends = [], {}
    for weights, own in rows.groupby("weights", sort=False):
        color, read = color_of(weights), float(own["weight bytes"].iloc[0])
        ends[f"{weights} weights"] = (read, readable(color))
        layers.append(_straight(own, "", color, "-", read, read))
        seen = own[own["context"].between(SHORTEST, LONGEST)]
        seen = seen.assign(tokens=seen["context"].map(si))
        ring: dict[str, Any] = {"color": color, "hollow": True, "words": "tokens"}
        ring |= {"name": f"{weights} weights"}
        layers.append(points(seen, "context", "weight bytes", **ring))
    for n, (kind, own) in enumerate(rows.groupby("cache", sort=False)):
        each = float(own["batch"].iloc[0] * own["bytes a token"].iloc[0])
        ends[str(kind)] = (each * LONGEST, BLACK)
        span = each * SHORTEST, each * LONGEST
        layers.append(_straight(own, str(kind), BLACK, DASHES[n], *span))
    tops = [end for end, _ in ends.values()]
    low = SHORTEST * (rows["batch"] * rows["bytes a token"]).min()
    limits = min(low, *tops) / 2, max(tops) * 2
    contexts = [2**n for n in range(8, 21, 2)]
    label = "context (tokens cached for each sequence)"
    x = Axis(label, "log", plain, contexts, (SHORTEST, LONGEST))

    def cursor(axes: Any) -> None:
        if context:
            axes.plot([context] * 2, limits, color=GREY, lw=1.2, ls="-.")

    y = Axis("bytes read a step", "log", _bytes, limits=limits)
    panel = Panel(x, y, layers, decor=[gridlines(), cursor])
    if context is None:
        first, last = (si(at) for at in (rows["context"].min(), rows["context"].max()))
        title += f": cache and weights weigh the same at {first} to {last} tokens"

    def name(_: Any, every: Any) -> None:
        edge_names(every[0], ends)

    return Figure([panel], title, rows, (9.8, 5.6), finish=name)


def _straight(
    rows: pd.DataFrame, name: str, color: str, dash: str, *ends: float
) -> Layer:
    """The line through rows, from the shortest context to the longest."""

    def draw(axes: Any, _: Any) -> None:
        axes.plot([SHORTEST, LONGEST], ends, color=color, lw=1.8, ls=dash)

    own = rows.sort_values("context")
    return drawn(draw, own, "context", "weight bytes", name, "line", color=color)


def kv_growth(
    model: str, device: Device, batch: int = 1, context: int = 4096
) -> Explorer:
    """Model, batch, context, weights and cache against the bytes of a decode step."""

    def make(model: str, batch: int, context: int, weights: str, cache: str) -> Figure:
        # with room for the longest context, whatever it was trained for
        shape = replace(PRESETS[model], max_positions=LONGEST + 1)
        way = "decoder" if device.kind == "cpu" else "graph"
        recipe = {"precision": weights, "cache": cache, "runtime": way}
        title = f"{model}, batch {batch}, {context:,} cached: "
        title += _read(_step(shape, batch, context, **recipe), device)
        return crossover(crossings(shape, (weights,), batch), title, context)

    return explore(
        make,
        {"model": model, "batch": batch, "context": context},
        "nothing runs: all is estimated",
        model=list(dict.fromkeys((*MODELS, model))),
        batch=around((2**n for n in range(9)), batch),
        context=around((2**n for n in range(8, 20)), context),
        weights=[name for name in FORMATS if device.can(name)] or ["fp16"],
        cache={"16 bit": "static", "int8": "static-int8"},
    )


def _read(step: Point, device: Device) -> str:
    """What a step reads, its time, and whether it fits, in two lines."""
    found, batch = estimate([step], device)[0], step.workload.batch
    weights, cache = found.weight_bytes, found.kv_read_bytes
    fits = peak_bytes(step) <= device.memory_bytes
    most = digits(device.bandwidth * batch / (weights + cache))
    way = "as one CUDA graph" if step.recipe.engine.replays else "compiled"
    return (
        f"a step reads\n{_bytes(weights)} of weights and {_bytes(cache)} of KV cache "
        f"({percent(cache / (weights + cache))})"
        f"{'' if fits else ': more than the memory of the device'}\n"
        f"{device.name}, estimated: {digits(batch / found.seconds)} tokens/s "
        f"{way}, {most} if only bytes cost time"
    )


# --- prefixes and unrolled steps


def prefixes(rows: pd.DataFrame, served: pd.DataFrame) -> Figure:
    """Left, time to first token against tokens reused; right, prompts in turn.

    rows: prefills that ran, over that without a prefix: filled marks measured, the line
    and its band estimated; served: prompt, tokens, reused, computed, hit_rate, ttft_ms.
    """
    import pandas as pd

    if rows.empty:
        return nothing("no prefill was measured")
    gains = [times(gain) if gain != 1 else "" for gain in rows["measured_gain"]]
    at, color = "prefix_len", color_of(rows["precision"].iloc[0])
    look: dict[str, Any] = {"color": color}
    own: dict[str, Any] = {"words": "gain", "ends": OWN_ENDS, **look}
    layers = [
        line(rows, at, "estimated_ms", "estimated", dash="--", band=ENDS, **look),
        points(rows, at, "estimated_ms", hollow=True, size=7, **look),
        points(rows.assign(gain=gains), at, "measured_ms", "measured", **own),
    ]
    top = 1.1 * float(rows[[ENDS[1], OWN_ENDS[1]]].max(axis=None))
    x = Axis("tokens of the prompt found in the cache", ticks=list(rows[at]))
    y = Axis("time to first token, ms", limits=(0, top))
    left = Panel(x, y, layers, key="lower left", decor=[gridlines("y")])
    last = rows.iloc[-1]
    title = f"{last[at]:g} of {last['prompt_len']:g} tokens found in the cache: "
    title += f"first token {times(last['measured_gain'])} sooner"
    names = [at, *(name for name in rows if "ed_" in name and "ms" in name)]
    table = pd.concat([rows[[*names, "ratio", "measured_gain", "n"]], served])
    both = [left, _turns(served, color)]
    return Figure(both, title, table, (10.8, 4.6), widths=(1.5, 1.0))


def _turns(turns: pd.DataFrame, color: str) -> Panel:
    """A bar of tokens for each prompt: computed filled, copied hatched; its time."""
    parts = {"reused": (FAINT, "////"), "computed": (color, "")}
    hits = [percent(rate) for rate in turns["hit_rate"]]
    spent = [digits(ms) for ms in turns["ttft_ms"]]
    notes = [("first\ntoken, ms", spent), ("hits\nso far", hits)]
    x = Axis("tokens: hatched copied, filled computed")
    y = Axis("prompts, in turn", names=[str(n) for n in turns["prompt"]])
    layers = stacked(turns, "prompt", parts, flat=True)
    return Panel(x, y, layers, "One prompt after the other", "", notes, note_width=0.3)


def unrolling(table: pd.DataFrame, subject: str, tokens: int = 8) -> Figure:
    """Above, `tokens` steps as calls of k each, to scale; below, ms a token against k.

    table: unroll, precision, compile_s, and per token ms_a_token, low, high, estimated.
    Grey = the host's part of a call, colour = the step, as fitted to the measured times
    by step + host / k; filled marks measured, hollow ones estimated.
    """
    k = table["unroll"].to_numpy(float)
    enough = len(set(k)) > 1
    host, step = np.polyfit(1 / k, table["ms_a_token"], 1) if enough else [np.nan] * 2
    table = table.assign(host_ms=host, step_ms=step, fitted=step + host / k)
    color = color_of(table["precision"].iloc[0])
    calls = [_calls(row, tokens) for _, row in table.iterrows()]
    spent = [sum(steps[-1]) for _, steps in calls]
    table = table.assign(call=[f"k = {k}" for k in table["unroll"]], all_ms=spent)

    def draw(axes: Any, _: Any) -> None:
        for y, parts in enumerate(calls):
            for pieces, face in zip(parts, (FAINT, color), strict=True):
                axes.broken_barh(pieces, (y - 0.3, 0.6), fc=face, ec="white", lw=0.8)

    label = f"ms for {tokens} tokens: calls pale, steps filled"
    upper = Panel(
        Axis(label, limits=(0, 1.03 * max(spent))),
        Axis("", names=list(table["call"])),
        [drawn(draw, table, "all_ms", "call", f"{tokens} tokens in ms", "bars")],
        notes=[
            ("ms", [digits(ms) for ms in spent]),
            ("compiled\nin s", [written("", s) for s in table["compile_s"]]),
        ],
        note_width=0.09,
    )
    one, last = table.iloc[0], table.iloc[-1]
    title = f"{subject}: {digits(one['ms_a_token'])} ms a token in calls of "
    title += f"{one['unroll']}, {digits(last['ms_a_token'])} of {last['unroll']}"
    panels, heights = [upper, _by_k(table, color)], (1.0, 1.25)
    return Figure(panels, title, table, (9.4, 6.4), columns=1, heights=heights)


def _calls(row: Any, tokens: int) -> tuple[list[Any], list[Any]]:
    """Where calls and steps begin and how long they are, in ms."""
    k, host, step = row["unroll"], max(row["host_ms"], 0.0), max(row["step_ms"], 0.0)
    if not np.isfinite(host + step):
        host, step = 0.0, row["ms_a_token"]
    calls = [(n * step + n // k * host, host) for n in range(0, tokens, k)]
    return calls, [(n * step + (n // k + 1) * host, step) for n in range(tokens)]


def _by_k(table: pd.DataFrame, color: str) -> Panel:
    k, host, step = table["unroll"], table["host_ms"].iloc[0], table["step_ms"].iloc[0]

    def fit(axes: Any, _: Any) -> None:
        fine = np.geomspace(k.min(), k.max(), 40)
        axes.plot(fine, step + host / fine, color=color, lw=1.4)

    look: dict[str, Any] = {"color": color, "ends": ("low", "high")}
    layers = [
        drawn(fit, table, "unroll", "fitted", "", "line"),
        points(table, "unroll", "estimated", "estimated", color=color, hollow=True),
        points(table, "unroll", "ms_a_token", "measured", **look),
    ]
    limits = k.min() / 1.35, k.max() * 1.35
    x = Axis("k: steps in one call", "log", ticks=list(k), limits=limits)
    top = 1.3 * float(table[["high", "estimated"]].max().max())
    y = Axis("ms a token: line step + call / k", limits=(0, top))
    return Panel(x, y, layers, key="lower left", decor=[gridlines("y")])

"""Counts: FLOPs by part of the model, bytes by kind, and factors between points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from fastlab.cost import operations as split
from fastlab.cost.memory import kv_cache_bytes, parameters
from fastlab.figures.explorer import Explorer, around, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, level, stacked
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import BLACK, STACKED
from fastlab.spec.point import Point, Workload, lengthened
from fastlab.spec.shape import GROUPED, widened
from fastlab.words import digits, factor, percent, si

FARTHEST = 64.0  # factors are drawn from 1 / 64 to 64
STEPS = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # of the start's hidden size and prompt length
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GROUPS = (1, 2, 4, 8, 16, 32)  # query heads that share one KV head
CAPTION = "counted, not measured: nothing runs, and no device is assumed"


def flop_shares(lengths: pd.DataFrame, widths: pd.DataFrame) -> Figure:
    """Two stacked bar charts: FLOP shares against prompt length, and against width.

    Both have a share for each part, and prompt_len or hidden.
    """
    first = lengths.iloc[0]
    # Per token the MLP's FLOPs stay, attention's grow with the length: one row tells.
    meeting = first["prompt_len"] * first["MLP"] / first["attention"]
    ends = " to ".join(percent(widths["head"].iloc[n]) for n in (0, -1))
    titles = f"attention equals the MLP at {meeting:,.0f} tokens", f"the head: {ends}"
    panels = [
        _stack(lengths, "prompt_len", "prompt length (tokens)", titles[0]),
        _stack(widths, "hidden", "hidden size", f"{titles[1]} of the FLOPs"),
    ]
    rows = pd.concat([lengths, widths], ignore_index=True)
    look: dict[str, Any] = {"size": (10, 4.3), "share": "y"}
    return Figure(panels, rows=rows, key="outside right center", **look)


def _stack(table: pd.DataFrame, field: str, label: str, title: str) -> Panel:
    names = {str(value): f"{value:,}" for value in table[field]}
    share = Axis("share of the FLOPs", limits=(0, 1), write=percent)
    looks = dict(zip(split.PARTS, STACKED, strict=True))
    bars = stacked(table, field, looks, thick=0.8, inside=percent)
    return Panel(Axis(label, names=names), share, bars[::-1], title)  # the top first


def bytes_moved(table: pd.DataFrame) -> Figure:
    """Stacked bars of the GB that each call moves, by kind.

    GFLOP and FLOPs per byte stand beside each bar.
    """
    short = [_call(*call) for call in zip(table["phase"], table["batch"], strict=True)]
    calls = [
        f"{call}\n{tokens:,} tokens"
        for call, tokens in zip(short, table["prompt_len"], strict=True)
    ]
    per_byte = [digits(value) for value in table["FLOP per byte"]]
    flops = [si(1e9 * value, "FLOP") for value in table["GFLOP"]]
    looks, rows = dict(zip(split.BYTES, STACKED, strict=True)), table.assign(call=calls)
    panel = Panel(
        *(Axis("GB moved through memory"), Axis("", names=calls)),
        stacked(rows, "call", looks, flat=True),
        notes=[("all FLOPs", flops), ("for each byte", per_byte)],
        note_width=0.16,
    )
    each = [f"{n} ({call})" for n, call in zip(per_byte, short, strict=True)]
    title = f"FLOPs for each byte moved: {', '.join(each)}"
    size = (9.6, 2.2 + 0.75 * len(table))
    return Figure([panel], title, rows, size, key="outside lower center")


def _call(phase: str, batch: int) -> str:
    return f"{phase}, batch {batch}" if batch > 1 else phase


def factors(start: Point, other: Point) -> Figure:
    """By what factor each count of another point is that of the start, log axis.

    Hollow marks, since all is counted; arrows where a factor lies beyond the axis.
    """
    rows = pd.DataFrame({"start": numbers(start), "now": numbers(other)})
    rows = rows.query("start > 0 and now > 0").rename_axis("count").reset_index()
    rows = rows.assign(factor=rows["now"] / rows["start"])
    records = rows.to_dict("records")
    said = [si(row["now"], _unit(row["count"])) for row in records]
    ratios = {row["count"]: factor(row["factor"]) for row in records}
    ticks, ends = [4.0**n for n in range(-3, 4)], (0.7 / FARTHEST, FARTHEST / 0.7)
    panel = Panel(
        Axis("factor against the start (grey line)", "log", factor, ticks, ends),
        Axis("", names=list(ratios)),
        [drawn(_lollipops, rows, "factor", "count", "counts", write=factor)],
        notes=[("factor", list(ratios.values())), ("now", said)],
        decor=[level(1, "x")],
    )
    main = ("all FLOPs", "weights moved", "KV cache held")
    told = ", ".join(f"{name} {ratios[name]}" for name in main if name in ratios)
    return Figure([panel], f"{_state(other)}\n{told}", rows, (9.4, 4.6))


def _lollipops(axes: Any, rows: pd.DataFrame) -> None:
    for y, ratio in enumerate(rows["factor"]):
        end = min(max(ratio, 1 / FARTHEST), FARTHEST)
        marker = "o" if end == ratio else "<" if ratio < 1 else ">"
        axes.plot([1, end], [y, y], color=BLACK, lw=1.5)
        axes.plot([end], [y], marker, ms=8, color=BLACK, mfc="white")


def _unit(name: str) -> str:
    return "" if name == "parameters" else "FLOP" if "FLOP" in name else "B"


def _state(point: Point) -> str:
    shape, work = point.shape, point.workload
    heads = f"{shape.heads} heads, {shape.kv_heads} for KV"
    call = f"{work.phase}, batch {work.batch}, {work.prompt_len:,} tokens"
    return f"{shape.layers} layers x {shape.hidden:,}, {heads}; {call}"


def numbers(point: Point) -> dict[str, int]:
    """All counts of a point by name: parameters, FLOPs, and bytes moved or held."""
    flops, sizes = split.flops_by_part(point), split.bytes_by_kind(point)
    keys_values = sizes.pop("KV read") + sizes.pop("KV written")
    return {
        **{"parameters": parameters(point.shape), "all FLOPs": sum(flops.values())},
        **{f"FLOPs of {part}": count for part, count in flops.items()},
        **{f"{kind} moved": size for kind, size in sizes.items()},
        **{"keys, values moved": keys_values, "KV cache held": kv_cache_bytes(point)},
    }


def counts(point: Point) -> Explorer:
    """Layers, width, prompt, batch, GQA group and phase against the point's counts."""
    shape, work = point.shape, point.workload
    start = {"layers": shape.layers, "hidden": shape.hidden, "batch": work.batch}
    group = shape.heads // shape.kv_heads
    start |= {"prompt_len": work.prompt_len, "queries_per_kv": group}
    whole = [f for f in STEPS if float(shape.heads * f).is_integer()]
    lengths = [n for f in STEPS if (n := int(work.prompt_len * f)) > 0]

    def groups(state: dict[str, Any]) -> list[int]:
        heads = widened(shape, state["hidden"]).heads
        sizes = around(GROUPS, group) if shape.family in GROUPED else [group]
        return [size for size in sizes if heads % size == 0]

    return explore(
        lambda **state: factors(point, changed(point, **state)),
        *(start, CAPTION),
        layers=(1, max(64, 2 * shape.layers)),
        hidden=around((int(shape.hidden * f) for f in whole), shape.hidden),
        prompt_len=around(lengths, work.prompt_len),
        batch=around(BATCHES, work.batch),
        queries_per_kv=groups,
        phase=["prefill", "decode"] if shape.family != "bert" else ["prefill"],
    )


def changed(point: Point, **state: Any) -> Point:
    """The point in another state of the explorer, with positions enough for it."""
    wide = widened(point.shape, state["hidden"])
    kv_heads = wide.heads // state["queries_per_kv"]
    shape = replace(wide, layers=state["layers"], kv_heads=kv_heads)
    work = Workload(phase=state["phase"], batch=state["batch"])
    most = replace(shape, max_positions=max(shape.max_positions, work.positions))
    return lengthened(replace(point, shape=most, workload=work), state["prompt_len"])

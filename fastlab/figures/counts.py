"""Counts: FLOPs by part of the model, bytes by kind, and factors between points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from fastlab.cost import operations as split
from fastlab.cost.memory import kv_cache_bytes, parameters
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, level, stacked
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import BLACK, STACKED
from fastlab.spec.point import Point, Workload
from fastlab.spec.shape import GROUPED, ModelShape, widened
from fastlab.words import digits, factor, percent, si

FARTHEST = 64.0  # factors are drawn from 1 / 64 to 64


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
    asked = zip(table["phase"], table["batch"], strict=True)
    short = [phase + f", batch {batch}" * (batch > 1) for phase, batch in asked]
    calls = short + table["prompt_len"].map("\n{:,} tokens".format)
    per_byte = [digits(value) for value in table["FLOP per byte"]]
    flops = [si(1e9 * value, "FLOP") for value in table["GFLOP"]]
    looks, rows = dict(zip(split.BYTES, STACKED, strict=True)), table.assign(call=calls)
    panel = Panel(
        *(Axis("GB moved through memory"), Axis("", names=list(calls))),
        stacked(rows, "call", looks, flat=True),
        notes=[("all FLOPs", flops), ("for each byte", per_byte)],
        note_width=0.16,
    )
    each = [f"{n} ({call})" for n, call in zip(per_byte, short, strict=True)]
    title = f"FLOPs for each byte moved: {', '.join(each)}"
    size = (9.6, 2.2 + 0.75 * len(table))
    return Figure([panel], title, rows, size, key="outside lower center")


def factors(start: Point, other: Point) -> Figure:
    """By what factor each count of another point is that of the start, log axis.

    Hollow marks, since all is counted; arrows where a factor lies beyond the axis.
    """
    rows = pd.DataFrame({"start": numbers(start), "now": numbers(other)})
    rows = rows.query("start > 0 and now > 0").rename_axis("count").reset_index()
    rows = rows.assign(factor=rows["now"] / rows["start"])
    ratios = dict(zip(rows["count"], rows["factor"].map(factor), strict=True))
    units = ["FLOP" if "FLOP" in n else "B" * (n != "parameters") for n in ratios]
    said = list(map(si, rows["now"], units))
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
    shape, work = other.shape, other.workload
    title = f"{shape.layers} layers x {shape.hidden:,}, {shape.heads} heads, "
    title += f"{shape.kv_heads} for KV; {work.phase}, batch {work.batch}, "
    title += f"{work.prompt_len:,} tokens\n{told}"
    return Figure([panel], title, rows, (9.4, 4.6))


def _lollipops(axes: Any, rows: pd.DataFrame) -> None:
    for y, ratio in enumerate(rows["factor"]):
        end = min(max(ratio, 1 / FARTHEST), FARTHEST)
        marker = "o" if end == ratio else "<" if ratio < 1 else ">"
        axes.plot([1, end], [y, y], color=BLACK, lw=1.5)
        axes.plot([end], [y], marker, ms=8, color=BLACK, mfc="white")


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


def groups(shape: ModelShape, hidden: int) -> list[int]:
    """Numbers of query heads that may share a KV head, at a width of the shape."""
    own, heads = shape.heads // shape.kv_heads, widened(shape, hidden).heads
    sizes = {1, 2, 4, 8, 16, 32, own} if shape.family in GROUPED else {own}
    return sorted(size for size in sizes if heads % size == 0)


def changed(point: Point, hidden: int, queries_per_kv: int, **state: Any) -> Point:
    """The point in another state, with positions enough: layers, phase, batch ..."""
    sizes, wide = {"layers": state.pop("layers")}, widened(point.shape, hidden)
    sizes["kv_heads"], work = wide.heads // queries_per_kv, Workload(**state)
    most = max(wide.max_positions, work.positions)
    return replace(
        point, shape=replace(wide, **sizes, max_positions=most), workload=work
    )

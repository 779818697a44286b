"""Counts: FLOPs by part of the model, bytes by kind, factors, torch's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from fastlab.cost import article
from fastlab.cost import operations as split
from fastlab.cost.memory import kv_cache_bytes, parameters, value_bytes
from fastlab.cost.operations import operations as listed
from fastlab.figures.explorer import Explorer, around, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, level, stacked
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import BLACK, STACKED
from fastlab.spec.grids import flat, point_of
from fastlab.spec.point import Point, Workload, lengthened, vary
from fastlab.spec.shape import GROUPED, widened
from fastlab.words import digits, factor, percent, power, si

QUESTION = ("family", "layers", "hidden", "phase", "prompt_len", "batch")
FARTHEST = 64.0  # factors are drawn from 1 / 64 to 64
STEPS = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # of the start's hidden size and prompt length
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GROUPS = (1, 2, 4, 8, 16, 32)  # query heads that share one KV head
CAPTION = "counted, not measured: nothing runs, and no device is assumed"
ARTICLE = {  # a line of it -> what is wrong with it
    "forward: 2·12·(1024·768²)": (
        "one H×H product a layer; there are 12, attention, and the head"
    ),
    "twice that, with a backward pass": "inference has no backward pass",
    "pruned: 2·3·(1024·512²)": "the vocabulary head did not shrink with the layers",
    "16 bit: 1.5·10⁸ / 8": "1.5·10⁹ lost a zero; 16 bit halves bytes, not operations",
    "faster by 2.5·10⁹ / 1.75·10⁷": "FLOPs saved; the time saved has to be measured",
    "attention is O(n³): n doubles": "n² pairs of H numbers each: O(n² H)",
}


# --- tables


def operations(point: Point) -> pd.DataFrame:
    """Every operation of the call, all its `times` together, and their sum below.

    share = of the FLOPs; weights, activations and KV in MB moved through memory.
    """
    whole = split.total(point, "flops")
    lines = []
    for op in listed(point):
        kv_bytes = op.kv_read_bytes + op.kv_write_bytes
        sizes = {"GFLOP": op.flops / 1e9, "share": op.flops / whole}
        sizes |= {"weights MB": op.weight_bytes / 1e6}
        sizes |= {"activations MB": op.activation_bytes / 1e6, "KV MB": kv_bytes / 1e6}
        line = {"operation": op.name, "part": split.part_of(op) or ""}
        every = {name: op.times * size for name, size in sizes.items()}
        lines.append(line | {"times": op.times} | every)
    table = pd.DataFrame(lines)
    sums = table.sum(numeric_only=True).to_dict() | {"operation": "all", "part": ""}
    return pd.concat([table, pd.DataFrame([sums | {"times": 1}])], ignore_index=True)


def against_torch(points: Sequence[Point]) -> pd.DataFrame:
    """Parameters and FLOPs beside those of the really built model, on meta tensors.

    ratio = torch's FLOPs / ours. One row a point; nothing is timed, no memory taken.
    """
    import torch

    from fastlab.clock.counters import torch_flops, torch_parameters

    rows = pd.DataFrame([flat(point) for point in points])[[*QUESTION]]
    ours = [split.total(point, "flops") for point in points]
    theirs = [torch_flops(point) for point in points]
    return rows.assign(
        parameters=[parameters(point.shape) for point in points],
        torch_parameters=[torch_parameters(point) for point in points],
        flops=ours,
        torch_flops=theirs,
        ratio=[their / our for their, our in zip(theirs, ours, strict=True)],
        device=f"meta tensors, torch {torch.__version__}",
        status="ok",
    )


def counters(point: Point) -> pd.DataFrame:
    """What each FLOP counter finds of the exact count, with fused and plain attention.

    The model is really run, on CPU tensors; a counter that is not installed says so.
    """
    from fastlab.clock.counters import counted

    headings = {"sdpa": "sdpa (the default)", "eager": "eager"}
    rows: dict[str, dict[str, str]] = {}
    for count in counted(point):
        said = count.said if count.ratio is None else f"{count.ratio:.4f}"
        rows.setdefault(count.counter, {})[headings[count.attention]] = said
    return pd.DataFrame(rows).T.rename_axis("counter").reset_index()


def cache(point: Point, lengths: Sequence[int] = (1024, 8192, 65536)) -> pd.DataFrame:
    """KV cache in MB with all heads kept, with the shape's own kv_heads, and with one.

    `outweighs` = positions from which the cache is larger than all the weights.
    """
    own, lines = point.shape, []
    fewer = (own.kv_heads, 1) if own.family in GROUPED else ()
    work = Workload(batch=point.workload.batch, prompt_len=1)
    for kv_heads in dict.fromkeys((own.heads, *fewer)):
        shape = replace(own, kv_heads=kv_heads)
        one = kv_cache_bytes(replace(point, shape=shape, workload=work))
        weights = parameters(shape) * value_bytes(point)
        line = {"KV heads": kv_heads, "KB a position": one / 1e3}
        line |= {f"MB at {n:,}": n * one / 1e6 for n in lengths}
        lines.append(line | {"outweighs": round(weights / one)})
    return pd.DataFrame(lines)


def shares(point: Point, field: str, values: Sequence[int]) -> pd.DataFrame:
    """Share of the FLOPs by part of the model, and all GFLOP, for each of `values`.

    field = prompt_len, or a field of the shape ("hidden": what follows from it does).
    """
    points = [vary(point, field, value) for value in values]
    table = pd.DataFrame([split.flops_by_part(one) for one in points])
    whole = table.sum(axis="columns")
    rows = pd.DataFrame([flat(one) for one in points])
    names = dict.fromkeys((field, "prompt_len", "hidden"))
    return rows[[*names]].join(table.div(whole, axis="index")).assign(GFLOP=whole / 1e9)


def moved(points: Sequence[Point]) -> pd.DataFrame:
    """Bytes moved by kind in GB, all GFLOP, and FLOPs per byte, one row a point."""
    rows = pd.DataFrame([flat(p) for p in points])[["phase", "batch", "prompt_len"]]
    sizes = pd.DataFrame([split.bytes_by_kind(p) for p in points]) / 1e9
    gflop = pd.Series([split.total(p, "flops") / 1e9 for p in points])
    per_byte = gflop / sizes.sum(axis="columns")
    return rows.join(sizes).assign(GFLOP=gflop, **{"FLOP per byte": per_byte})


def audit_article() -> pd.DataFrame:
    """The article's section 4.3 line by line: printed, worked out, and what is right.

    `right` is counted operation by operation, for the sizes that the line is about.
    """
    sizes, small, printed = (1024, 12, 768), (1024, 3, 512), article.PRINTED
    large_flops, small_flops = (split.total(_gpt2(*s), "flops") for s in (sizes, small))
    parts = [split.flops_by_part(_gpt2(n, *sizes[1:])) for n in (2048, 1024)]
    large_said, small_said = (article.article_as_printed(*s) for s in (sizes, small))
    grows = parts[0]["attention"] / parts[1]["attention"]
    both, best = article.PRINTED_BOTH_PASSES, article.PRINTED_OPTIMISED
    prints = [printed[sizes], both, printed[small], article.PRINTED_16_BIT]
    gives = [large_said, 2 * large_said, small_said, small_said / 8]
    right = [large_flops, large_flops, small_flops, small_flops]
    columns = {
        "the article's line": list(ARTICLE),
        "it prints": [*map(power, prints), "thousands", "n³"],
        "that gives": [*map(power, gives), factor(both / best), factor(2**3)],
        "right": [*map(power, right), factor(large_flops / small_flops), factor(grows)],
        "why": list(ARTICLE.values()),
    }
    return pd.DataFrame(columns)


def _gpt2(n: int, layers: int, hidden: int) -> Point:
    sizes = {"layers": layers, "hidden": hidden, "max_positions": 2 * n}
    return point_of(family="gpt2", prompt_len=n, **sizes)


# --- figures


def flop_shares(lengths: pd.DataFrame, widths: pd.DataFrame) -> Figure:
    """Two stacked bar charts: FLOP shares against prompt length, and against width.

    Both are tables of shares(): of prompt_len, and of hidden.
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
    """Stacked bars of the GB that each call moves, by kind; a table of moved().

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


# --- explorer


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

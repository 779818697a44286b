"""Figures of KV caches: bytes held and read, prefixes reused, unrolled steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from fastlab.spec.shape import ModelShape
from fastlab.view.numbers import si
from fastlab.view.style import COLORS, GREY, SMALL, TEXT, TITLE, log_axes
from fastlab.view.tables.kvcache import OWN_HEADS, kv_kinds, weight_reads
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

DASHES = ("-", "--", ":")
MARKS = ("D", "s", "o", "v")
SHADES = ("#444444", "#0072B2", "#009E73", "#D55E00")  # lines of caches, not precisions
APART = 0.055  # of an axes' height: how far apart names at its edge stand


def held(table: pd.DataFrame, title: str) -> Figure:
    """Bytes of a KV cache against positions: lines the formula, marks allocated."""
    figure = Figure(figsize=(9.4, 5.0), layout="constrained")
    axes = figure.subplots()
    log_axes(axes, "positions held (tokens)", "bytes of one sequence's KV cache")
    groups = table.groupby(["heads", "cache"], sort=False)
    ends = {}
    for n, ((heads, cache), rows) in enumerate(groups):
        color, mark = SHADES[n % len(SHADES)], MARKS[n % len(MARKS)]
        axes.plot(rows["positions"], rows["formula"], color=color, lw=1.6)
        look: dict[str, Any] = {"color": color, "marker": mark, "ls": "none"}
        axes.plot(rows["positions"], rows["allocated"], ms=7, **look)
        name = f"{cache}, {heads}" if heads == OWN_HEADS else str(cache)
        ends[name] = (float(rows["formula"].iloc[-1]), color)
    _edge_names(axes, ends)
    _bytes_axis(axes, table["positions"])
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _bytes_axis(axes: Axes, positions: Iterable[int]) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: si(v, "B")))
    shown = sorted(set(positions))
    axes.set_xticks(shown, [f"{n:,}" for n in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(True, color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)


def _edge_names(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Each line's name right of its end, pushed apart where ends lie close."""
    low, high = np.log(axes.get_ylim())
    right, before = axes.get_xlim()[1], np.inf
    for name, (value, color) in sorted(ends.items(), key=lambda one: -one[1][0]):
        before = min((np.log(value) - low) / (high - low), before - APART)
        at = (right, float(np.exp(low + before * (high - low))))
        style: dict[str, Any] = {"color": color, "fontsize": SMALL, "va": "center"}
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(name, at, clip_on=False, **place, **style)


def crossover(
    shape: ModelShape,
    precisions: tuple[str, ...],
    batch: int,
    title: str,
    context: int | None = None,
    longest: int = 2**20,
) -> Figure:
    """Bytes that one decode step reads against the context, log-log, all estimated.

    Level lines: weights by precision. Rising lines: the KV cache of all sequences, by
    how it is kept. A ring marks where both are equal; `context` draws a cursor.
    """
    figure = Figure(figsize=(9.8, 5.6))  # one axes: no layout engine, half the time
    axes = figure.subplots()
    figure.subplots_adjust(right=0.76, left=0.1, bottom=0.12, top=0.92)
    weights, kinds = weight_reads(shape, precisions), kv_kinds(shape)
    x = np.geomspace(128, longest, 60)
    log_axes(axes, "context (tokens cached for each sequence)", "bytes read a step")
    for name, read in weights.items():
        axes.axhline(read, color=COLORS[name], lw=2)
    ends = {f"{n} weights": (float(read), COLORS[n]) for n, read in weights.items()}
    for n, (kind, each) in enumerate(kinds.items()):
        axes.plot(x, x * each * batch, color="black", lw=1.6, ls=DASHES[n % 3])
        side = n - (len(kinds) - 2)
        _rings(axes, weights, each * batch, longest, side)
        ends[kind] = (float(longest * each * batch), "black")
    lows = [*weights.values(), *(128 * e * batch for e in kinds.values())]
    highs = [value for value, _ in ends.values()]
    axes.set(xlim=(128, longest), ylim=(min(lows) / 2, max(highs) * 2))
    ticks = [2**n for n in range(8, 21, 2)]
    _bytes_axis(axes, ticks)
    _edge_names(axes, ends)
    if context is not None:
        axes.axvline(context, color=GREY, lw=1.2, ls="-.")
    axes.set_title(title, fontsize=TITLE, loc="left")
    return figure


def _rings(
    axes: Axes, weights: Mapping[str, int], each: int, longest: int, side: int
) -> None:
    """Rings where a line of weights is met; side: -1, 0 or 1, where numbers stand."""
    align, shift = {-1: ("right", -4), 0: ("center", 0), 1: ("left", 4)}[side]
    for name, read in weights.items():
        at = read / each
        if 128 <= at <= longest:
            look: dict[str, Any] = {"mfc": "white", "mec": COLORS[name], "mew": 2}
            axes.plot([at], [read], "o", ms=8, zorder=5, **look)
            note: dict[str, Any] = {"fontsize": SMALL, "color": COLORS[name]}
            note |= {"textcoords": "offset points", "ha": align, "zorder": 4}
            note["bbox"] = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.2}
            axes.annotate(_thousands(at), (at, read), (shift, 7), **note)


def _thousands(tokens: float) -> str:
    return si(tokens) if tokens >= 1000 else f"{tokens:.0f}"


def prefixes(rows: pd.DataFrame, served: pd.DataFrame, title: str) -> Figure:
    """Left, time to first token against tokens reused; right, prompts in turn.

    `rows` are prefills that differ in prefix_len: filled marks measured, the line and
    its band estimated. `served` is tables.served(): hatched = copied from the store.
    """
    rows = rows[rows["status"] == "ok"].sort_values("prefix_len")
    figure = Figure(figsize=(12.0, 4.6), layout="constrained")
    axes, right = figure.subplots(1, 2, width_ratios=[1.35, 1.0])
    x = rows["prefix_len"].to_numpy(float)
    color = COLORS[rows["precision"].iloc[0]] if len(rows) else "black"
    low, high = rows["estimated_low_ms"], rows["estimated_high_ms"]
    axes.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
    line: dict[str, Any] = {"color": color, "lw": 1.4, "mfc": "white", "ms": 7}
    axes.plot(x, rows["estimated_ms"], "o--", label="estimated", **line)
    error = [
        rows["measured_ms"] - rows["measured_low_ms"],
        rows["measured_high_ms"] - rows["measured_ms"],
    ]
    mark: dict[str, Any] = {"color": color, "fmt": "o", "ms": 8, "label": "measured"}
    axes.errorbar(x, rows["measured_ms"], yerr=np.maximum(error, 0), **mark)
    _speedups(axes, rows)
    plain_axes(
        axes, "tokens of the prompt found in the cache", "time to first token, ms"
    )
    axes.set_xticks(x, [f"{int(n)}" for n in x])
    axes.set_ylim(0, None)
    axes.margins(x=0.08)
    axes.legend(loc="lower left", fontsize=SMALL, frameon=False)
    axes.set_title(title, fontsize=TITLE, loc="left")
    _served(right, served, color)
    return figure


def _served(axes: Axes, served: pd.DataFrame, color: str) -> None:
    """A bar of tokens for each prompt: computed filled, copied hatched; its time."""
    for _, row in served.iterrows():
        new, y = row["tokens"] - row["reused"], row["prompt"]
        look: dict[str, Any] = {"height": 0.6, "color": "white", "edgecolor": GREY}
        axes.barh(y, row["reused"], hatch="////", lw=0.8, **look)
        axes.barh(y, new, left=row["reused"], height=0.6, color=color, alpha=0.88)
        text = f" {digits(row['ttft_ms'])} ms, hits {row['hit_rate']:.0%}"
        axes.text(row["tokens"], y, text, va="center", fontsize=SMALL)
    plain_axes(axes, "tokens: ▨ copied, ■ computed", "prompts, in turn")
    axes.set_yticks(served["prompt"], served["prompt"].astype(str))
    axes.set(ylim=(len(served) + 0.6, 0.4), xlim=(0, 1.55 * served["tokens"].max()))
    axes.set_title("One prompt after the other", fontsize=TITLE, loc="left")


def _speedups(axes: Axes, rows: pd.DataFrame) -> None:
    first = rows["measured_ms"].iloc[0] if len(rows) else np.nan
    for _, row in rows.iloc[1:].iterrows():
        text, at = f"×{digits(first / row['measured_ms'])}", row["measured_ms"]
        style: dict[str, Any] = {"fontsize": SMALL, "textcoords": "offset points"}
        axes.annotate(text, (row["prefix_len"], at), (9, 5), **style)


def plain_axes(axes: Axes, x: str, y: str) -> None:
    """Linear axes in the house style."""
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)


def unrolled(table: pd.DataFrame, title: str, tokens: int = 8) -> Figure:
    """Above, `tokens` steps as calls of k each, to scale; below, ms a token against k.

    `table` is tables.unrolled(). Grey = the host's part of a call, colour = the step,
    as fitted to the measured times; filled marks measured, hollow ones estimated.
    """
    figure = Figure(figsize=(9.4, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[1.0, 1.25])
    color = COLORS[table["precision"].iloc[0]]
    for y, (_, row) in enumerate(table.iterrows()):
        _calls(upper, y, row, tokens, color)
    names = [f"k = {k}" for k in table["unroll"]]
    upper.set_yticks(range(len(table)), names, fontsize=TEXT)
    upper.set(ylim=(len(table) - 0.4, -0.6))
    upper.set_xlabel(f"ms, {tokens} tokens (grey: call, colour: step)", fontsize=TEXT)
    upper.tick_params(axis="y", length=0)
    upper.spines[["top", "right", "left"]].set_visible(False)
    upper.set_title(title, fontsize=TITLE, loc="left")
    _by_k(lower, table, color)
    return figure


def _calls(axes: Axes, y: int, row: pd.Series, tokens: int, color: str) -> None:
    k, at = int(row["unroll"]), 0.0
    host, step = max(row["host_ms"], 0.0), max(row["step_ms"], 0.0)
    if not np.isfinite(host + step):
        host, step = 0.0, row["ms_a_token"]
    for _ in range(-(-tokens // k)):
        axes.barh(y, host, left=at, height=0.6, color="#9a9a9a", lw=0)
        at += host
        for _ in range(min(k, tokens)):
            style: dict[str, Any] = {"color": color, "edgecolor": "white", "lw": 0.8}
            axes.barh(y, step, left=at, height=0.6, alpha=0.85, **style)
            at += step
    axes.text(at, y, f"  {digits(at)} ms", va="center", fontsize=SMALL)


def _by_k(axes: Axes, table: pd.DataFrame, color: str) -> None:
    k = table["unroll"].to_numpy(float)
    error = np.maximum(
        [table["ms_a_token"] - table["low"], table["high"] - table["ms_a_token"]], 0
    )
    axes.errorbar(k, table["ms_a_token"], yerr=error, fmt="s", color=color, ms=8)
    line = np.geomspace(k.min(), max(k.max(), k.min() * 1.01), 40)
    host, step = table["host_ms"].iloc[0], table["step_ms"].iloc[0]
    axes.plot(line, step + host / line, color=color, lw=1.4)
    hollow: dict[str, Any] = {"mfc": "white", "color": color, "ls": "none", "ms": 8}
    axes.plot(k, table["estimated"], "s", **hollow)
    plain_axes(axes, "k: steps in one call", "ms a token")
    axes.set(
        xscale="log", ylim=(0, 1.3 * max(table["high"].max(), table["estimated"].max()))
    )
    axes.set_xlim(k.min() / 1.35, k.max() * 1.35)
    spent = table["compile_s"].to_numpy(float)
    named = [
        f"{n:.0f}" + (f"\ncompiled in {s:.1f} s" if s > 0 else "")
        for n, s in zip(k, spent, strict=True)
    ]
    axes.set_xticks(k, named)
    axes.xaxis.set_minor_locator(NullLocator())
    text = "■ measured   □ estimated   line: step + call / k"
    style: dict[str, Any] = {"fontsize": SMALL, "color": GREY}
    style["transform"] = axes.transAxes
    axes.text(0.01, 0.05, text, **style)

"""Alt texts of the figures of KV caches, prefixes and unrolled steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.spec.shape import ModelShape
from fastlab.view.numbers import si
from fastlab.view.tables.kvcache import crossings, kv_kinds, weight_reads
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd


def held(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.held()."""
    last = table[table["positions"] == table["positions"].max()]
    each = "; ".join(
        f"{r['cache']}, {r['heads']}: {si(r['formula'], 'B')} by the formula, "
        f"{si(r['allocated'], 'B')} allocated"
        for _, r in last.iterrows()
    )
    same = int(table["same"].sum())
    return (
        "Bytes of a KV cache against positions held, log-log, lines by the formula and "
        f"marks allocated ({caption}); {same} of {len(table)} equal. At "
        f"{table['positions'].max():,} positions: {each}."
    )


def crossover(shape: ModelShape, precisions: tuple[str, ...], batch: int) -> str:
    """The alt text of plots.crossover()."""
    weights = ", ".join(
        f"{n} {si(v, 'B')}" for n, v in weight_reads(shape, precisions).items()
    )
    kinds = ", ".join(f"{n} {si(v, 'B')}" for n, v in kv_kinds(shape).items())
    equal = "; ".join(
        f"{r['weights']} weights and {r['cache']} at {si(r['context'])} tokens"
        for _, r in crossings(shape, precisions, batch).iterrows()
    )
    return (
        f"Bytes that one decode step of batch {batch} reads against the context, "
        f"log-log, estimated. Weights: {weights}. KV cache for each cached token of a "
        f"sequence: {kinds}. Both are equal for {equal}."
    )


def prefixes(rows: pd.DataFrame, served: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.prefixes()."""
    each = "; ".join(
        f"{r['prefix_len']} of {r['prompt_len']} tokens cached: "
        f"{digits(r['measured_ms'])} ms (estimated {digits(r['estimated_ms'])})"
        for _, r in rows[rows["status"] == "ok"].iterrows()
    )
    turns = "; ".join(
        f"prompt {r['prompt']:.0f}: {r['reused']:.0f} of {r['tokens']:.0f} tokens "
        f"copied, {digits(r['ttft_ms'])} ms"
        for _, r in served.iterrows()
    )
    return (
        f"Time to first token in ms against tokens reused ({caption}): {each}. "
        f"Beside it prompts that begin alike, one after the other: {turns}."
    )


def unrolled(table: pd.DataFrame, caption: str) -> str:
    """The alt text of plots.unrolled()."""
    each = "; ".join(
        f"k {r['unroll']} {digits(r['ms_a_token'])} ms a token (estimated "
        f"{digits(r['estimated'])}, compiled in {digits(r['compile_s'])} s)"
        for _, r in table.iterrows()
    )
    one = table.iloc[0]
    return (
        f"Steps in one call, k, against ms a token ({caption}): {each}. Fitted: "
        f"{digits(one['step_ms'])} ms a step, {digits(one['host_ms'])} ms a call; "
        "above, the same as bars, calls grey and steps coloured."
    )

"""KV caches in numbers: bytes held and allocated, bytes read, prefixes served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.cost.memory import kv_cache_bytes
from fastlab.latency.costs import WEIGHTS, costs_of
from fastlab.spec.point import Point, Workload
from fastlab.spec.precision import QUANTIZED
from fastlab.spec.recipe import STATIC, Recipe, kv_row_bytes
from fastlab.spec.shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd

HELD = ("dynamic", "static", "static-int8")
OWN_HEADS, GROUPED_HEADS = "a KV head for each query head", "grouped (GQA)"


def held(
    shape: ModelShape,
    lengths: Sequence[int],
    precision: str = "fp32",
    caches: Sequence[str] = HELD,
    device: str = "cpu",
) -> pd.DataFrame:
    """Bytes of one sequence's KV cache: by the formula, and of the tensors really made.

    A line for each cache and length (positions), and the first cache once more with a
    KV head for each query head. The caches are allocated on the device, then let go.
    """
    import pandas as pd

    alone = replace(shape, kv_heads=shape.heads)
    asked = [(GROUPED_HEADS, shape, cache) for cache in caches]
    if alone != shape:
        asked = [(OWN_HEADS, alone, caches[0]), *asked]
    return pd.DataFrame(
        [
            {"heads": heads, "cache": cache, "positions": n}
            | _held(one, cache, n, precision, device)
            for heads, one, cache in asked
            for n in lengths
        ]
    )


def _held(
    shape: ModelShape, cache: str, positions: int, precision: str, device: str
) -> dict[str, Any]:
    work = Workload("decode", prompt_len=positions - 1)
    point = Point(shape, work, Recipe(precision, cache=cache))
    found = {"formula": kv_cache_bytes(point), "allocated": allocated(point, device)}
    return found | {"same": found["formula"] == found["allocated"]}


def allocated(point: Point, device: str = "cpu") -> int:
    """Bytes of the tensors of the point's cache, made at its full length."""
    import torch
    from transformers import DynamicCache

    from fastlab.models import DTYPES, build
    from fastlab.runtime.cache import static_cache

    shape, work = point.shape, point.workload
    if point.recipe.cache in STATIC:  # which asks the model for dtype and device only
        small = replace(point, shape=replace(shape, vocab=16, ffn=shape.head_dim))
        model = build(small, device)
        cache = point.recipe.cache
        return static_cache(model, work.batch, work.positions, cache).nbytes
    size = (work.batch, shape.kv_heads, work.positions, shape.head_dim)
    made: Any = DynamicCache()
    for layer in range(shape.layers):
        rows = torch.zeros(size, dtype=DTYPES[point.recipe.format.dense], device=device)
        made.update(rows, rows.clone(), layer)
    return sum(one.keys.nbytes + one.values.nbytes for one in made.layers)


def kv_kinds(shape: ModelShape) -> dict[str, int]:
    """Bytes of one cached position of one sequence, by how a model may keep it."""
    row = 2 * shape.layers * shape.kv_heads
    wide, packed = (
        row * kv_row_bytes(cache, 2, shape.head_dim)
        for cache in ("dynamic", "static-int8")
    )
    kinds = {"16-bit KV": wide, "int8 KV": packed}
    if shape.heads != shape.kv_heads:
        every = f"16-bit KV for all {shape.heads} heads"
        return {every: wide * shape.heads // shape.kv_heads, **kinds}
    return kinds


def weight_reads(shape: ModelShape, precisions: Sequence[str]) -> dict[str, int]:
    """Bytes of weights that a decode step reads, by precision; the head included."""
    return {precision: _weights(shape, precision) for precision in precisions}


def _weights(shape: ModelShape, precision: str) -> int:
    scope = "head" if precision in QUANTIZED else "layers"
    recipe = Recipe(precision, cache="static", scope=scope)
    point = Point(shape, Workload("decode", prompt_len=1), recipe)
    return int(costs_of(point).totals[WEIGHTS])


def crossings(
    shape: ModelShape, precisions: Sequence[str], batch: int = 1
) -> pd.DataFrame:
    """Where a step reads as many bytes of KV cache as of weights, in tokens a sequence.

    context = weights / (batch x bytes of a cached position).
    """
    import pandas as pd

    weights, kinds = weight_reads(shape, precisions), kv_kinds(shape)
    rows = [
        {
            **{"weights": precision, "cache": kind, "batch": batch},
            **{"weight bytes": read, "bytes a token": each},
            "context": read / (batch * each),
        }
        for precision, read in weights.items()
        for kind, each in kinds.items()
    ]
    return pd.DataFrame(rows)


def served(
    shape: ModelShape,
    shared: int,
    own: Sequence[int],
    precision: str = "fp32",
    device: str = "cpu",
) -> pd.DataFrame:
    """Prompts that begin alike, one after the other: tokens reused, time to the first.

    Each prompt is `shared` equal tokens and own[n] of its own; our decoder keeps what
    it prefilled in a store of prefixes. ttft_ms is one real prefill, wall clock;
    hit_rate = share of all prompt tokens so far that were copied and not computed.
    """
    import pandas as pd
    import torch

    from fastlab.models import build
    from fastlab.runtime.decode import Decoder
    from fastlab.runtime.prefix import Prefixes

    point = Point(shape, Workload(prompt_len=1), Recipe(precision))
    longest = shared + max(own)
    decoder = Decoder(build(point, device), max_len=longest, runtime="eager")
    source, kept = torch.Generator().manual_seed(0), Prefixes()
    ids = torch.randint(shape.vocab, (1, longest), generator=source).to(device)
    decoder.prefill(ids)  # warm, and not kept
    rows = []
    for n, length in enumerate(own, 1):
        tail = torch.randint(shape.vocab, (1, length), generator=source).to(device)
        prompt, before = torch.cat([ids[:, :shared], tail], 1), kept.hits.reused
        began = time.perf_counter()
        decoder.prefill(prompt, kept)
        decoder.state.token.tolist()  # waits for the device
        spent = time.perf_counter() - began
        row: dict[str, Any] = {"prompt": n, "tokens": shared + length}
        row |= {"reused": kept.hits.reused - before, "ttft_ms": 1e3 * spent}
        rows.append(row | {"hit_rate": kept.hits.rate, "kept_mb": kept.nbytes / 1e6})
    return pd.DataFrame(rows)


def unrolled(rows: pd.DataFrame) -> pd.DataFrame:
    """Generations by `unroll`: ms a token, fitted as step + call / k; compile seconds.

    host_ms and step_ms are that fit's, the same in each line: what one call costs the
    host, and what one step costs whoever calls it; NaN where fewer than two k ran.
    """
    import numpy as np

    done = rows[rows["status"] == "ok"].sort_values("unroll")
    each = {"ms_a_token": "measured_ms", "estimated": "estimated_ms"}
    each |= {"low": "measured_low_ms", "high": "measured_high_ms"}
    found = done[["unroll", "precision", "runtime", "n", "compile_s"]].copy()
    for name, ms in each.items():
        found[name] = done[ms] / done["new_tokens"]
    k = found["unroll"].to_numpy(float)
    enough = len(set(k)) > 1
    fit = np.polyfit(1 / k, found["ms_a_token"], 1) if enough else [np.nan, np.nan]
    return found.assign(host_ms=fit[0], step_ms=fit[1]).reset_index(drop=True)

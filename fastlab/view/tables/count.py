"""Tables of counts: by operation, against torch, by other counters, of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.cost.memory import kv_cache_bytes, parameters, value_bytes
from fastlab.cost.operations import bytes_by_kind, flops_by_part, part_of, total
from fastlab.cost.operations import operations as list_operations
from fastlab.cost.ops import Operation
from fastlab.spec.point import Point, Workload
from fastlab.spec.shape import GROUPED
from fastlab.spec.vary import vary

if TYPE_CHECKING:
    import pandas as pd

QUESTION = ("family", "layers", "hidden", "phase", "prompt_len", "batch")


def operations(point: Point) -> pd.DataFrame:
    """Every operation of the call, all its `times` together, and their sum below.

    share = of the FLOPs; weights, activations and KV in MB moved through memory.
    """
    import pandas as pd

    whole = total(point, "flops")
    rows = [_operation(op, whole) for op in list_operations(point)]
    table = pd.DataFrame(rows)
    sums = table.sum(numeric_only=True).to_dict() | {"operation": "all", "part": ""}
    return pd.concat([table, pd.DataFrame([sums | {"times": 1}])], ignore_index=True)


def _operation(op: Operation, whole: int) -> dict[str, Any]:
    moved = op.kv_read_bytes + op.kv_write_bytes
    return {
        "operation": op.name,
        "part": part_of(op) or "",
        "times": op.times,
        "GFLOP": op.times * op.flops / 1e9,
        "share": op.times * op.flops / whole,
        "weights MB": op.times * op.weight_bytes / 1e6,
        "activations MB": op.times * op.activation_bytes / 1e6,
        "KV MB": op.times * moved / 1e6,
    }


def against_torch(points: Sequence[Point]) -> pd.DataFrame:
    """Parameters and FLOPs beside those of the really built model, on meta tensors.

    ratio = torch's FLOPs / ours. One row a point; nothing is timed, no memory taken.
    """
    import pandas as pd

    return pd.DataFrame([_against_torch(point) for point in points])


def _against_torch(point: Point) -> dict[str, Any]:
    import torch

    from fastlab.clock.counters import torch_flops, torch_parameters

    parts = (point.shape, point.workload)
    values = {n: v for part in parts for n, v in vars(part).items() if n in QUESTION}
    ours, theirs = total(point, "flops"), torch_flops(point)
    return values | {
        "parameters": parameters(point.shape),
        "torch_parameters": torch_parameters(point),
        "flops": ours,
        "torch_flops": theirs,
        "ratio": theirs / ours,
        "device": f"meta tensors, torch {torch.__version__}",
        "status": "ok",
    }


def counters(point: Point) -> pd.DataFrame:
    """What each FLOP counter finds of the exact count, with fused and plain attention.

    The model is really run, on CPU tensors; a counter that is not installed says so.
    """
    import pandas as pd

    from fastlab.clock.counters import counted

    found = {(c.counter, c.attention): _said(c.ratio, c.said) for c in counted(point)}
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [
        {
            "counter": name,
            "sdpa (the default)": found[name, "sdpa"],
            "eager": found[name, "eager"],
        }
        for name in names
    ]
    return pd.DataFrame(rows)


def _said(ratio: float | None, said: str) -> str:
    return said if ratio is None else f"{ratio:.4f}"


def cache(point: Point, lengths: Sequence[int] = (1024, 8192, 65536)) -> pd.DataFrame:
    """KV cache in MB with all heads kept, with the shape's own kv_heads, and with one.

    `outweighs` = positions from which the cache is larger than all the weights.
    """
    import pandas as pd

    shape = point.shape
    fewer = (shape.kv_heads, 1) if shape.family in GROUPED else ()
    choices = dict.fromkeys((shape.heads, *fewer))
    return pd.DataFrame([_cache(point, kv, lengths) for kv in choices])


def _cache(point: Point, kv_heads: int, lengths: Sequence[int]) -> dict[str, Any]:
    shape = replace(point.shape, kv_heads=kv_heads)
    work = Workload(batch=point.workload.batch, prompt_len=1)
    one = kv_cache_bytes(replace(point, shape=shape, workload=work))
    weights = parameters(shape) * value_bytes(point)
    sizes = {f"MB at {n:,}": n * one / 1e6 for n in lengths}
    return {
        "KV heads": kv_heads,
        "KB a position": one / 1e3,
        **sizes,
        "outweighs": round(weights / one),
    }


def shares(point: Point, field: str, values: Sequence[int]) -> pd.DataFrame:
    """Share of the FLOPs by part of the model, and all GFLOP, for each of `values`.

    field = prompt_len, or a field of the shape ("hidden": what follows from it does).
    """
    import pandas as pd

    return pd.DataFrame([_shares(vary(point, field, v), field, v) for v in values])


def _shares(point: Point, field: str, value: int) -> dict[str, Any]:
    found = flops_by_part(point)
    whole = sum(found.values())
    return (
        {field: value}
        | {n: f / whole for n, f in found.items()}
        | {"GFLOP": whole / 1e9}
    )


def moved(points: Sequence[Point]) -> pd.DataFrame:
    """Bytes moved by kind in GB, all GFLOP, and FLOPs per byte, one row a point."""
    import pandas as pd

    return pd.DataFrame([_moved(point) for point in points])


def _moved(point: Point) -> dict[str, Any]:
    work, found = point.workload, bytes_by_kind(point)
    flops, whole = total(point, "flops"), sum(found.values())
    names = {"phase": work.phase, "batch": work.batch, "prompt_len": work.prompt_len}
    sizes = {kind: size / 1e9 for kind, size in found.items()}
    return names | sizes | {"GFLOP": flops / 1e9, "FLOP per byte": flops / whole}

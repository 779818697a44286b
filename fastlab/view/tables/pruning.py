"""What a cut or a zero promises in FLOPs, and what it buys in time and in quality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab import machine
from fastlab.cost.memory import parameters
from fastlab.cost.operations import operations
from fastlab.cost.ops import PRODUCTS
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate, Measurement, Quality, Record
from fastlab.spec.checks import check_choice
from fastlab.spec.grids import grid
from fastlab.spec.point import Point
from fastlab.spec.pruning import (
    IMPORTANCES,
    LAYER_CHOICES,
    NOTHING_CUT,
    RATIOS,
    Pruning,
    check_ratio,
)
from fastlab.spec.recipe import Recipe
from fastlab.view.tables.precisions import own

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.notebook.run import Run

DENSE = "dense"
ZEROS = ("zeros", "pattern", "csr", "2:4")  # kinds that leave the shape as it was
KINDS = (*RATIOS, *ZEROS)
SEEDS = (0, 1, 2)  # of random choices
HEAD = "head"  # the operation that is never sparse
LEFT = ("layers", "hidden", "heads", "kv_heads", "ffn")  # of a built shape


def cut_points(
    shares: Sequence[float],
    multiple: int = 1,
    layer_choice: str = "uniform",
    importance: str = "magnitude",
    **common: Any,
) -> list[Point]:
    """The dense point, then each share cut from layers, heads, FFN and hidden width.

    `common` are fields of `fastlab.grid`. A cut that leaves no shape a config can say
    (9 of 12 heads where the width is 768) is left out. ValueError for a bad share.
    """
    for share in shares:
        check_ratio("shares", share)
    over: dict[str, Any] = {"prune_layer_choice": layer_choice}
    over |= {"prune_importance": importance, "prune_multiple": multiple}
    (dense,) = grid(**common)
    found = {dense.shape: dense}
    for name in RATIOS:
        for share in shares:
            for point in _tried(**common, **over, **{f"prune_{name}": share}):
                found.setdefault(point.built_shape, point)
    return list(found.values())


def choice_points(
    shares: Sequence[float], ways: Sequence[str], **common: Any
) -> list[Point]:
    """Each cut of `cut_points`, with what goes chosen in each of the ways that fit it.

    ways: of LAYER_CHOICES for layers, of IMPORTANCES for the rest, or "all"; "random"
    draws three times for the rest. ValueError for a way that is none.
    """
    every = (*LAYER_CHOICES, *IMPORTANCES)
    ways = list(dict.fromkeys(every if list(ways) == ["all"] else ways))
    for way in ways:
        check_choice("ways", way, every)
    found: list[Point] = []
    for cut in cut_points(shares, **common)[1:]:
        pruning, depth = cut.recipe.pruning, bool(cut.recipe.pruning.layers)
        for way in ways:
            if depth and way in LAYER_CHOICES and way != "random":
                found.append(_pruned(cut, replace(pruning, layer_choice=way)))
            elif not depth and way in IMPORTANCES:
                drawn = SEEDS if way == "random" else SEEDS[:1]
                chosen = [replace(pruning, importance=way, seed=n) for n in drawn]
                found += [_pruned(cut, one) for one in chosen]
    return found


def _pruned(point: Point, pruning: Pruning) -> Point:
    return replace(point, recipe=replace(point.recipe, pruning=pruning))


def _tried(**fields: Any) -> list[Point]:
    try:
        return grid(**fields)
    except ValueError:
        return []


def zero_points(
    ratios: Sequence[float],
    storages: Sequence[str] = (),
    method: str = "magnitude",
    **common: Any,
) -> list[Point]:
    """The dense point, then each ratio of zeros in each storage, and the 2:4 pattern.

    storages: "dense", "csr", and "2:4": packed for sparse tensor cores; by default all
    that this machine has a kernel for.
    """
    packed = ("2:4",) * (machine.torch_device() == "cuda")
    storages = storages or ("dense", "csr", *packed)
    found = grid(**common)
    sparse: dict[str, Any] = {"sparse_method": method}
    for storage in storages:
        over = {"sparse_storage": storage, **sparse}
        if storage != "2:4":
            found += grid(**common, sparse_ratio=list(ratios), **over)
    stored = [s for s in storages if s != "csr"]
    return found + grid(**common, sparse_pattern="2:4", sparse_storage=stored, **sparse)


def savings(
    records: Sequence[Record], points: Iterable[Point], profile: Device | None = None
) -> pd.DataFrame:
    """One line for each of these points that has a record; see `savings_of`."""
    return savings_of(own(records, points), profile, records)


def savings_of(
    records: Iterable[Record],
    profile: Device | None = None,
    known: Iterable[Record] = (),
) -> pd.DataFrame:
    """One line a record: what was cut, FLOPs on paper, ms, gains, quality.

    promised = FLOPs of the dense model / those left; zeros count as if they cost
    nothing. Gains are the dense model's time over this one's, estimated and measured,
    of the same call; NaN where the dense row is missing. Estimates are made afresh with
    `profile`, else the records' own. Dense rows are looked up in `known` too. What is
    neither dense nor smaller in one way is left out.
    """
    import pandas as pd

    records = [r for r in records if kind_of(r.point.recipe)]
    dense = {r.point: r for r in (*known, *records) if dense_of(r.point) == r.point}
    lines = [_line(record, dense.get(dense_of(record.point)), profile)
             for record in records]  # fmt: skip
    return pd.DataFrame(lines, columns=list(_NAMES))


def kind_of(recipe: Recipe) -> str:
    """What is cut: one of KINDS, "dense" for nothing, "several", "" if stored else."""
    if recipe.sharing is not None or (recipe.sparsity and recipe.prunes):
        return ""
    if recipe.sparsity is not None:
        dense = "pattern" if recipe.sparsity.pattern else "zeros"
        return dense if recipe.storage == "dense" else recipe.storage
    cut = [name for name in RATIOS if getattr(recipe.pruning, name)]
    return (cut[0] if len(cut) == 1 else "several") if cut else DENSE


def dense_of(point: Point) -> Point:
    """The same call of the model that nothing was cut from."""
    bare: dict[str, Any] = {"pruning": NOTHING_CUT, "sparsity": None, "sharing": None}
    recipe = replace(point.recipe, distill_steps=0, **bare)
    return replace(point, recipe=recipe)


def paper_flops(point: Point) -> float:
    """FLOPs of a call where zeros of the layers' weights cost nothing."""
    sparsity = point.recipe.sparsity
    kept = replace(point, recipe=replace(point.recipe, sparsity=None))
    zero = sparsity.ratio if sparsity else 0.0
    total = 0.0
    for op in operations(kept):
        left = 1 - zero if op.kind in PRODUCTS and op.name != HEAD else 1
        total += op.times * op.flops * left
    return total


_NAMES = (
    *("kind", "share", "what", "choice", "seed", "distill_steps", "method", "phase"),
    *("precision", "parameters", "left", "promised", "device", "status", "reason"),
    *("estimated_ms", "estimated_low_ms", "estimated_high_ms", "estimated_gain"),
    *("measured_ms", "measured_low_ms", "measured_high_ms", "measured_gain", "n"),
    *("kl_nats", "kl_low", "kl_high", "top1", "bits_per_byte", "low", "high"),
    *("dense_bits_per_byte", "weights_mb", "weights"),
)


def _line(
    record: Record, dense: Record | None, profile: Device | None
) -> dict[str, Any]:
    point = record.point
    base = dense_of(point)
    many = parameters(point.built_shape)
    line = described(point) | {"parameters": many}
    line |= {"left": many / parameters(base.shape)}
    line |= {"promised": paper_flops(base) / paper_flops(point)}
    line |= {"device": record.device, "status": record.status, "reason": record.reason}
    line |= _estimated(record.estimate, point, profile)
    line |= _measured(record.measured, dense) | _judged(record.quality)
    if record.effective:
        line["weights_mb"] = record.effective.weight_bytes / 1e6
    return line


def described(point: Point) -> dict[str, Any]:
    """What of a point a line of such a table says."""
    recipe, cut = point.recipe, point.recipe.pruning
    kind, sparsity = kind_of(recipe), recipe.sparsity
    share = getattr(cut, kind, 0.0) if kind in RATIOS else 0.0
    chosen = cut.layer_choice if kind == "layers" else cut.importance
    return {
        "kind": kind,
        "share": sparsity.ratio if sparsity else share,
        "what": built_words(point),
        "choice": chosen if kind in RATIOS else "",
        "seed": cut.seed,
        "distill_steps": recipe.distill_steps,
        "method": sparsity.method if sparsity else "",
        "phase": point.workload.phase,
        "precision": recipe.precision,
        "weights": point.weights.partition(":")[0],
    }


def built_words(point: Point) -> str:
    """The shape that is built, in words: "4 x 768, 12/4 heads, ffn 2048"."""
    s, sparsity = point.built_shape, point.recipe.sparsity
    words = f"{s.layers} x {s.hidden}, {s.heads}/{s.kv_heads} heads, ffn {s.ffn}"
    if sparsity is None:
        return words
    zeros = sparsity.pattern or f"{sparsity.ratio:.0%} zeros"
    return f"{words}, {zeros} {sparsity.storage}"


def _estimated(
    kept: Estimate | None, point: Point, profile: Device | None
) -> dict[str, Any]:
    made = _afresh(point, profile) or kept
    if made is None:
        return {}
    base = _afresh(dense_of(point), profile)
    ends = {"estimated_low_ms": made.low_s, "estimated_high_ms": made.high_s}
    line = {n: 1e3 * s for n, s in ({"estimated_ms": made.seconds} | ends).items()}
    return line | ({"estimated_gain": base.seconds / made.seconds} if base else {})


def _afresh(point: Point, profile: Device | None) -> Estimate | None:
    if profile is None:
        return None
    try:
        return estimate([point], profile)[0]
    except ValueError:  # a precision that the device does not have
        return None


def _measured(taken: Measurement | None, dense: Record | None) -> dict[str, Any]:
    if taken is None:
        return {}
    ends = {"measured_low_ms": taken.low_s, "measured_high_ms": taken.high_s}
    line: dict[str, Any] = {"measured_ms": taken.seconds} | ends
    line = {name: 1e3 * s for name, s in line.items()} | {"n": taken.n}
    if dense is None or dense.measured is None:
        return line
    return line | {"measured_gain": dense.measured.seconds / taken.seconds}


def _judged(quality: Quality | None) -> dict[str, Any]:
    names = ("kl_nats", "kl_low", "kl_high", "top1", "bits_per_byte", "low", "high")
    every = (*names, "dense_bits_per_byte")
    return {n: getattr(quality, n) for n in every} if quality else {}


def missing(run: Run) -> str:
    """Which points of a replay have no stored row, in words; "" where all have."""
    stored = {r.point for r in own(run.records(), run.points)} if run.is_replay else ()
    absent = [
        f"{kind_of(p.recipe)} {described(p)['share']:.0%} ({p.workload.phase})"
        for p in run.points
        if run.is_replay and p not in stored
    ]
    names = ", ".join(dict.fromkeys(absent))
    return f"; no row is stored of {names}" if absent else ""


def foretold(table: pd.DataFrame) -> pd.DataFrame:
    """Structured cuts with an estimate and a measurement; inside: of the interval."""
    both = table["measured_ms"].notna() & table["estimated_ms"].notna()
    found = table[both & ~table["kind"].isin(ZEROS)].copy()
    low, high = found["estimated_low_ms"], found["estimated_high_ms"]
    found["inside"] = found["measured_ms"].between(low, high)
    found["ratio"] = found["measured_ms"] / found["estimated_ms"]
    return found.reset_index(drop=True)

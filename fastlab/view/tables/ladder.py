"""The ladder of fast decoding: its rungs as points, and a line for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlab import machine
from fastlab.record import Record
from fastlab.rows import table
from fastlab.runtime.unsupported import unsupported_reason
from fastlab.spec.checks import check_choice
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.spec.precision import QUANTIZED
from fastlab.sweeps.reference import reference_for
from fastlab.sweeps.store import Store
from fastlab.view.words import samples

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.notebook.run import Run

EAGER = "dynamic"  # transformers' eager decoding: what every rung is compared with
NEW_TOKENS = 64  # of a whole generation
_WHOLE = {"phase": "generate", "new_tokens": NEW_TOKENS}

# Rung: what it adds to one decode step.
RUNGS: dict[str, dict[str, Any]] = {
    "no cache": {"cache": "none"},
    EAGER: {"cache": "dynamic"},
    "static": {"cache": "static"},
    "compiled": {"cache": "static", "runtime": "compile"},
    "our decoder": {"runtime": "decoder"},
    "our graph": {"runtime": "graph"},
    "our decoder, int8 KV": {"runtime": "decoder", "cache": "static-int8"},
    "generate, transformers": {**_WHOLE, "runtime": "transformers"},
    "generate, our decoder": {**_WHOLE, "runtime": "decoder"},
    "generate, our graph": {**_WHOLE, "runtime": "graph"},
    "generate, our graph x4": {**_WHOLE, "runtime": "graph", "unroll": 4},
}
# Of the second precision on: eager and compiled, never one without the other.
DENSE_TOO = (EAGER, "our decoder")
QUANTIZED_TOO = ("static", "our decoder", "our graph")
SHAPES: dict[str, dict[str, Any]] = {
    "24x896": {
        **{"family": "llama", "layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2},
        **{"head_dim": 64, "ffn": 4864, "vocab": 151_936, "tied": False},
    }
}
FOUND = ("measured_ms", "measured_low_ms", "measured_high_ms", "n", "flags")
MADE = ("estimated_ms", "estimated_low_ms", "estimated_high_ms", "bound", "ratio")
USED = ("mbu", "mbu_copy", "compile_s")
LOST = ("kl_nats", "top1", "max_abs")
STATE = ("device", "status", "reason")
NO_ROW = "no row is stored of it"


def ladder_points(
    shape: str | Mapping[str, Any],
    precisions: Sequence[str],
    names: Sequence[str] = ("all",),
    prompt_len: int = 128,
) -> list[Point]:
    """A point for each rung: all of the first precision, few of each further one.

    shape: one of SHAPES, a preset, a hub name, or shape fields. names: of RUNGS, or
    "all". Quantized precisions quantize the output head too. ValueError for an unknown
    name or precision.
    """
    chosen = list(RUNGS) if list(names) == ["all"] else list(names)
    for name in chosen:
        check_choice("rung", name, RUNGS)
    first = precisions[0]
    pairs = [(first, name) for name in chosen] + [
        (precision, name)
        for precision in precisions[1:]
        for name in chosen
        if name in (QUANTIZED_TOO if precision in QUANTIZED else DENSE_TOO)
    ]
    fields = _fields(shape)
    return [_point(fields, *pair, prompt_len) for pair in pairs]


def _fields(shape: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(shape, str):
        return dict(shape)
    return SHAPES.get(shape, {"model": shape})


def _point(
    fields: Mapping[str, Any], precision: str, name: str, prompt_len: int
) -> Point:
    common: dict[str, Any] = {"phase": "decode", "prompt_len": prompt_len}
    scope = {"scope": "head"} if precision in QUANTIZED else {}
    over = {"precision": precision, **scope, **RUNGS[name]}
    return point_of(**fields, **{**common, **over})


def rung_of(point: Point) -> str:
    """The name of the rung that a point is, "" where it is none."""
    step = point.workload.phase, point.recipe.cache, point.recipe.runtime
    for name, over in RUNGS.items():
        usual = "static" if over.get("runtime", "eager") != "eager" else "dynamic"
        wanted = over.get("phase", "decode"), over.get("cache", usual)
        runtime = over.get("runtime", "eager"), over.get("unroll", 1)
        if (*step, point.recipe.unroll) == (*wanted, *runtime):
            return name
    return ""


def ladder_source(source: str, points: Sequence[Point]) -> str:
    """`source`, but "replay" for "auto" where a CPU's rows of some points are stored.

    A whole ladder takes a CPU ten minutes: better show what there is.
    """
    on_cpu = machine.torch_device() == "cpu"
    stored = source == "auto" and on_cpu and reference_for(points) is not None
    return "replay" if stored else source


def rungs(run: Run) -> pd.DataFrame:
    """A line for each point of the run, replayed or measured; see `rungs_of`.

    A point without a stored row has the status "missing", or the reason why the rows'
    device cannot run it.
    """
    found = {record.point: record for record in run.records()}
    folder = run.reference.folder if run.reference else run.store.folder
    records = [found.get(point) or _absent(point, run) for point in run.points]
    rows = rungs_of(records, Store(folder).envs())
    rows.loc[rows["reason"] == NO_ROW, "status"] = "missing"
    return rows


def _absent(point: Point, run: Run) -> Record:
    reason = unsupported_reason(point, run.profile.kind) if run.profile else ""
    status = "unsupported" if reason else "error"
    return Record(point, run.device, {}, status, reason=reason or NO_ROW)


def ladder_caption(run: Run, rows: pd.DataFrame) -> str:
    """Where the rows of a run come from, how many samples each, and what lines show."""
    cached = run.points[0].workload.prompt_len
    told = f"{run.caption}; {samples(rows)}"
    noisy = rows["flags"].astype(str).str.contains("noisy").sum()
    hatched = f", {noisy} noisy (hatched)" if noisy else ""
    what = f"batch 1, {cached} tokens cached; lines are intervals of 95 %"
    return f"{told}{hatched}; {what}"


def rungs_of(
    records: Sequence[Record], envs: Mapping[str, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """A line for each record: tokens per second, MBU, ratios, seconds to compile, KL.

    estimated_per_s (and its low and high) are the estimate's tokens per second;
    speedup is over transformers' eager decoding in the first precision, and
    predicted_speedup the same of the estimates; over_dense is over the fastest step
    whose weights are not quantized. KL is against fp32: of the record,
    0 for fp32 itself.
    """
    rows = table(records, envs)
    rows.insert(0, "rung", [rung_of(record.point) for record in records])
    tokens = rows["batch"] * rows["new_tokens"]
    for made, ms in _ENDS.items():
        rows[made] = 1e3 * tokens / rows[ms]
    for name in LOST:
        rows[name] = [_lost(record, name) for record in records]
    rows["speedup"] = _over(rows, "tokens_per_s")
    rows["predicted_speedup"] = _over(rows, "estimated_per_s")
    dense = ~rows["precision"].isin(QUANTIZED) & (rows["phase"] == "decode")
    fastest = rows["tokens_per_s"][dense].astype(float).max()
    rows["over_dense"] = rows["tokens_per_s"].astype(float) / fastest
    named = ["rung", "phase", "precision", "tokens_per_s", *_ENDS]
    named += [
        "speedup",
        "predicted_speedup",
        "over_dense",
        *USED,
        *LOST,
        *FOUND,
        *MADE,
        *STATE,
    ]
    return rows[named]


_ENDS = {  # a longer time is a lower rate
    "measured_low_per_s": "measured_high_ms",
    "measured_high_per_s": "measured_low_ms",
    "estimated_per_s": "estimated_ms",
    "estimated_low_per_s": "estimated_high_ms",
    "estimated_high_per_s": "estimated_low_ms",
}


def _lost(record: Record, name: str) -> float:
    recipe = record.point.recipe
    if record.measured is None:
        return float("nan")
    if record.quality is not None:
        return float(getattr(record.quality, name))
    reference = recipe.precision == "fp32" and recipe.cache in ("none", EAGER, "static")
    return float(name == "top1") if reference else float("nan")


def _over(rows: pd.DataFrame, name: str) -> pd.Series:
    """Each rate over that of eager decoding in the table's first precision."""
    first = rows["precision"].iloc[0] if len(rows) else ""
    base = rows[(rows["rung"] == EAGER) & (rows["precision"] == first)][name]
    return rows[name].astype(float) / (base.iloc[0] if len(base) else float("nan"))

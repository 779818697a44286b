"""What a precision buys and costs: time, bytes and quality, over one baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.latency.costs import CAUSAL, KV_WRITE, LAUNCHES, WEIGHTS, costs_of
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate, Measurement, Quality, Record
from fastlab.spec.point import Point
from fastlab.spec.precision import FORMATS
from fastlab.spec.recipe import Recipe
from fastlab.view.tables.batch import batched, batches_to

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.notebook.run import Run

LOSSLESS = ("dynamic", "none", "static")  # caches that keep what they are given
CALL = ["precision", "phase", "batch", "runtime"]  # what tells lines apart


def gains(run: Run, baseline: str = "bf16") -> pd.DataFrame:
    """One line for each point of the run, replayed or measured; see `gains_of`."""
    known = run.records()
    return gains_of(own(known, run.points), run.profile, baseline, known)


def own(records: Iterable[Record], points: Iterable[Point]) -> list[Record]:
    """The records of these points, in the order of the points."""
    place = {point: n for n, point in enumerate(points)}
    found = [record for record in records if record.point in place]
    return sorted(found, key=lambda record: place[record.point])


def gains_of(
    records: Iterable[Record],
    profile: Device | None = None,
    baseline: str = "bf16",
    known: Iterable[Record] = (),
) -> pd.DataFrame:
    """One line a record: ms, MB, quality, and speed-ups over the baseline's line.

    All estimates are made afresh with `profile`, so that ratios of them compare;
    without one they are the records' own. gain = the baseline's time / this one's, of
    the same call and runtime, measured and predicted; NaN where the baseline has none.
    Quality is looked up in `known` too, by weights and precision: no workload changes
    it.
    """
    import pandas as pd

    records = list(records)
    judged = qualities([*known, *records])
    made = [_estimate(record, profile) for record in records]
    lines = [
        _line(record, one, judged) for record, one in zip(records, made, strict=True)
    ]
    table = pd.DataFrame(lines, columns=[*_NAMES])
    for what in ("estimated", "measured"):
        table[f"{what}_gain"] = _gains(records, table[f"{what}_ms"], baseline)
    return table


_NAMES = (
    *("precision", "phase", "batch", "rows", "runtime", "device", "status", "reason"),
    *("estimated_ms", "estimated_low_ms", "estimated_high_ms", "bound"),
    *("measured_ms", "measured_low_ms", "measured_high_ms", "n", "compile_s"),
    *("weights_mb", "kl_nats", "top1", "max_abs"),
)


def _line(
    record: Record, made: Estimate | None, judged: Mapping[Any, Quality]
) -> dict[str, Any]:
    point, stored = record.point, record.effective
    work, recipe = point.workload, point.recipe
    line = {"precision": recipe.precision, "phase": work.phase, "batch": work.batch}
    line |= {"rows": rows_of(point), "runtime": recipe.runtime}
    line |= {"device": record.device, "status": record.status, "reason": record.reason}
    line["weights_mb"] = stored.weight_bytes / 1e6 if stored else None
    return line | _estimated(made) | _measured(record.measured) | _lost(point, judged)


def rows_of(point: Point) -> int:
    """Rows of x in each product of the layers: tokens that one call computes."""
    work = point.workload
    return work.batch * (work.prompt_len if work.phase == "prefill" else 1)


def _estimated(made: Estimate | None) -> dict[str, Any]:
    if made is None:
        return {}
    ends = {"estimated_low_ms": made.low_s, "estimated_high_ms": made.high_s}
    times = {"estimated_ms": made.seconds} | ends
    return {name: 1e3 * s for name, s in times.items()} | {"bound": made.bound}


def _measured(taken: Measurement | None) -> dict[str, Any]:
    if taken is None:
        return {}
    ends = {"measured_low_ms": taken.low_s, "measured_high_ms": taken.high_s}
    times = {"measured_ms": taken.seconds} | ends
    line = {name: 1e3 * s for name, s in times.items()}
    return line | {"n": taken.n, "compile_s": taken.compile_s}


def _lost(point: Point, judged: Mapping[Any, Quality]) -> dict[str, Any]:
    if point.recipe.precision == "fp32" and point.recipe.cache in LOSSLESS:
        return {"kl_nats": 0.0, "top1": 1.0, "max_abs": 0.0}  # the reference itself
    found = judged.get(model_of(point))
    names = ("kl_nats", "top1", "max_abs")
    return {name: getattr(found, name) for name in names} if found else {}


def qualities(records: Iterable[Record]) -> dict[Any, Quality]:
    """What each model lost, by weights, precision and what its cache keeps."""
    return {model_of(r.point): r.quality for r in records if r.quality is not None}


def model_of(point: Point) -> tuple[Any, ...]:
    """Points with the same have the same logits, but for rounding of other kernels."""
    recipe = point.recipe
    packed = "" if recipe.cache in LOSSLESS else recipe.cache
    return point.shape, point.weights, recipe.precision, recipe.scope, packed


def _estimate(record: Record, profile: Device | None) -> Estimate | None:
    if profile is None:
        return record.estimate
    try:
        return estimate([record.point], profile)[0]
    except ValueError:  # a precision that the device does not have
        return None


def _gains(records: Sequence[Record], ms: pd.Series, baseline: str) -> list[float]:
    """The baseline's ms over each line's, None where either is missing."""
    base = {
        _call(record.point): value
        for record, value in zip(records, ms, strict=True)
        if record.point.recipe.precision == baseline
    }
    own = zip(records, ms, strict=True)
    return [
        base.get(_call(record.point), float("nan")) / value for record, value in own
    ]


def _call(point: Point) -> Point:
    """The point in fp32, else the same: equal for calls that differ in precision."""
    recipe = replace(point.recipe, precision="fp32", scope="layers")
    return replace(point, recipe=recipe)


def reasons(points: Iterable[Point], device: Device) -> pd.DataFrame:
    """What arithmetic, memory and the host of each call would take alone, in ms.

    Arithmetic at the peak of what each operation computes in, bytes at the bandwidth of
    the device's memory; precisions that the device cannot do are left out.
    Few rows come first.
    """
    import pandas as pd

    able = [point for point in points if device.can(point.recipe.precision)]
    found = pd.DataFrame([_reasons(point, device) for point in able])
    return found.sort_values("rows", kind="stable", ignore_index=True)


def _reasons(point: Point, device: Device) -> dict[str, Any]:
    cost, work = costs_of(point), point.workload
    rates = [device.product_rate(name) for name in cost.precisions]
    moved = cost.matrix[:, WEIGHTS : KV_WRITE + 1].sum()
    flops = sum(f / rate for f, rate in zip(cost.matrix[:, CAUSAL], rates, strict=True))
    return {
        **{"phase": work.phase, "batch": work.batch, "rows": rows_of(point)},
        "precision": point.recipe.precision,
        "arithmetic ms": 1e3 * flops,
        "memory ms": 1e3 * moved / device.bandwidth,
        "launches ms": 1e3 * cost.totals[LAUNCHES] * device.launch_s,
        "MB moved": moved / 1e6,
        "GFLOP": cost.totals[CAUSAL] / 1e9,
    }


def gain_curves(
    point: Point,
    device: Device,
    precisions: Sequence[str],
    most: int = 256,
    baseline: str = "bf16",
) -> dict[str, pd.DataFrame]:
    """Estimated speed-up over the baseline at batches up to `most`, by precision.

    Columns: batch, ms, gain, bound, extrapolated. Precisions that the device lacks,
    or whose groups do not divide the widths, are left out; ValueError where the device
    lacks the baseline.
    """
    import pandas as pd

    device.product_rate(baseline)
    batches = batches_to(most)
    made = {
        name: estimate([batched(_as(point, name), b) for b in batches], device)
        for name in dict.fromkeys([baseline, *precisions])
        if runs(device, name) and divides(point, name)
    }
    base = [one.seconds for one in made[baseline]]
    return {
        name: pd.DataFrame(
            {
                "batch": batches,
                "ms": [1e3 * one.seconds for one in found],
                "gain": [b / one.seconds for b, one in zip(base, found, strict=True)],
                "bound": [one.bound for one in found],
                "extrapolated": [one.extrapolated for one in found],
            }
        )
        for name, found in made.items()
    }


def _as(point: Point, precision: str) -> Point:
    return replace(point, recipe=Recipe(precision, runtime=point.recipe.runtime))


def runs(device: Device, precision: str) -> bool:
    """Whether the device can do a precision: fp8 only where it has a peak for it."""
    eight = FORMATS[precision].weights == "fp8"
    return device.can(precision) and (not eight or "fp8" in device.peak_flops)


def divides(point: Point, precision: str) -> bool:
    """Whether the groups of a precision divide the widths of the point's model."""
    group, shape = FORMATS[precision].group, point.shape
    widths = (shape.hidden, shape.heads * shape.head_dim, shape.ffn)
    return not group or not any(width % group for width in widths)


def crossing(curve: pd.DataFrame) -> float:
    """The smallest batch from which on a precision is not faster; inf if there is none.

    In between two batches of the curve it is put where a straight line, in log batch
    and log gain, crosses one.
    """
    import numpy as np

    gain, batch = np.log(curve["gain"].to_numpy(float)), np.log(curve["batch"])
    faster = np.flatnonzero(gain > 0)
    if not faster.size:
        return float(curve["batch"].iloc[0])
    last = int(faster[-1])
    if last + 1 == len(gain):
        return float("inf")
    share = gain[last] / (gain[last] - gain[last + 1])
    return float(np.exp(batch[last] + share * (batch[last + 1] - batch[last])))


def together(*tables: pd.DataFrame) -> pd.DataFrame:
    """Lines of several tables of one model, each call once."""
    import pandas as pd

    filled = [table for table in tables if len(table)]
    joined = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return joined.drop_duplicates(CALL, ignore_index=True)


def spread(table: pd.DataFrame) -> str:
    """How many samples stand behind the medians, and how wide their intervals are."""
    taken = table[table["n"].notna()]
    if taken.empty:
        return "nothing measured"
    width = (taken["measured_high_ms"] - taken["measured_low_ms"]) / taken[
        "measured_ms"
    ]
    n = taken["n"].astype(int)
    return (
        f"n {n.min()} to {n.max()}, 95 % intervals ±{50 * width.median():.1f} % in the "
        f"median, ±{50 * width.max():.0f} % at most"
    )

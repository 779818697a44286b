"""How far off estimates are, as tables: held-out rows, methods, terms, waterfalls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.cost.ops import PRODUCTS
from fastlab.latency.devices import Device
from fastlab.latency.explain import waterfall
from fastlab.latency.fit import fit
from fastlab.latency.roofline import EFFICIENCIES
from fastlab.latency.samples import ATTENTION, Sample, class_of
from fastlab.record import Record
from fastlab.rows import table
from fastlab.scores.ablation import VARIANTS, ablations
from fastlab.scores.scoreboard import (
    HOLDOUTS,
    NOISE,
    ROWS,
    Errors,
    Predictions,
    Scoreboard,
    predictions,
)
from fastlab.view.words import samples

if TYPE_CHECKING:
    import pandas as pd

ERRORS = ("n", "median", "mean", "p90", "bias")
LEFT = "residual"
NEARBY = {"without residual": "without nearby"}  # one word for it and for its step
KNOWN = {"hidden": "hidden sizes", "seq": "prompt lengths", "batch": "batches"}
KNOWN |= {"layers": "depths", "family": "families", ROWS: "rows"}
UNFITTED = "a roofline; `fastlab calibrate` would fit a better model"
SAME = 0.5  # points of median error that do not count as a difference
FULL = next(iter(VARIANTS))
ARITHMETIC = (*PRODUCTS, *ATTENTION)  # the classes with arithmetic to speak of


def held_out(
    records: Iterable[Record], device: Device, holdout: str = "hidden"
) -> pd.DataFrame:
    """Rows as `table` makes them, each estimate made without its `holdout` value."""
    return predicted(predictions(records, device, holdout))


def knowing(holdout: str) -> str:
    """What held-out estimates were made from: "other hidden sizes known (held out)"."""
    return f"other {KNOWN[holdout]} known (held out)"


def guessed(percents: Mapping[str, float | None]) -> str:
    """The end of a caption: what the reader guessed, or "" where that is nothing."""
    said = [f"{v:g} % for {name}" for name, v in percents.items() if v is not None]
    return f"; you guessed {', '.join(said)}" if said else ""


def sampled(records: Iterable[Record]) -> str:
    """How many points were measured, and with how many samples each, in words."""
    return samples(table(records))


def predicted(made: Predictions) -> pd.DataFrame:
    """The table of predictions: the held-out seconds and interval as the estimate."""
    found = zip(made.found.seconds, made.found.low, made.found.high, strict=True)
    return table(
        replace(row, estimate=replace(e, seconds=s, low_s=low, high_s=high))
        for row, e, (s, low, high) in zip(made.rows, made.estimates, found, strict=True)
    )


def calibration(device: Device) -> pd.DataFrame:
    """What estimates of the device stand on, and what to type if that is too little."""
    import pandas as pd

    fits = device.fits
    known = {"points": fits.count, "seconds": fits.seconds} if fits else {}
    model = "fits of its microbenchmarks" if fits else UNFITTED
    precisions = ", ".join(device.peak_flops)
    line = {"device": device.name, "estimates from": model, "precisions": precisions}
    return pd.DataFrame([line | known])


def errors(found: Iterable[Errors], title: str = "method") -> pd.DataFrame:
    """|error| in % of the measured time: median, mean, p90, and the signed median."""
    import pandas as pd

    rows = [{title: e.name} | {k: getattr(e, k) for k in ERRORS} for e in found]
    return pd.DataFrame(rows)


def methods(board: Scoreboard) -> pd.DataFrame:
    """The scoreboard's methods, best first, with the floor that no method can beat."""
    found = errors(sorted(board.methods, key=lambda e: e.median))
    found.loc[found["method"] == NOISE, "bias"] = np.nan  # noise has no direction
    return found


def speedups(board: Scoreboard) -> pd.DataFrame:
    """|error| in % of predicted speed-ups: pairs of rows that differ in one field."""
    import pandas as pd

    found = pd.DataFrame(map(asdict, board.speedups))
    return found.rename(columns={"field": "what changes", "n": "pairs"})


def holdouts(records: Iterable[Record], device: Device) -> pd.DataFrame:
    """Errors by what is left out; a field with one value only says so."""
    import pandas as pd

    rows, records = [], list(records)
    for name in (ROWS, *HOLDOUTS):
        try:
            rows.append({"left out": name, **_holdout(records, device, name)})
        except ValueError as error:
            rows.append({"left out": name, "why not": str(error)})
    return pd.DataFrame(rows)


def _holdout(records: Sequence[Record], device: Device, name: str) -> dict[str, Any]:
    made = predictions(records, device, name)
    off, folds = made.errors(), len(np.unique(made.folds))
    figures = {k: getattr(off, k) for k in ERRORS[1:]}
    inside = made.found.coverage(made.measured)
    return {"times": folds, **figures, "inside": inside, "half": made.found.half_width}


def waterfalls(rows: Iterable[Record], device: Device) -> pd.DataFrame:
    """ms that each step adds, for every measured record, and LEFT: what none explains.

    Columns: point, step, from_ms, ms. Steps that add nothing to any are not there.
    ValueError where no record was measured.
    """
    import pandas as pd

    rows = list(rows)
    lines = [line for row in rows if row.measured for line in _steps(row, device)]
    if not lines:
        found = ", ".join(f"{r.point.label} {r.status}" for r in rows) or "no rows"
        raise ValueError(f"nothing measured to explain: {found}")
    made = pd.DataFrame(lines)
    adds = made.groupby("step")["ms"].transform(lambda ms: (ms != 0).any())
    return made[adds | (made["step"] == LEFT)].reset_index(drop=True)


def _steps(row: Record, device: Device) -> Iterator[dict[str, Any]]:
    assert row.measured is not None
    added, reached = waterfall(row.point, device), 0.0
    left = row.measured.seconds - sum(added.values())
    for step, seconds in (added | {LEFT: left}).items():
        label = {"point": row.point.label, "step": step}
        yield {**label, "from_ms": 1e3 * reached, "ms": 1e3 * seconds}
        reached += seconds


def ablation(
    samples: Sequence[Sample], device: Device, precisions: Sequence[str] = ()
) -> pd.DataFrame:
    """Median |error| in % of samples left out of the fit, one line for each fit.

    Of the samples of these precisions; of all where there are none. Columns: class,
    precision, then the full model, those without a term, baselines; NaN where a fit has
    no such term. nearby = the fit's residual, which the waterfall calls so. Classes
    with no sample to spare are left out.
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in [s for s in samples if s.precision in precisions] or samples:
        groups[class_of(sample), sample.precision].append(sample)
    found = [
        {"class": kind, "precision": precision, "samples": len(group)}
        | {e.name: e.median for e in ablations(group, device)}
        for (kind, precision), group in groups.items()
        if len(group) > len(fit(group, device).parameters)
    ]
    names = ["class", "precision", "samples", *VARIANTS, *EFFICIENCIES]
    others = [n for n in dict.fromkeys(n for f in found for n in f) if n not in names]
    made = pd.DataFrame(found, columns=names + others)
    return made.dropna(axis="columns", how="all").rename(columns=NEARBY)


def terms(ablated: pd.DataFrame) -> pd.DataFrame:
    """In how many fits the error grows, stays or falls when a term is left out.

    Apart for operations with arithmetic, and for those that only move bytes.
    """
    import pandas as pd

    arithmetic = ablated["class"].isin(ARITHMETIC)
    among = {"products, attention": arithmetic, "bytes moved": ~arithmetic}
    rows = [
        _term(name, where, (ablated[name] - ablated[FULL])[mine].dropna())
        for where, mine in among.items()
        for name in (NEARBY.get(name, name) for name in VARIANTS)
        if name in ablated and name != FULL
    ]
    return pd.DataFrame([row for row in rows if row["fits"]])


def _term(name: str, where: str, change: pd.Series) -> dict[str, Any]:
    worse, better = int((change > SAME).sum()), int((change < -SAME).sum())
    return {
        "left out": name.removeprefix("without "),
        "among": where,
        "fits": len(change),
        "worse": worse,
        "same": len(change) - worse - better,
        "better": better,
        "median change": float(change.median()),
        "pays": "yes" if worse > better else "no",
    }

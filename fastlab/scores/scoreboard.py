"""How far off are estimates of rows that nothing was fitted to?

Whole values of a field (a hidden size, a length) are left out in turn. What the rest
of the rows can teach is a correction of the device's model for each way of running one:
their median ratio, and a residual around it. The baselines see the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastlab.cost.article import article_as_printed
from fastlab.cost.passes import passes
from fastlab.latency.costs import CAUSAL, FLOPS, MOVED, costs_of
from fastlab.latency.devices import Device, datasheet_row
from fastlab.latency.estimates import EFFICIENCIES, estimate
from fastlab.record import Estimate, Record
from fastlab.scores.correction import Errors, Predicted, held_out
from fastlab.scores.speedups import speedups
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point

HOLDOUTS: Mapping[str, Callable[[Point], Any]] = {
    "hidden": lambda point: point.built_shape.hidden,
    "seq": lambda point: point.workload.prompt_len,
    "batch": lambda point: point.workload.batch,
    "layers": lambda point: point.built_shape.layers,
    "family": lambda point: point.shape.family,
}
ROWS = "rows"  # every tenth row instead of whole values: too easy, for comparison
SLICES = 10
NOISE = "repeat noise"


class Predictions(NamedTuple):
    """Rows, their estimates and seconds, and what other folds make of the estimates."""

    rows: list[Record]
    estimates: list[Estimate]
    measured: np.ndarray
    folds: np.ndarray
    found: Predicted
    skipped: list[str]

    @property
    def points(self) -> list[Point]:
        """The rows' points."""
        return [row.point for row in self.rows]

    def errors(self) -> Errors:
        """How far off the held-out predictions are."""
        return Errors.of("fastlab, held out", self.found.seconds, self.measured)


@dataclass(frozen=True)
class Scoreboard:
    """Errors of each method on all rows, of the first one by group, and the rest.

    coverage = % of rows within their predicted interval; half_width = the median of
    its half in %, alone_ the same where no row was used; points and seconds = what the
    calibration took.
    """

    device: str
    holdout: str
    methods: tuple[Errors, ...]
    groups: tuple[Errors, ...]
    speedups: tuple[Errors, ...]
    coverage: float
    half_width: float
    alone_coverage: float
    alone_half_width: float
    points: int
    seconds: float
    skipped: tuple[str, ...]

    @property
    def line(self) -> str:
        """The first method's figures on one line, for machines."""
        e = self.methods[0]
        figures = f"median={e.median:.1f} mean={e.mean:.1f} p90={e.p90:.1f}"
        rest = f"bias={e.bias:.1f} n={e.n} points={self.points}"
        return f'{figures} {rest} seconds={self.seconds:.0f} device="{self.device}"'


def score(
    records: Iterable[Record],
    device: Device,
    holdout: str = "hidden",
    model: str = "auto",
) -> Scoreboard:
    """Score `model` on rows measured on `device`, each value of `holdout` left out.

    The device's row of data/devices.csv feeds the baselines, or else its own peaks.
    ValueError as `predictions`.
    """
    made = predictions(records, device, holdout, model)
    ends = np.array([(e.seconds, e.low_s, e.high_s) for e in made.estimates])
    found, alone, measured = made.found, Predicted(*ends.T), made.measured
    return Scoreboard(
        device.name,
        holdout,
        (made.errors(), *_methods(made, device)),
        tuple(_groups(made)),
        tuple(speedups(made.points, found.seconds, measured)),
        *(found.coverage(measured), found.half_width),
        *(alone.coverage(measured), alone.half_width),
        *((device.fits.count, device.fits.seconds) if device.fits else (0, 0.0)),
        tuple(made.skipped),
    )


def predictions(
    records: Iterable[Record],
    device: Device,
    holdout: str = "hidden",
    model: str = "auto",
) -> Predictions:
    """Every usable row as predicted without the rows that share its `holdout` value.

    Rows that cannot be scored are listed with the reason. ValueError for rows of other
    devices, fewer than two values of `holdout`, or an unknown name.
    """
    check_choice("holdout", holdout, (*HOLDOUTS, ROWS))
    every = [(record, _fault(record, device)) for record in records]
    skipped = [f"{record.point.label}: {fault}" for record, fault in every if fault]
    rows = [record for record, fault in every if not fault]
    measured = np.array([row.measured.seconds for row in rows if row.measured])
    points = [row.point for row in rows]
    folds = _folds(points, holdout)
    estimates = estimate(points, device, model)
    found = held_out(points, estimates, measured, folds)
    return Predictions(rows, estimates, measured, folds, found, skipped)


def _fault(record: Record, device: Device) -> str:
    """Why a row cannot be scored, "" if it can; ValueError for another device's."""
    if record.device != device.name:
        other = f"a row of {record.device} cannot be scored against"
        raise ValueError(f"{other} {device.name}")
    if record.status != "ok":
        return f"status {record.status} {record.reason}".strip()
    if record.measured is None:
        return "not measured"
    if not 0 < record.measured.seconds < math.inf:
        return f"seconds={record.measured.seconds!r} must be finite and > 0"
    precision = record.point.recipe.precision
    return "" if device.can(precision) else f"no {precision} peak"


def _folds(points: Sequence[Point], holdout: str) -> np.ndarray:
    value_of = HOLDOUTS.get(holdout)
    values = [value_of(p) if value_of else i % SLICES for i, p in enumerate(points)]
    names = sorted(set(values))
    if len(names) < 2:
        raise ValueError(
            f"holdout={holdout!r} needs rows of two values of {holdout} or more; "
            f"got {len(points)} usable rows of {names}"
        )
    return np.array([names.index(value) for value in values])


def _methods(made: Predictions, device: Device) -> Iterator[Errors]:
    """Errors of what one would use instead, each on the same rows."""
    sheet = datasheet_row(device.name) or device
    points, measured, folds = made.points, made.measured, made.folds
    printed = np.array([_article(point) for point in points])
    ratio = measured / printed
    constant = np.array([np.median(ratio[folds != fold]) for fold in folds])
    rates = np.array([sheet.product_rate(p.recipe.precision) for p in points])
    costs = [costs_of(point) for point in points]
    timed = [row.measured for row in made.rows if row.measured]
    found = {
        "fastlab, no row used": np.array([e.seconds for e in made.estimates]),
        "article x constant": printed * constant,
        "FLOPs / datasheet peak": np.array([c.totals[FLOPS] for c in costs]) / rates,
    }
    for name, (compute, memory) in EFFICIENCIES.items():
        each = zip(costs, compute * rates, strict=True)
        speed = memory * sheet.bandwidth
        found[name] = np.array([_roofline(c.matrix, peak, speed) for c, peak in each])
    found[NOISE] = measured + np.array([(one.high_s - one.low_s) / 2 for one in timed])
    for name, seconds in found.items():
        yield Errors.of(name, seconds, measured)


def _article(point: Point) -> float:
    rows, built = sum(step.rows for step in passes(point)), point.built_shape
    return float(article_as_printed(rows, built.layers, built.hidden))


def _roofline(matrix: np.ndarray, peak: float, bandwidth: float) -> float:
    moved = matrix[:, MOVED].sum(axis=1)
    return float(np.maximum(matrix[:, CAUSAL] / peak, moved / bandwidth).sum())


def _groups(made: Predictions) -> Iterator[Errors]:
    names = {
        "regime": [e.bound for e in made.estimates],
        "precision": [p.recipe.precision for p in made.points],
        "phase": [p.workload.phase for p in made.points],
    }
    predicted, measured = made.found.seconds, made.measured
    for title, values in names.items():
        for value in sorted(set(values)):
            mine = np.array(values) == value
            yield Errors.of(f"{title} {value}", predicted[mine], measured[mine])

"""Does every term of the fit earn its place? Errors on samples left out of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastlab.cost.devices import Device
from fastlab.cost.fit import fit, formula, usable
from fastlab.cost.samples import Sample, work_of

VARIANTS = {
    "full model": (),
    "without residual": ("residual",),
    "without overlap exponent (max)": ("sharpness",),
    "without overhead": ("overhead_s",),
    "without depth": ("depth_s",),
    "without rows": ("row_s",),
}
EFFICIENCIES = {"datasheet roofline": (1.0, 1.0), "efficiencies 0.7 / 0.9": (0.7, 0.9)}


@dataclass(frozen=True)
class Errors:
    """Absolute errors in % of the measured time, and their signed median (bias)."""

    name: str
    n: int
    median: float
    mean: float
    p90: float
    bias: float

    @classmethod
    def of(cls, name: str, predicted: np.ndarray, measured: np.ndarray) -> Errors:
        """The errors of predicted against measured; all NaN where there are none."""
        signed = 100 * (np.asarray(predicted) / np.asarray(measured) - 1)
        if not len(signed):
            return cls(name, 0, *(float("nan"),) * 4)
        off = np.abs(signed)
        found = np.median(off), off.mean(), np.quantile(off, 0.9), np.median(signed)
        return cls(name, len(signed), *map(float, found))


def ablations(
    samples: Sequence[Sample], device: Device, folds: int | None = None
) -> list[Errors]:
    """The fit with and without each term, scored on samples it did not see.

    Each sample in turn, or each of `folds` parts, is predicted by a fit of the others.
    Then the datasheet's roofline, typical efficiencies, and FLOPs / peak. ValueError as
    `fit`.
    """
    good, _ = usable(samples)
    times = np.array([sample.seconds for sample in good])
    whole = fit(good, device).parameters
    kept = {k: v for k, v in VARIANTS.items() if not v or v[0] in {*whole, "residual"}}
    found = {
        name: _left_out(good, device, terms, folds or len(good))
        for name, terms in kept.items()
    }
    found |= _baselines(good, device)
    return [Errors.of(name, seconds, times) for name, seconds in found.items()]


def _left_out(
    samples: Sequence[Sample], device: Device, without: Sequence[str], folds: int
) -> np.ndarray:
    fold = np.arange(len(samples)) % min(folds, len(samples))
    seconds = np.empty(len(samples))
    for number in np.unique(fold):
        rest = [s for s, own in zip(samples, fold, strict=True) if own != number]
        held = [s for s, own in zip(samples, fold, strict=True) if own == number]
        fitted = fit(rest, device, without)
        seconds[fold == number] = fitted.predict(work_of(held))[0]
    return seconds


def _baselines(samples: Sequence[Sample], device: Device) -> dict[str, np.ndarray]:
    work, bandwidth = work_of(samples), device.bandwidth
    if not work.flops.any():
        return {"datasheet bandwidth": work.bytes / bandwidth}
    peak = device.product_rate(samples[0].precision)
    found = {
        name: formula({"peak": compute * peak, "bandwidth": moved * bandwidth}, work)
        for name, (compute, moved) in EFFICIENCIES.items()
    }
    return found | {"FLOPs / datasheet peak": work.flops / peak}
